"""The files of a saved classifier: `classifier.json` and `classifier.safetensors`.

The JSON contains the method, its hyper-parameters, the classes, the base model, and the kind of
representation and head. The tensors are

    weights        (C, E) weights of the head, or its text features
    bias           (C,) bias of a linear head, optional
    head.NAME      further tensors of the head, see `FORMATS`
    parameter.NAME trained parameters of the model, by name
    fingerprint    (3, E) features of three synthetic images, to check the base model
    class_text     (C, D) instead, if it was fitted on features: class texts, 0 where there is none;
                   discovered classes have no row

Version 0.1 wrote the same layout, but method names with underscores.
"""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StrictBool,
    ValidationError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cosine_similarity

from anyclass.backbone import Backbone, EngineName, Part
from anyclass.backbone.loading import absolute_id
from anyclass.classifier.class_edits import ClassEdits, EditedClasses
from anyclass.classifier.heads import (
    Adapter,
    CacheModel,
    CosineHead,
    FittedHead,
    Head,
    MetaNet,
    WhitenedLinear,
    edited,
    edits_of,
    fitted_head,
)
from anyclass.classifier.precomputed import AnyRepresentation, Precomputed
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.classifier.representation import Representation, Space
from anyclass.data import Classes
from anyclass.errors import AnyclassError, ModelError, RequestError
from anyclass.estimators.linear import Linear
from anyclass.estimators.open_world_model import OpenWorldModel
from anyclass.estimators.whitening import WhitenedPCA
from anyclass.files import atomic_write, read_json, write_json

MIN_COSINE = 0.9999
"""Smallest cosine between fingerprints of the same model on two machines."""

TENSORS = "classifier.safetensors"
SETTINGS = "classifier.json"
HEAD = "head."
PARAMETER = "parameter."


class HeadFormat(NamedTuple):
    """Format of a head in the file."""

    tensors: Mapping[str, str]
    """Name of a tensor -> its axes: C classes, D dimensions, E columns of `weights`, other
    letters of any length."""
    numbers: tuple[str, ...] = ()
    """Names of the numbers."""
    optional: Mapping[str, str] = {}
    """Tensors that are left out if empty, or that earlier versions did not write."""

    def axes(self, found: Mapping[str, Tensor]) -> dict[str, list[str]]:
        """Axes of the tensors that belong into a file with the tensors `found`."""
        present = {name: axes for name, axes in self.optional.items() if name in found}
        return {name: axes.split() for name, axes in {**self.tensors, **present}.items()}


FORMATS = {
    "adapter": HeadFormat({"w1": "H D", "w2": "D H"}, ("ratio",)),
    "keys": HeadFormat({"keys": "k D", "values": "k C"}, ("alpha", "beta")),
    "conditional": HeadFormat({"context": "L W", "u1": "H D", "c1": "H", "u2": "W H", "c2": "W"}),
    "open-world": HeadFormat(
        {"known": "J E", "scores": "Q"},
        optional={"names": "P D", "nouns": "M D", "cut": "O", "temperature": ""},
    ),
    "spaces": HeadFormat(
        {
            "x_centre": "D",
            "x_whiten": "D D",
            "x_middle": "D",
            "x_axes": "D P",
            "h_centre": "H",
            "h_whiten": "H H",
            "h_middle": "H",
            "h_axes": "H Q",
        },
        ("share",),
    ),
}
"""`kind` in the file -> format of a head with more than `weights` and `bias`."""

KINDS: dict[type[Any], str] = {
    Adapter: "adapter",
    CacheModel: "keys",
    MetaNet: "conditional",
    OpenWorldModel: "open-world",
    WhitenedLinear: "spaces",
}
"""Class of a head -> its `kind` in the file."""


class HeadParts(NamedTuple):
    """A head taken apart; `kind` is None for cosine and linear heads."""

    kind: str | None
    tensors: dict[str, Tensor]
    numbers: dict[str, float]


class Saved(NamedTuple):
    """Content of a saved classifier."""

    representation: AnyRepresentation
    head: Head
    classes: Classes
    method: str
    fields: Mapping[str, Any]


