"""Published methods and the project's own; `METHODS` is the only list of them."""

from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.features.store import FeatureStore
from anyclass.log import Log
from anyclass.methods.clip_adapter import ClipAdapter
from anyclass.methods.cocoop import CoCoOp
from anyclass.methods.coop import CoOp
from anyclass.methods.flyp import Flyp
from anyclass.methods.gcd import Gcd
from anyclass.methods.gda import Gda
from anyclass.methods.get import Get
from anyclass.methods.get_plus import GetPlus
from anyclass.methods.kmeans import KMeans
from anyclass.methods.latteclip import LatteClip
from anyclass.methods.latteclip_plus import LatteClipPlus
from anyclass.methods.reclip import Reclip
from anyclass.methods.ship import Ship
from anyclass.methods.ship_plus import ShipPlus
from anyclass.methods.simgcd import SimGcd
from anyclass.methods.tip_adapter import TipAdapter
from anyclass.methods.workload import Workload as Workload
from anyclass.methods.zero_shot import ZeroShot


@runtime_checkable
class Method(Protocol):
    """Frozen dataclass of hyper-parameters with a `fit`."""

    discovers: ClassVar[bool]
    """Whether the method discovers classes without a name."""

    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit a classifier.

        Args:
            data: the model, which is not changed, and readable images.
            log: receives the progress.
            scratch: folder of checkpoints, to resume a killed run; None: no checkpoints.
            seed: random seed; the global random state is not used.
        """

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""


METHODS: dict[str, Any] = {
    "latteclip": LatteClip,
    "latteclip-plus": LatteClipPlus,
    "ship": Ship,
    "ship-plus": ShipPlus,
    "zero-shot": ZeroShot,
    "flyp": Flyp,
    "reclip": Reclip,
    "coop": CoOp,
    "cocoop": CoCoOp,
    "clip-adapter": ClipAdapter,
    "tip-adapter": TipAdapter,
    "gda": Gda,
    "get": Get,
    "get-plus": GetPlus,
    "simgcd": SimGcd,
    "gcd": Gcd,
    "kmeans": KMeans,
}
"""Command-line name -> class of the method."""


def suggest(
    dataset: ImageDataset, unknown: int | Literal["auto"] = 0
) -> tuple[str, Method, list[str]]:
    """Choose a method by the labels and names of the classes.

    Args:
        dataset: images, labels and classes.
        unknown: number of classes without a name; auto: to be estimated.

    Returns:
        Name on the command line, method, and the reasons for the choice.
    """
    classes = dataset.classes
    labelled = int((dataset.labels >= 0).sum())
    if unknown:
        return _discovery(len(dataset), labelled, len(classes.labelled), unknown)
    if len(classes) < 2:
        return (
            "zero-shot",
            ZeroShot(),
            ["there is a single class: only zero-shot works with it"],
        )
    if classes.labelled and classes.named:
        return (
            "ship-plus",
            ShipPlus(),
            [
                f"{len(classes.labelled)} classes have {labelled} labelled images and "
                f"{len(classes.named)} only a name: SHIP-plus uses labels and names"
            ],
        )
    named = f"all {len(classes)} classes have a name"
    reason = f"{named} and no image has a label: LatteCLIP-plus needs only names"
    if labelled:
        reason = (
            f"{named}, {labelled} of {len(dataset)} images have a label: LatteCLIP-plus needs "
            "only names, the labels are used for evaluation only"
        )
    return "latteclip-plus", LatteClipPlus(), [reason]


def _discovery(
    images: int, labelled: int, known: int, unknown: int | Literal["auto"]
) -> tuple[str, Method, list[str]]:
    """Choose a method for classes without a name."""
    further = "some" if unknown == "auto" else unknown
    if labelled:
        reason = (
            f"{known} classes have {labelled} labelled images and {further} further classes have "
            "no name: GET-plus discovers them in the other images"
        )
        return "get-plus", GetPlus(), [reason]
    reason = (
        f"{further} classes have no name and no image has a label: k-means clusters the {images} "
        "images by their features"
    )
    return "kmeans", KMeans(), [reason]
