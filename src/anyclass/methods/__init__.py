"""The methods; `METHODS` is the only list of them."""

from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
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
from anyclass.methods.zero_shot import ZeroShot


@runtime_checkable
class Method(Protocol):
    """A frozen dataclass of hyper-parameters that can be fitted."""

    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from the images; the model is left as it is, `scratch` survives a kill."""


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
"""Name on the command line -> its class."""


def suggest(
    dataset: ImageDataset, unknown: int | Literal["auto"] = 0
) -> tuple[str, Method, list[str]]:
    """The best method for what is known of the classes, and the facts that decided it.

    Args:
        dataset: images, labels and classes.
        unknown: how many further classes there are; auto: some, their number is to be estimated.
    """
    classes, labelled = dataset.classes, int((dataset.labels >= 0).sum())
    if unknown:
        return _discovery(len(dataset), labelled, len(classes.labelled), unknown)
    if len(classes) < 2:
        return (
            "zero-shot",
            ZeroShot(),
            ["a single class cannot be told from others: zero-shot only"],
        )
    if classes.labelled and classes.named:
        return (
            "ship-plus",
            ShipPlus(),
            [
                f"{len(classes.labelled)} classes have {labelled} labelled images and "
                f"{len(classes.named)} only a name: SHIP-plus learns from labels and names"
            ],
        )
    named = f"all {len(classes)} classes have a name"
    why = [f"{named} and no image has a label: LatteCLIP-plus learns from names alone"]
    if labelled:
        why = [
            f"{named}, {labelled} of {len(dataset)} images have a label: LatteCLIP-plus learns "
            "from names alone, the labels only score it"
        ]
    return "latteclip-plus", LatteClipPlus(), why


def _discovery(
    images: int, labelled: int, known: int, unknown: int | Literal["auto"]
) -> tuple[str, Method, list[str]]:
    """The method for classes without a name."""
    further = "some" if unknown == "auto" else unknown
    if labelled:
        why = f"{known} classes have {labelled} labelled images and {further} further ones have "
        said = f"{why}not even a name: GET-plus discovers them among the other images"
        return "get-plus", GetPlus(), [said]
    why = f"{further} classes have no name and no image has a label"
    return "kmeans", KMeans(), [f"{why}: k-means groups the {images} images by their features"]