def write(folder: Path, saved: Saved) -> None:
    """Write both files into `folder`, each atomically."""
    head = fitted_head(saved.head)
    edits = edits_of(saved.head, len(saved.classes))
    parts = take_apart(head)
    tensors = {"weights": class_weights(head)}
    tensors |= {f"{HEAD}{name}": tensor for name, tensor in parts.tensors.items()}
    if isinstance(head, Linear) and head.bias is not None:
        tensors["bias"] = head.bias
    representation = saved.representation
    if isinstance(representation, Precomputed):
        tensors["class_text"] = representation.texts.nan_to_num(nan=0.0)
        model = _model_of_features(representation, head)
    else:
        tensors["fingerprint"] = representation.fingerprint()
        part = representation.part
        trained = representation.clip.parameters(part) if part else {}
        tensors |= {f"{PARAMETER}{name}": parameter for name, parameter in trained.items()}
        model = _model_of_images(representation, head)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(folder / TENSORS) as path:
        save_file(tensors, path)
    settings = _Settings(
        format=1,
        method=saved.method,
        fields=dict(saved.fields),
        own=representation.space == "both",
        head={"kind": parts.kind, **parts.numbers} if parts.kind else None,
        pooled=representation.space == "pooled",
        **model,
        **_class_settings(EditedClasses(saved.classes, edits)),
    )
    write_json(folder / SETTINGS, settings.to_json())


def read_classes(folder: Path) -> EditedClasses:
    """Classes of a saved classifier and their edits; no model is loaded.

    Raises:
        ModelError: the file is missing or damaged.
    """
    settings = _settings(folder / SETTINGS)
    classes = Classes.from_json(settings.classes)
    try:
        return EditedClasses(classes, _edits(settings, len(classes)))
    except ValueError as error:
        raise ModelError(f"{folder} is damaged: {error}") from error


def with_classes(folder: Path, changed: EditedClasses) -> dict[str, Any]:
    """The content of `classifier.json` with other classes and edits.

    Raises:
        ModelError: the file is missing or damaged.
    """
    settings = _settings(folder / SETTINGS)
    return settings.model_copy(update=_class_settings(changed)).to_json()


def _class_settings(changed: EditedClasses) -> dict[str, Any]:
    """Classes and edits as settings."""
    edits = changed.edits
    settings = None if edits.changes_nothing else _EditSettings(**edits.to_json())
    return {"classes": changed.classes.to_json(), "edits": settings}


def _edits(settings: "_Settings", classes: int) -> ClassEdits:
    """Edits of a saved classifier.

    Raises:
        ValueError: they do not fit the classes.
    """
    saved = settings.edits
    if saved is None:
        return ClassEdits.none(classes)
    edits = ClassEdits.from_json(saved.members, saved.divided, saved.gates)
    if len(edits.members) != classes:
        raise ValueError("the number of classes differs from its edited classes")
    return edits


def _model_of_images(representation: Representation, head: FittedHead) -> dict[str, Any]:
    """Settings of a classifier with a model."""
    clip = representation.clip
    return {
        "part": representation.part,
        "beside": len(representation.towers) > 1,
        "scale": _own_scale(head, clip.logit_scale),
        "model": clip.model_id,
        "preprocessing": clip.preprocessing.to_json(),
    }


def _model_of_features(representation: Precomputed, head: FittedHead) -> dict[str, Any]:
    """Settings of a classifier that was fitted on features."""
    features = _FeatureSettings(
        width=representation.dimensions,
        extra=representation.extra_width,
        logit_scale=representation.logit_scale,
    )
    return {
        "part": None,
        "scale": _own_scale(head, None),
        "model": None,
        "preprocessing": {},
        "features": features,
    }


