"""Published methods and the project's own; `METHODS` is the only list of them."""

from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.data.classes import plural
from anyclass.features.store import FeatureStore
from anyclass.log import Log
from anyclass.methods.clip_adapter import ClipAdapter
from anyclass.methods.cocoop import CoCoOp
from anyclass.methods.coop import CoOp
from anyclass.methods.flyp import Flyp
from anyclass.methods.gcd import Gcd
from anyclass.methods.gda import Gda
from anyclass.methods.get import Get
from anyclass.methods.info import MethodInfo as MethodInfo
from anyclass.methods.info import Situation as Situation
from anyclass.methods.kmeans import KMeans
from anyclass.methods.latteclip import LatteClip
from anyclass.methods.open_world import OpenWorld
from anyclass.methods.reclip import Reclip
from anyclass.methods.ship import Ship
from anyclass.methods.simgcd import SimGcd
from anyclass.methods.tip_adapter import TipAdapter
from anyclass.methods.workload import Workload as Workload
from anyclass.methods.zero_shot import ZeroShot


@runtime_checkable
class Method(Protocol):
    """Frozen dataclass of hyper-parameters with a `fit`."""

    info: ClassVar[MethodInfo]
    """Facts for lists, planning and the report."""
    __dataclass_fields__: ClassVar[dict[str, Any]]
    """The hyper-parameters."""

    def __init__(self, **hyper_parameters: Any) -> None:
        """Set hyper-parameters; the others keep their defaults."""

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


METHODS: dict[str, type[Method]] = {
    "open-world": OpenWorld,
    "latteclip": LatteClip,
    "reclip": Reclip,
    "flyp": Flyp,
    "zero-shot": ZeroShot,
    "ship": Ship,
    "gda": Gda,
    "tip-adapter": TipAdapter,
    "clip-adapter": ClipAdapter,
    "coop": CoOp,
    "cocoop": CoCoOp,
    "get": Get,
    "simgcd": SimGcd,
    "gcd": Gcd,
    "kmeans": KMeans,
}
"""Command-line name -> class of the method, in the order of all lists."""


def suggest(
    dataset: ImageDataset, unknown: int | Literal["auto"] = 0
) -> tuple[str, Method, list[str]]:
    """Choose a method: open-world, for whatever is known of the classes.

    Args:
        dataset: images, labels and classes.
        unknown: number of classes without a name; auto: to be estimated.

    Returns:
        Name on the command line, method, and the reasons for the choice.
    """
    return "open-world", OpenWorld(), [_what_is_known(dataset, unknown)]


def _what_is_known(dataset: ImageDataset, unknown: int | Literal["auto"]) -> str:
    """How many classes are labelled, named and unknown."""
    classes = dataset.classes
    images = int((dataset.labels >= 0).sum())
    found = []
    if classes.labelled:
        given = plural(images, "image")
        found.append(f"{plural(len(classes.labelled), 'class')} with labels ({given})")
    if classes.named:
        found.append(f"{plural(len(classes.named), 'class')} with only a name")
    if unknown == "auto":
        found.append("unknown classes, their number to be estimated")
    elif unknown:
        found.append(plural(unknown, "unknown class"))
    known = ", ".join(found)
    if not len(classes):
        return f"{known}; no class has a label or a name, so all images are clustered"
    if len(classes) == 1 and not unknown:
        return f"{known}; there is no other class, so every image gets it"
    return known
