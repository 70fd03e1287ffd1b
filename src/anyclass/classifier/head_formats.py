"""Heads in files: their tensors and numbers by name, checked against the format of their kind.

The kinds `adapter`, `keys`, `conditional`, `open-world` and `spaces` have more than `weights` and
`bias`; cosine and linear heads have no kind.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.classifier.heads import (
    Adapter,
    CacheModel,
    CosineHead,
    FittedHead,
    MetaNet,
    WhitenedLinear,
)
from anyclass.classifier.precomputed import AnyRepresentation, Precomputed
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.errors import RequestError
from anyclass.estimators.linear import Linear
from anyclass.estimators.open_world_model import OpenWorldModel
from anyclass.estimators.whitening import WhitenedPCA

HEAD = "head."
"""Beginning of the names of the tensors of a head."""


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
    "keys": HeadFormat({"keys": "k D", "labels": "k", "weights": "k"}, ("alpha", "beta")),
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


def head_parts(head: FittedHead) -> HeadParts:
    """Tensors and numbers of a head other than `weights` and `bias`."""
    kind = KINDS.get(type(head))
    if kind is None:
        return HeadParts(None, {}, {})
    source = head.whitening if isinstance(head, WhitenedLinear) else head
    form = FORMATS[kind]
    tensors = {name: getattr(source, name).float() for name in form.tensors}
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
    if kind == "keys" and not _are_classes(tensors["labels"], sizes["C"]):
        raise ValueError(f"the labels of its head ({kind}) are no classes")


def _are_classes(labels: Float[Tensor, " k"], classes: int) -> bool:
    """Whether numbers of a file are indices of classes."""
    whole = labels == labels.round()
    return bool((whole & (labels >= 0) & (labels < classes)).all())


def class_weights(head: FittedHead) -> Tensor:
    """Tensor that is named `weights` in the file."""
    return head.texts if isinstance(head, Adapter | CacheModel | MetaNet) else head.weights


def own_scale(head: FittedHead, of_model: Float[Tensor, ""] | None) -> float | None:
    """Inverse temperature of the head; None if it is the model's."""
    if isinstance(head, WhitenedLinear | OpenWorldModel):
        return None
    scale = head.scale
    if isinstance(scale, Tensor) and of_model is not None:
        if torch.equal(scale.cpu(), of_model.cpu()):
            return None
    return float(scale)


def saved_parts(
    settings: Mapping[str, str | float] | None, tensors: Mapping[str, Tensor]
) -> HeadParts:
    """Parts of the head from the two files.

    Raises:
        ValueError: a number is none, or keys of an earlier version have no one-hot labels.
    """
    found = {name.removeprefix(HEAD): tensor for name, tensor in tensors.items()}
    if settings is None and not found:
        return HeadParts(None, {}, {})
    numbers = dict(settings or {})
    kind = str(numbers.pop("kind", ""))
    if not all(isinstance(number, int | float) for number in numbers.values()):
        raise ValueError("the numbers of its head are no numbers")
    if "values" in found:
        found |= _of_one_hot(found.pop("values"))
    return HeadParts(kind, found, {name: float(number) for name, number in numbers.items()})


def _of_one_hot(values: Tensor) -> dict[str, Tensor]:
    """Labels and weights of the keys in a file of an earlier version, which has one-hot rows.

    Raises:
        ValueError: a row has not one value.
    """
    if values.ndim != 2 or not (values.count_nonzero(1) == 1).all():
        raise ValueError("the values of its head (keys) are no one-hot labels")
    labels = values.abs().argmax(1)
    return {"labels": labels.float(), "weights": values.gather(1, labels[:, None])[:, 0]}


def weights_width(parts: HeadParts, representation: AnyRepresentation) -> int:
    """E, number of columns of `weights`."""
    if parts.kind != "spaces":
        return representation.width
    return parts.tensors["h_axes"].shape[1] + parts.tensors["x_axes"].shape[1] + 1


def build(
    parts: HeadParts,
    tensors: Mapping[str, Tensor],
    scale: float | None,
    prompts: list[str],
    representation: AnyRepresentation,
) -> FittedHead:
    """Build a head from its parts.

    Args:
        parts: kind, tensors and numbers, checked.
        tensors: `weights` and, of a linear head, `bias`.
        scale: inverse temperature of the head; None: that of the model.
        prompts: prompts of the classes.
        representation: of the images.

    Raises:
        ValueError: the head needs a model, or another one.
    """
    device = representation.device
    own: dict[str, Any] = {name: tensor.to(device) for name, tensor in parts.tensors.items()}
    own |= parts.numbers
    weights = tensors["weights"].to(device)
    bias = tensors["bias"].to(device) if "bias" in tensors else None
    s = scale or _model_scale(representation)
    match parts.kind:
        case "adapter":
            return Adapter(**own, texts=weights, scale=s)
        case "keys":
            own["labels"] = own["labels"].long()
            return CacheModel(**own, texts=weights, scale=s)
        case "conditional":
            if isinstance(representation, Precomputed):
                raise ValueError("a head of kind conditional needs a model")
            learner = _learner(representation.clip, prompts, own["context"])
            return MetaNet(**own, learner=learner, scale=s)
        case "spaces":
            return WhitenedLinear(WhitenedPCA(**own), weights)
        case "open-world":
            return OpenWorldModel(weights, **own)
    if bias is None and representation.space != "both":
        return CosineHead(weights, s)
    return Linear(weights, bias, s)


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