def read(
    folder: Path,
    device: str,
    allow_pickle: bool,
    engine: EngineName,
    base: Backbone | None,
    model: str | None = None,
) -> Saved:
    """Read both files; arguments and errors as for `Classifier.load`."""
    settings = _settings(folder / SETTINGS)
    tensors = _tensors(folder / TENSORS)
    if settings.features is not None:
        return _read_of_features(folder, settings, settings.features, tensors)
    if settings.model is None or "fingerprint" not in tensors:
        raise ModelError(f"{folder} is damaged: its model or its fingerprint is missing")
    place = settings.model if model is None else absolute_id(model)
    if base is not None and base.model_id == place:
        clip = base.copy() if settings.part else base
    else:
        clip = Backbone.load(place, device, allow_pickle, engine)
    towers = (clip, clip.copy()) if settings.beside else (clip,)
    representation = Representation(towers, settings.part, settings.space)
    classes = Classes.from_json(settings.classes)
    try:
        edits = _edits(settings, len(classes))
        of_head = {name: tensors.pop(name) for name in list(tensors) if name.startswith(HEAD)}
        _load_parameters(clip, settings.part, tensors)
        if clip.preprocessing.to_json() != settings.preprocessing:
            raise ValueError("its preprocessing differs (size, mean or standard deviation)")
        fingerprint = representation.fingerprint()
        parts = _head_parts(settings.head, of_head)
        sizes = {"C": edits.fitted, "D": fingerprint.shape[1], "E": tensors["weights"].shape[-1]}
        check_parts(parts, sizes)
        _check_fingerprint(fingerprint, tensors)
        _check_shapes(tensors, (edits.fitted, _width(parts, representation)))
        _check_gates(edits, representation)
        head = edited(_head(parts, tensors, settings, representation), edits)
    except ValueError as error:
        raise ModelError(
            f"{folder} does not match {place}: {error}; load the model it was fitted on"
        ) from error
    method = settings.method.replace("_", "-")  # 0.1 wrote zero_shot
    return Saved(representation, head, classes, method, settings.fields)


def _read_of_features(
    folder: Path,
    settings: "_Settings",
    features: "_FeatureSettings",
    tensors: dict[str, Tensor],
) -> Saved:
    """A classifier that was fitted on features; there is no model to load."""
    classes = Classes.from_json(settings.classes)
    try:
        edits = _edits(settings, len(classes))
        text = tensors.pop("class_text", torch.zeros(0, 0))
        if text.ndim != 2 or text.shape[1] != features.width or len(text) > edits.fitted:
            raise ValueError("class_text has another shape")
        text[~text.any(1)] = torch.nan
        text = edited_texts(text, edits)
        representation = Precomputed(
            features.width, features.extra, text, features.logit_scale, settings.space
        )
        of_head = {name: tensors.pop(name) for name in list(tensors) if name.startswith(HEAD)}
        parts = _head_parts(settings.head, of_head)
        check_parts(parts, {"C": edits.fitted, "D": features.width})
        _check_shapes(tensors, (edits.fitted, _width(parts, representation)))
        _check_gates(edits, representation)
        head = edited(_head(parts, tensors, settings, representation), edits)
    except ValueError as error:
        raise ModelError(f"{folder} is damaged: {error}") from error
    return Saved(representation, head, classes, settings.method, settings.fields)


class _FeatureSettings(BaseModel):
    """What takes the place of a model."""

    model_config = ConfigDict(extra="forbid")
    width: PositiveInt
    extra: NonNegativeInt
    logit_scale: PositiveFloat


class _EditSettings(BaseModel):
    """Classes that were merged or split after the fit."""

    model_config = ConfigDict(extra="forbid")
    members: list[list[NonNegativeInt]]
    divided: list[tuple[NonNegativeInt, NonNegativeInt]]
    gates: list[list[float]]


class _Settings(BaseModel):
    """`classifier.json`; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")
    format: Literal[1]
    method: str
    fields: dict[str, Any]
    part: Part | None
    beside: StrictBool = False
    own: StrictBool = False
    head: dict[str, str | float] | None = None
    pooled: StrictBool = False
    scale: PositiveFloat | None = None
    classes: dict[str, Any]
    model: str | None
    preprocessing: dict[str, Any]
    features: _FeatureSettings | None = None
    edits: _EditSettings | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; `features` and `edits` only if there are some."""
        content = self.model_dump(mode="json")
        return {k: v for k, v in content.items() if v is not None or k not in ("features", "edits")}

    @property
    def space(self) -> Space:
        """Feature space of the representation."""
        if self.pooled:
            return "pooled"
        return "both" if self.own else "projected"


