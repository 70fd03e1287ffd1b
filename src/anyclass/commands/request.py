"""What the user asks for: the flags of the command line and the arguments of `fit`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from tyro.conf import arg

from anyclass.backbone import Backbone, EngineName, Precision
from anyclass.backbone.device import torch_device
from anyclass.backbone.engine import has_amx
from anyclass.captioning import CAPTIONERS
from anyclass.data import ImageDataset, near_duplicates
from anyclass.errors import RequestError
from anyclass.methods import METHODS, Method, suggest
from anyclass.naming.suggest import read_words
from anyclass.training.tuning import trained_part
from anyclass.training.two_views import TwoViewTuning, steps_of_epoch

PAIRS_A_MINUTE = 12_800
"""Of views through the starter's last stage, or of texts through its text tower, on two cores."""

TEN = 10
"""Minutes that a user may want to wait."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Request:
    """Which images, what is known of them, and how to run."""

    images: Path
    """Folder of images, walked recursively."""
    classes: Annotated[Path | tuple[str, ...] | None, arg(metavar="FILE|NAME NAME ...")] = None
    """File with one class name a line, or the names themselves."""
    labels: Annotated[str | None, arg(metavar="folders|FILE")] = None
    """`folders` (an image's parent folder is its label) or a table of file_name and label."""
    file_column: str = "file_name"
    """Column of the table that names the images."""
    label_column: str = "label"
    """Column of the table that holds their labels."""
    unknown: Annotated[int, Field(ge=0)] | Literal["auto"] = 0
    """How many further classes to discover; auto: estimated from the labelled images."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the labelled images whose labels are kept back and only score."""
    names: Annotated[Path | None, arg(metavar="FILE")] = None
    """What discovered classes may be called, one a line; by default thousands of common nouns."""
    model: str = "starter"
    """starter, an open_clip name (ViT-B-32/laion2b_s34b_b79k), hf-hub:... or local-dir:..."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of everything random."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, mps."""
    engine: EngineName = "auto"
    """What runs the frozen image tower on a CPU."""
    precision: Precision = "float32"
    """In what towers are trained on a CPU; bf16: twice as fast on a processor with AMX."""
    max_rejected: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Largest share of images that may be unreadable."""
    allow_pickle: bool = False
    """Accept model weights that are not safetensors from a local folder."""

    def dataset(self, split: Literal["fit", "all"] = "fit") -> ImageDataset:
        """The images, with the labels and classes that are known."""
        columns = (self.file_column, self.label_column)
        unknown = 0 if self.unknown == "auto" else self.unknown
        return ImageDataset.read(self.images, self.classes, self.labels, unknown, split, *columns)

    def backbone(self) -> Backbone:
        """The model, loaded."""
        how = (self.torch_device, self.allow_pickle, self.engine, self.precision)
        return Backbone.load(self.model, *how)

    @property
    def torch_device(self) -> str:
        """The device itself."""
        return torch_device(self.device)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, paths absolute."""
        values = asdict(self)
        values["images"] = str(self.images.resolve())
        if isinstance(self.classes, Path):
            values["classes"] = str(self.classes.resolve())
        values["names"] = None if self.names is None else str(self.names.resolve())
        if self.labels not in (None, "folders"):
            values["labels"] = str(Path(str(self.labels)).resolve())
        return values


def check_share(share: float, flag: str = "--max-rejected") -> None:
    """Refuse the value of a flag that is no share."""
    if not 0 <= share <= 1:
        raise RequestError(f"{flag} {share}: give a share between 0 and 1")


def request_of(options: Mapping[str, Any]) -> Request:
    """A request from keyword arguments.

    Raises:
        RequestError: an option is unknown or has a wrong value; the message names it.
    """
    try:
        request = TypeAdapter(Request).validate_python(dict(options))
    except ValidationError as wrong:
        raise RequestError(first_problem(wrong)) from wrong
    if request.names is not None:
        read_words(request.names)  # refused now where it cannot be read, not after the training
    return request


def first_problem(wrong: ValidationError) -> str:
    """The first complaint of pydantic, in one line."""
    first = wrong.errors()[0]
    part = "captioner." if wrong.title in {kind.__name__ for kind in CAPTIONERS.values()} else ""
    flag = f"--{part}{first['loc'][0]}".replace("_", "-")
    given = "" if first["type"].startswith("missing") else f" (got {first['input']!r:.100})"
    return f"{flag}: {first['msg'][:1].lower()}{first['msg'][1:]}{given}"


class Choice(NamedTuple):
    """The method of a run, and how it came about."""

    asked: str
    """What was asked for: the name of a method, or auto."""
    name: str
    """Name of the method."""
    method: Method
    """With its hyper-parameters."""
    why: list[str]
    """The facts that decided it, a sentence each."""


def choose(
    method: Method | str, dataset: ImageDataset, unknown: int | Literal["auto"] = 0
) -> Choice:
    """A method as it is, by its name with its defaults, or for `auto` the one that fits.

    Args:
        method: what was asked for.
        dataset: images, labels and classes.
        unknown: how many classes are to be discovered.

    Raises:
        RequestError: no such method, one that cannot discover classes although some are unknown,
            or nothing is known of the classes.
    """
    asked = method if isinstance(method, str) else _name(method)
    if asked not in ("auto", *METHODS):
        raise RequestError(f"no method is called {asked!r}: use auto, {', '.join(METHODS)}")
    if len(dataset.classes) == 0 and not unknown:
        raise RequestError(
            "nothing is known of the classes: give their names (--classes FILE, one a line), "
            "sort images into folders named by class (--labels folders), or say how many classes "
            "to find (--unknown N)"
        )
    if unknown == "auto" and not (dataset.labels >= 0).any():
        raise RequestError(
            "--unknown auto counts classes with the help of labels, and no image has one: label "
            "some (--labels), or give a number"
        )
    if asked == "auto":
        return Choice(asked, *suggest(dataset, unknown))
    if unknown and not _discovers(METHODS[asked]):
        able = ", ".join(name for name, kind in METHODS.items() if _discovers(kind))
        raise RequestError(
            f"{asked} needs a name for every class, so it cannot look for --unknown {unknown}: "
            f"use auto, {able}, or leave --unknown out"
        )
    chosen = METHODS[asked]() if isinstance(method, str) else method
    return Choice(asked, asked, chosen, [f"{asked} was asked for"])


def _discovers(kind: Any) -> bool:
    """Whether a method finds classes that have no name."""
    return bool(getattr(kind, "discovers", False))


def _name(method: Method) -> str:
    kinds = {kind: name for name, kind in METHODS.items()}
    if type(method) not in kinds:
        raise RequestError(f"{method!r:.100} is no method: use auto, {', '.join(METHODS)}")
    return str(kinds[type(method)])


def remarks(
    dataset: ImageDataset, method: Method, device: str, precision: Precision = "float32"
) -> list[str]:
    """What a user may want to know before anything is computed."""
    pairs = [f"{a!r} and {b!r}" for a, b in near_duplicates(dataset.classes.names)]
    twins = [f"class names that look alike: {', '.join(pairs)}"] if pairs else []
    said = [*dataset.skipped, *twins]
    if device != "cpu":
        return said
    if trained_part(method) == "all":
        said.append("no GPU: training all from pixels takes hours, --tune head takes minutes")
    amx, bf16 = has_amx(), precision == "bf16"
    if bf16 and not amx:
        said.append("this processor has no AMX: --precision bf16 is slower than float32 here")
    rate = PAIRS_A_MINUTE * (2 if amx and bf16 else 1)
    faster = ", with --precision bf16 half of it" if amx and not bf16 else ""
    return [*said, *_long(len(dataset), method, rate, faster)]


def _long(images: int, method: Method, pairs_a_minute: int, faster: str) -> list[str]:
    """How long pairs of views train the last stage of a tower without a GPU, where that is long."""
    tuning = getattr(method, "tuning", None)
    if not isinstance(tuning, TwoViewTuning) or tuning.tune != "tail" or not images:
        return []
    if tuning.views == 0:
        return ["no GPU: --views 0 reads every image anew in each epoch, for hours or days"]
    texts = getattr(method, "tes_epochs", 0) if getattr(method, "text_branch", False) else 0
    size = min(tuning.batch_size, images)
    minutes = size * steps_of_epoch(images, size) / pairs_a_minute  # of an epoch
    asked = minutes * (tuning.epochs + texts)
    if asked <= 2 * TEN:
        return []
    few, fewer = (max(1, int(n * TEN / asked)) if n else 0 for n in (tuning.epochs, texts))
    shorter = f"--epochs {few}" + (f" --tes-epochs {fewer}" if texts else "")
    return [
        f"no GPU: with the starter on two cores training takes about {asked:.0f} minutes, "
        f"with {shorter} about {minutes * (few + fewer):.0f}{faster}"
    ]
