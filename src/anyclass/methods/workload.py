"""`Workload`: what a fit needs and costs, for `plan` and for messages before a fit."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from anyclass.backbone import Part
from anyclass.captioning import CostEstimate
from anyclass.data import Classes, ImageDataset
from anyclass.data.classes import plural
from anyclass.errors import RequestError
from anyclass.training.two_views import TwoViewTuning


@dataclass(frozen=True)
class TextTraining:
    """Texts that pass the text encoder forwards and backwards in training, at most."""

    epochs: int
    """Epochs over the labelled images."""
    batch_size: int
    """Images per step; all if there are fewer."""
    per: Literal["step", "image"]
    """What needs texts: each step, or each image."""
    every_class: bool = True
    """Whether each of them needs a text for every class; otherwise it needs one."""

    def texts(self, images: int, classes: int) -> int:
        """Number of texts for so many labelled `images` and `classes`."""
        if not images:
            return 0
        steps = -(-images // min(self.batch_size, images))
        times = self.epochs * (steps if self.per == "step" else images)
        return times * (classes if self.every_class else 1)


@dataclass(frozen=True)
class Workload:
    """Needs and cost of a fit, in addition to embedding the test views and the class prompts."""

    trains: Part | None = None
    """Trained part of the encoders; None: none."""
    divisible: bool = False
    """Whether several processes can share the training (torchrun)."""
    views: int = 0
    """Cached augmented views per image."""
    pairs: TwoViewTuning | None = None
    """Settings of training on pairs of views; `plan` estimates its time for the starter only."""
    labelled_views: int = 0
    """Augmented views of each labelled image, at most."""
    shots: int | None = None
    """Largest number of labelled images per class that are used; None: all."""
    text_training: tuple[TextTraining, ...] = ()
    """Training through the text encoder."""
    text_epochs: int = 0
    """Epochs of pairs for the text embedding synthesizer before that (GET)."""
    captions: CostEstimate = CostEstimate()
    """Upper bound of the cost of captions."""
    remarks: tuple[str, ...] = ()
    """What to know of these settings before a fit, one sentence each."""
    needs_labels: bool = False
    """Whether an image must have a label."""
    least_names: int = 0
    """Smallest number of classes with a name."""
    clusters: Literal["unlabelled", "all", "further", "prototypes"] | None = None
    """What is divided into classes: the unlabelled images into all of them, all images into all of
    them, the unlabelled images into the classes without a label, or images among prototypes, some
    of which may get none. None: nothing."""

    def labelled(self, dataset: ImageDataset) -> int:
        """Number of labelled images that are trained on, where `shots` limits them."""
        counts = np.bincount(dataset.labels[dataset.labels >= 0])
        return int(np.minimum(counts, len(dataset) if self.shots is None else self.shots).sum())

    def check_clusters(self, dataset: ImageDataset) -> None:
        """Check that there are enough classes, and enough images for them.

        Args:
            dataset: images, the labels to train on, and classes.

        Raises:
            RequestError: there are too few classes or images.
        """
        if self.clusters is None:
            return
        total = dataset.classes.total
        if total < 2:
            more = 2 - len(dataset.classes)
            raise RequestError(
                f"there is one class in all, and two or more are needed: use --unknown {more} or "
                "more, or name another class (--classes FILE)"
            )
        free = int(np.sum(dataset.labels < 0))
        further = total - len(np.unique(dataset.labels[dataset.labels >= 0]))
        if not free and self.clusters == "unlabelled":
            raise RequestError(
                "every image has a label, and the images without one are clustered: give "
                "unlabelled images as well, or cluster all (--fit-on all)"
            )
        if not free and further and self.clusters in ("further", "prototypes"):
            raise RequestError(
                "every image has a label: no image is left to discover classes in; give unlabelled "
                "images as well"
            )
        wanted = further if self.clusters == "further" else total
        whole = self.clusters in ("all", "prototypes")
        images = len(dataset) if whole else free
        if wanted > images:
            where = plural(images, "image") + ("" if whole else " without a label")
            raise RequestError(
                f"{plural(wanted, 'class')} cannot be found in {where}; ask for fewer (--unknown, "
                "--classes)"
            )


def refuse_one_class(classes: Classes, method: str) -> None:
    """Require two classes; `method` is the name in the message.

    Raises:
        RequestError: fewer than two classes.
    """
    if len(classes) < 2:
        raise RequestError(f"{method} needs two or more class names (--classes FILE)")