def take_apart(head: FittedHead) -> HeadParts:
    """Tensors and numbers of a head other than `weights` and `bias`."""
    kind = KINDS.get(type(head))
    if kind is None:
        return HeadParts(None, {}, {})
    source = head.whitening if isinstance(head, WhitenedLinear) else head
    form = FORMATS[kind]
    tensors = {name: getattr(source, name) for name in form.tensors}
    optional = {name: getattr(source, name) for name in form.optional}
    tensors |= {name: tensor for name, tensor in optional.items() if tensor.numel()}
    numbers = {name: float(getattr(source, name)) for name in form.numbers}
    return HeadParts(kind, tensors, numbers)


def check_parts(parts: HeadParts, sizes: Mapping[str, int]) -> None:
    """Check the parts of a head against its format.

    Args:
        parts: kind, tensors and numbers.
        sizes: length of the axes C and D.

    Raises:
        ValueError: the kind is unknown, or parts have other names or shapes, or are not finite.
    """
    kind = parts.kind
    tensors = parts.tensors
    numbers = parts.numbers
    if kind is None:
        return
    if kind not in FORMATS:
        raise ValueError(f"there is no head {kind!r:.50}")
    form = FORMATS[kind]
    if set(numbers) != set(form.numbers):
        raise ValueError(f"the numbers of its head ({kind}) have other names")
    if not all(isfinite(number) for number in numbers.values()):
        raise ValueError(f"the numbers of its head ({kind}) are not finite")
    letters = form.axes(tensors)
    dimensions = {name: len(axes) for name, axes in letters.items()}
    if dimensions != {name: tensor.ndim for name, tensor in tensors.items()}:
        raise ValueError(f"the tensors of its head ({kind}) have other names or dimensions")
    known = dict(sizes)
    for name, axes in letters.items():
        for letter, length in zip(axes, tensors[name].shape, strict=True):
            if known.setdefault(letter, length) != length:
                raise ValueError(f"{name} of its head ({kind}) has another shape")


def class_weights(head: FittedHead) -> Tensor:
    """Tensor that is named `weights` in the file."""
    return head.texts if isinstance(head, Adapter | CacheModel | MetaNet) else head.weights


def _own_scale(head: FittedHead, of_model: Float[Tensor, ""] | None) -> float | None:
    """Inverse temperature of the head; None if it is the model's."""
    if isinstance(head, WhitenedLinear | OpenWorldModel):
        return None
    scale = head.scale
    if isinstance(scale, Tensor) and of_model is not None:
        if torch.equal(scale.cpu(), of_model.cpu()):
            return None
    return float(scale)


def _head_parts(
    settings: Mapping[str, str | float] | None, tensors: Mapping[str, Tensor]
) -> HeadParts:
    """Parts of the head from the two files."""
    found = {name.removeprefix(HEAD): tensor for name, tensor in tensors.items()}
    if settings is None and not found:
        return HeadParts(None, {}, {})
    numbers = dict(settings or {})
    kind = str(numbers.pop("kind", ""))
    return HeadParts(kind, found, {name: float(number) for name, number in numbers.items()})


def _width(parts: HeadParts, representation: AnyRepresentation) -> int:
    """E, number of columns of `weights`."""
    if parts.kind != "spaces":
        return representation.width
    return parts.tensors["h_axes"].shape[1] + parts.tensors["x_axes"].shape[1] + 1


def _head(
    parts: HeadParts,
    tensors: Mapping[str, Tensor],
    settings: _Settings,
    representation: AnyRepresentation,
) -> FittedHead:
    """Build the head from its parts."""
    device = representation.device
    own: dict[str, Any] = {name: tensor.to(device) for name, tensor in parts.tensors.items()}
    own |= parts.numbers
    weights = tensors["weights"].to(device)
    bias = tensors["bias"].to(device) if "bias" in tensors else None
    scale: Tensor | float = settings.scale or _model_scale(representation)
    match parts.kind:
        case "adapter":
            return Adapter(**own, texts=weights, scale=scale)
        case "keys":
            return CacheModel(**own, texts=weights, scale=scale)
        case "conditional":
            if isinstance(representation, Precomputed):
                raise ValueError("a head of kind conditional needs a model")
            learner = _learner(representation.clip, settings.classes["prompts"], own["context"])
            return MetaNet(**own, learner=learner, scale=scale)
        case "spaces":
            return WhitenedLinear(WhitenedPCA(**own), weights)
        case "open-world":
            return OpenWorldModel(weights, **own)
    if bias is None and settings.space != "both":
        return CosineHead(weights, scale)
    return Linear(weights, bias, scale)


