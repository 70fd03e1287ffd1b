"""The methods; `METHODS` is the only list of them."""

from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import Photos
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
        self, clip: Backbone, photos: Photos, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from the pictures; the model is left as it is, `scratch` survives a kill."""


METHODS: dict[str, Any] = {
    "latteclip": LatteClip,
    "latteclip-plus": LatteClipPlus,
    "ship": Ship,
    "ship-plus": ShipPlus,
    "zero_shot": ZeroShot,
    "flyp": Flyp,
    "reclip": Reclip,
    "coop": CoOp,
    "cocoop": CoCoOp,
    "clip_adapter": ClipAdapter,
    "tip_adapter": TipAdapter,
    "gda": Gda,
    "get": Get,
    "get-plus": GetPlus,
    "simgcd": SimGcd,
    "gcd": Gcd,
    "kmeans": KMeans,
}
"""Name on the command line -> its class."""


def suggest(photos: Photos, unknown: int | Literal["auto"] = 0) -> tuple[str, Method, list[str]]:
    """The best method for what is known of the classes, and the facts that decided it.

    Args:
        photos: pictures, labels and classes.
        unknown: how many further classes there are; auto: some, their number is to be estimated.
    """
    classes, labelled = photos.classes, int((photos.labels >= 0).sum())
    if unknown:
        return _discovery(len(photos), labelled, len(classes.labelled), unknown)
    if len(classes) < 2:
        return (
            "zero_shot",
            ZeroShot(),
            ["a single class cannot be told from others: zero-shot only"],
        )
    if classes.labelled and classes.named:
        return (
            "ship-plus",
            ShipPlus(),
            [
                f"{len(classes.labelled)} classes have {labelled} labelled pictures and "
                f"{len(classes.named)} only a name: SHIP-plus learns from labels and names"
            ],
        )
    named = f"all {len(classes)} classes have a name"
    why = [f"{named} and no picture has a label: LatteCLIP-plus learns from names alone"]
    if labelled:
        why = [
            f"{named}, {labelled} of {len(photos)} pictures have a label: LatteCLIP-plus learns "
            "from names alone, the labels only score it"
        ]
    return "latteclip-plus", LatteClipPlus(), why


def _discovery(
    pictures: int, labelled: int, known: int, unknown: int | Literal["auto"]
) -> tuple[str, Method, list[str]]:
    """The method for classes without a name."""
    further = "some" if unknown == "auto" else unknown
    if labelled:
        why = f"{known} classes have {labelled} labelled pictures and {further} further ones have "
        said = f"{why}not even a name: GET-plus discovers them among the other pictures"
        return "get-plus", GetPlus(), [said]
    why = f"{further} classes have no name and no picture has a label"
    return "kmeans", KMeans(), [f"{why}: k-means groups the {pictures} pictures by their features"]
