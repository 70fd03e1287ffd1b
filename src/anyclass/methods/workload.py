"""`Workload`: what a fit needs and costs, for `plan` and for messages before a fit."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from anyclass.backbone import Part
from anyclass.captioning import CostEstimate
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.training.two_views import TwoViewTuning


@dataclass(frozen=True)
class Workload:
    """Needs and cost of a fit, in addition to embedding the test views and the class prompts."""

    trains: Part | None = None
    """Trained part of the encoders; None: none."""
    views: int = 0
    """Cached augmented views per image."""
    pairs: TwoViewTuning | None = None
    """Settings of training on pairs of views; `plan` estimates its time for the starter only."""
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
            where = f"{images} images" + ("" if whole else " without a label")
            raise RequestError(
                f"{wanted} classes cannot be found in {where}; ask for fewer (--unknown, --classes)"
            )