def _model_scale(representation: AnyRepresentation) -> Float[Tensor, ""] | float:
    """Inverse temperature of the model."""
    if isinstance(representation, Precomputed):
        return representation.logit_scale
    return representation.clip.logit_scale.detach()


def _learner(clip: Backbone, prompts: list[str], context: Float[Tensor, "L W"]) -> PromptLearner:
    """Prompt learner of the base model."""
    try:
        return PromptLearner(clip, prompts, len(context))
    except RequestError as error:
        raise ValueError(str(error)) from error


def _settings(path: Path) -> _Settings:
    """Read and check the JSON file."""
    _check_file(path)
    try:
        return _Settings.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise ModelError(
            f"{path} is not a classifier of anyclass: {place}: {first['msg']}"
        ) from error
    except AnyclassError as error:
        raise ModelError(str(error)) from error


def _tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors: float32, all numbers finite."""
    _check_file(path)
    try:  # clone: the alignment of memory-mapped tensors changes the rounding of products
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error!s:.200}") from error
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise ModelError(f"{path} is damaged: {name!r:.100} is not float32 or not finite")
    if "weights" not in tensors or not {"fingerprint", "class_text"} & set(tensors):
        raise ModelError(f"{path} is damaged: weights or fingerprint missing")
    return tensors


def _check_file(path: Path) -> None:
    """Refuse a missing file, a pipe and a device."""
    if not path.is_file():
        raise ModelError(f"{path} is missing; give the folder `model` of a run")


@torch.no_grad()
def _load_parameters(clip: Backbone, part: Part | None, tensors: Mapping[str, Tensor]) -> None:
    """Copy the trained parameters into the model; names and shapes must match the part."""
    named = clip.parameters(part) if part else {}
    found = {
        name.removeprefix(PARAMETER): tensor
        for name, tensor in tensors.items()
        if name not in ("weights", "fingerprint", "bias")
    }
    if {n: t.shape for n, t in found.items()} != {n: p.shape for n, p in named.items()}:
        raise ValueError("its trained parameters have other names or shapes")
    for name, tensor in found.items():
        named[name].copy_(tensor)


def _check_fingerprint(now: Float[Tensor, "3 E"], tensors: Mapping[str, Tensor]) -> None:
    """Compare the features of the synthetic images with the saved ones."""
    then = tensors["fingerprint"]
    if now.shape != then.shape:
        raise ValueError("the width of features or the number of classes differs")
    if not cosine_similarity(now, then).min() > MIN_COSINE:
        raise ValueError("its weights differ, as the features of synthetic images show")


def edited_texts(texts: Float[Tensor, "J D"], edits: ClassEdits) -> Float[Tensor, "C D"]:
    """Text features of edited classes: those of the part that a class continues; NaN: none."""
    if edits.changes_nothing:
        return texts
    first = torch.tensor([parts[0] for parts in edits.members])
    found = texts.new_full((len(first), texts.shape[1]), torch.nan)
    has_row = first < len(texts)
    found[has_row] = texts[first[has_row]]
    return found


def _check_gates(edits: ClassEdits, representation: AnyRepresentation) -> None:
    """Compare the length of the gates with the width of a row."""
    if len(edits.gates) and edits.gates.shape[1] != representation.width + 1:
        raise ValueError("the width of features differs from its edited classes")


def _check_shapes(tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> None:
    """Compare the shapes of `weights` and `bias` with C and E."""
    if tensors["weights"].shape != shape:
        raise ValueError("the width of features or the number of classes differs")
    if "bias" in tensors and tensors["bias"].shape != shape[:1]:
        raise ValueError("the number of classes differs")
