"""The methods; `METHODS` is the only list of them."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from anyclass.backbone import Backbone
from anyclass.classifier import Classifier
from anyclass.data import Photos
from anyclass.methods.clip_adapter import ClipAdapter
from anyclass.methods.cocoop import CoCoOp
from anyclass.methods.coop import CoOp
from anyclass.methods.flyp import Flyp
from anyclass.methods.gda import Gda
from anyclass.methods.latteclip import LatteClip
from anyclass.methods.latteclip_plus import LatteClipPlus
from anyclass.methods.reclip import Reclip
from anyclass.methods.ship import Ship
from anyclass.methods.ship_plus import ShipPlus
from anyclass.methods.tip_adapter import TipAdapter
from anyclass.methods.zero_shot import ZeroShot
from anyclass.train import Log


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
}
"""Name on the command line -> its class."""


def suggest(photos: Photos) -> tuple[str, Method, list[str]]:
    """The best method for what is known of the classes, and the facts that decided it."""
    classes, labelled = photos.classes, int((photos.labels >= 0).sum())
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
