"""What a method needs of labels, names and images: refused before anything is computed."""

import numpy as np

from anyclass.commands.chosen_method import ChosenMethod
from anyclass.commands.request import Request
from anyclass.commands.second_round import training_labels
from anyclass.data import ImageDataset
from anyclass.data.classes import plural
from anyclass.distributed import launched
from anyclass.errors import RequestError
from anyclass.methods import METHODS, Workload


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
        RequestError: there are too few labels, names or unlabelled images, or settings of the
            method exclude each other.
    """
    if workload.needs_labels and not (dataset.labels >= 0).any():
        raise RequestError(
            f"no image has a label, and {choice.name} needs some: give labels (--labels "
            "folders|FILE), or use auto, which does without"
        )
    if request.holdout and not (dataset.labels >= 0).any():
        raise RequestError("--holdout needs labels (--labels folders|FILE), and there are none")
    if len(dataset.classes) < workload.least_names:
        raise RequestError(f"{choice.name} needs two or more class names (--classes FILE)")
    if workload.pairs is not None:
        workload.pairs.check()
    training_data = training_labels(request, dataset)
    if request.unknown != "auto":
        check_unknown(request.unknown, training_data)
        workload.check_clusters(training_data)


def check_processes(choice: ChosenMethod, workload: Workload) -> None:
    """Refuse several processes for a method that does not share its training among them.

    Args:
        choice: the method.
        workload: what the method trains.

    Raises:
        RequestError: torchrun has started several processes for it.
    """
    if launched() > 1 and not workload.divisible:
        divisible = {name: kind.info.divisible for name, kind in METHODS.items()}
        others = [f"{name} --tune {'|'.join(tunes)}" for name, tunes in divisible.items() if tunes]
        why = "trains no encoder with these settings: one process is enough"
        if workload.trains in ("tail", "all"):
            why = "does not share its training among processes"
        raise RequestError(
            f"{choice.name} {why}, so start it without torchrun (several share {', '.join(others)})"
        )


def check_unknown(unknown: int, training_data: ImageDataset) -> None:
    """Refuse more unknown classes than there are images without a label.

    Args:
        unknown: number of classes to discover.
        training_data: images with the labels to train on.

    Raises:
        RequestError: there are too few unlabelled images.
    """
    free = int(np.sum(training_data.labels < 0))
    if unknown and not free:
        raise RequestError(
            "every image has a label: no image is left to discover classes in; leave --unknown "
            f"{unknown} out, or give unlabelled images as well"
        )
    if unknown > free:
        raise RequestError(
            f"{plural(unknown, 'class')} cannot be found in {plural(free, 'image')} without a "
            "label; ask for fewer (--unknown)"
        )
