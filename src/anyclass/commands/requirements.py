"""What a method needs of labels, names and images: refused before anything is computed."""

import numpy as np

from anyclass.commands.request import ChosenMethod, Request
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.methods import Workload


def check_enough(
    request: Request, choice: ChosenMethod, dataset: ImageDataset, workload: Workload
) -> None:
    """Refuse a fit that cannot work; `plan` and `fit` do so alike.

    Args:
        request: the request of the user.
        choice: the method.
        dataset: images, labels and classes.
        workload: what the method needs.

    Raises:
        RequestError: there are too few labels, names or unlabelled images.
    """
    labelled = dataset.labels >= 0
    names = len(dataset.classes)
    if workload.needs_labels and not labelled.any():
        raise RequestError(
            f"no image has a label, and {choice.name} needs some: give labels (--labels "
            "folders|FILE), or use auto, which does without"
        )
    if names < workload.least_names:
        raise RequestError(f"{choice.name} needs two or more class names (--classes FILE)")
    if request.unknown == "auto" or request.unknown == 0:
        return
    free = len(dataset) if request.holdout else int(np.sum(~labelled))
    if not free:
        raise RequestError(
            "every image has a label: no image is left to discover classes in; leave --unknown "
            f"{request.unknown} out, or give unlabelled images as well"
        )
    if request.unknown > free:
        raise RequestError(
            f"{request.unknown} classes cannot be found in {free} images without a label; ask for "
            "fewer (--unknown)"
        )
