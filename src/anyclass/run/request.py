"""What the user asks for: the flags of the command line and the arguments of `fit`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from anyclass.backbone import Backbone, EngineName
from anyclass.data import Photos, near_duplicates
from anyclass.errors import RequestError
from anyclass.methods import METHODS, Method, suggest

NO_DISCOVERY = (
    "--unknown: discovering classes without a name is not part of this version; "
    "name every class (--classes FILE)"
)


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Request:
    """Which pictures, what is known of them, and how to run."""

    images: Path
    """Folder of pictures, walked recursively."""
    classes: Path | tuple[str, ...] | None = None
    """File with one class name a line (or the names themselves, from Python)."""
    labels: str | None = None
    """`folders` (a picture's parent folder is its label) or a table of file_name and label."""
    unknown: Annotated[int, Field(ge=0)] | Literal["auto"] = 0
    """How many further classes to discover."""
    model: str = "starter"
    """starter, an open_clip name (ViT-B-32/laion2b_s34b_b79k), hf-hub:... or local-dir:..."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of everything random."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, mps."""
    engine: EngineName = "auto"
    """What runs the frozen image tower on a CPU."""
    max_rejected: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Largest share of pictures that may be unreadable."""
    allow_pickle: bool = False
    """Accept model weights that are not safetensors from a local folder."""

    def photos(self, split: Literal["fit", "all"] = "fit") -> Photos:
        """The pictures, with the labels and classes that are known."""
        return Photos.read(self.images, self.classes, self.labels, self._unknown, split)

    def backbone(self) -> Backbone:
        """The model, loaded."""
        return Backbone.load(self.model, self.torch_device, self.allow_pickle, self.engine)

    @property
    def torch_device(self) -> str:
        """The device itself."""
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def _unknown(self) -> int:
        if self.unknown == "auto":
            raise RequestError(NO_DISCOVERY)
        return self.unknown

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, paths absolute."""
        values = asdict(self)
        values["images"] = str(self.images.resolve())
        if isinstance(self.classes, Path):
            values["classes"] = str(self.classes.resolve())
        if self.labels not in (None, "folders"):
            values["labels"] = str(Path(str(self.labels)).resolve())
        return values


def request_of(options: Mapping[str, Any]) -> Request:
    """A request from keyword arguments.

    Raises:
        RequestError: an option is unknown or has a wrong value; the message names it.
    """
    try:
        return TypeAdapter(Request).validate_python(dict(options))
    except ValidationError as wrong:
        raise RequestError(first_problem(wrong)) from wrong


def first_problem(wrong: ValidationError) -> str:
    """The first complaint of pydantic, in one line."""
    first = wrong.errors()[0]
    flag = "--" + ".".join(str(step) for step in first["loc"][:1]).replace("_", "-")
    return f"{flag}: {first['msg'].lower()} (got {first.get('input')!r})"


def choose(name: str, photos: Photos, device: str) -> tuple[str, Method, list[str]]:
    """The method called `name` with its defaults; for `auto` the one that fits, and why.

    Raises:
        RequestError: no such method, or nothing is known of the classes.
    """
    if name not in ("auto", *METHODS):
        raise RequestError(f"no method is called {name!r}: use auto, {', '.join(METHODS)}")
    if len(photos.classes) == 0:
        raise RequestError(
            "nothing is known of the classes: give their names (--classes FILE, one a line), or "
            "sort pictures into folders named by class (--labels folders)"
        )
    if photos.classes.unknown:
        raise RequestError(NO_DISCOVERY)
    if name == "auto":
        return suggest(photos, device)
    return name, METHODS[name](), [f"{name} was asked for"]


def remarks(photos: Photos) -> list[str]:
    """What a user may want to know about the folder before anything is computed."""
    pairs = [f"{a!r} and {b!r}" for a, b in near_duplicates(photos.classes.names)]
    twins = [f"class names that look alike: {', '.join(pairs)}"] if pairs else []
    return [*photos.skipped, *twins]
