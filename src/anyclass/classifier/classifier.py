"""What `fit` returns: a model that labels new images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, PositiveFloat, StrictBool, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cosine_similarity

from anyclass.backbone import Backbone, EngineName, Part
from anyclass.classifier.heads import Head, assemble, parts
from anyclass.data import Classes, ImageDataset, Rejection
from anyclass.errors import AnyclassError, ImageError, ModelError
from anyclass.estimators.whitening import WhitenedPCA
from anyclass.features.extract import side_by_side, stream, with_own
from anyclass.files import atomic_write, read_json, write_json

SAME = 0.9999
"""Least cosine between fingerprints of one and the same model on two machines."""

_TENSORS = "classifier.safetensors"
_SETTINGS = "classifier.json"
_HEAD = "head."


class Prediction(NamedTuple):
    """Probabilities of one stretch of images."""

    rows: list[int]
    """Places of the images that could be read."""
    probabilities: Float[Tensor, "b C"]
    """Of each class."""
    rejections: list[Rejection]
    """What could not be read."""


@dataclass
class Classifier:
    """An image's class is the nearest row of `weights`, seen through the trained image tower."""

    clip: Backbone
    """The model, trained."""
    part: Part | None
    """What of it was trained, the rest is as it was loaded; None: nothing was."""
    classes: Classes
    """What the rows of `weights` mean."""
    weights: Float[Tensor, "C E"]
    """Unit class prototypes, E = D; with `beside` E = 2 D, those for either tower side by side.
    With `own` E = D + H + 1: then weights of the H features before the projection, and a bias.
    With a head that has a space of its own (GET-plus), of that space."""
    method: str
    """Name of the method that made it."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The method's hyper-parameters as JSON values."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """What the method decided on the way: labels, texts, figures; not saved with the model."""
    beside: Backbone | None = None
    """The model before training where that counts half (ReCLIP): logits are the mean of both."""
    own: bool = False
    """Whether the tower's own features, before its projection, count as well (LatteCLIP-plus)."""
    head: Head | None = None
    """What makes logits of features and `weights` where that is more than a cosine."""
    pooled: bool = False
    """Whether unit features before the projection are seen instead of those after it (GET)."""
    bias: Float[Tensor, " C"] | None = None
    """Added to the products of features and weights, for centres that are no unit vectors."""
    scale: float | None = None
    """1 / tau; None: the model's."""

    @property
    def classes_(self) -> list[str]:
        """Class names in the order of the columns of `predict_proba` (scikit-learn's name)."""
        return list(self.classes.names)

    @torch.no_grad()
    def probabilities(self, features: Float[Tensor, "n E"]) -> Float[Tensor, "n C"]:
        """softmax(cos(f(x), p_c) / tau), or of the head's logits.

        Features are unit and went through the trained tower. With `beside`, those of the model
        before training stand beside them (`side_by_side`), with `own` those of the tower before
        its projection (`with_own`).
        """
        f = features.to(self.weights)
        if self.head is not None:
            logits = self.head.logits(self.clip, self.classes.prompts, self.weights, f)
            return logits.softmax(dim=1)
        products = f @ self.weights.T
        products = products if self.bias is None else products + self.bias
        scale = self.clip.logit_scale.to(f) if self.scale is None else self.scale
        return (scale * products).softmax(dim=1)

    @torch.no_grad()
    def stream(self, dataset: ImageDataset) -> Iterator[Prediction]:
        """Label images in their order, in bounded memory."""
        how = (self.beside, self.own, self.pooled)
        seen = stream(self.clip, dataset, self.part or "head", *how)
        for index, features, rejections in seen:
            probabilities = (
                self.probabilities(features) if index else torch.empty(0, len(self.classes))
            )
            yield Prediction(index, probabilities.cpu(), rejections)

    def predict_proba(
        self, images: ImageDataset | Path | str | Sequence[Path | str]
    ) -> Float[np.ndarray, "N C"]:
        """Probability of each class for each image: a folder, a list of files or `ImageDataset`.

        Raises:
            ImageError: an image cannot be read (`anyclass.predict` goes on without it instead).
        """
        rows = []
        for part in self.stream(_photos(images)):
            if part.rejections:
                bad = part.rejections[0]
                raise ImageError(bad.reason, f"{bad.file_name}: {bad.detail}")
            rows.append(part.probabilities.numpy())
        return np.concatenate(rows)

    def predict(self, images: ImageDataset | Path | str | Sequence[Path | str]) -> list[str]:
        """The likeliest class of each image."""
        return [self.classes.names[c] for c in self.predict_proba(images).argmax(1)]

    def save(self, folder: Path | str) -> None:
        """Write `classifier.safetensors` and `classifier.json` into `folder`, each whole."""
        parameters = self.clip.parameters(self.part) if self.part else {}
        trained = {f"parameter.{name}": parameter for name, parameter in parameters.items()}
        own = {"weights": self.weights, "fingerprint": _fingerprint(self.clip, self.beside)}
        tensors, numbers = parts(self.head) if self.head else ({}, {})
        own |= {f"{_HEAD}{name}": tensor for name, tensor in tensors.items()}
        own |= {} if self.bias is None else {"bias": self.bias}
        with atomic_write(Path(folder) / _TENSORS) as path:
            save_file(
                {n: tensor.detach().cpu().contiguous() for n, tensor in (own | trained).items()},
                path,
            )
        settings = _Settings(
            format=1,
            method=self.method,
            fields=dict(self.fields),
            part=self.part,
            beside=self.beside is not None,
            own=self.own,
            head={"kind": self.head.kind, **numbers} if self.head else None,
            pooled=self.pooled,
            scale=self.scale,
            classes=self.classes.to_json(),
            model=self.clip.model_id,
            preprocessing=self.clip.preprocessing.to_json(),
        )
        write_json(Path(folder) / _SETTINGS, settings.model_dump())

    @classmethod
    def load(
        cls,
        folder: Path | str,
        device: str = "cpu",
        allow_pickle: bool = False,
        engine: EngineName = "auto",
        under: Backbone | None = None,
    ) -> "Classifier":
        """Read a saved classifier; nothing but safetensors and JSON is opened.

        Args:
            folder: `model` of a run.
            device: torch device.
            allow_pickle: accept weights of the model underneath that are not safetensors.
            engine: what runs the frozen image tower on a CPU.
            under: a model that is there already, untrained; copied if it is the one underneath.

        Raises:
            ModelError: a file is missing, damaged or foreign, or the model underneath is not the
                one it was fitted on.
        """
        folder = Path(folder)
        settings = _settings(folder / _SETTINGS)
        tensors = _tensors(folder / _TENSORS)
        if under is not None and under.model_id == settings.model:
            clip = under.copy()
        else:
            clip = Backbone.load(settings.model, device, allow_pickle, engine)
        beside = clip.copy() if settings.beside else None
        classes = Classes.from_json(settings.classes)
        try:
            of_head = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_HEAD)}
            _put_back(clip, settings.part, tensors)
            if clip.preprocessing.to_json() != settings.preprocessing:
                raise ValueError("images are prepared otherwise (size, mean or deviation)")
            seen = _fingerprint(clip, beside)
            head = _head(settings.head, of_head, (len(classes), seen.shape[1]), device)
            rows = seen
            if settings.own or settings.pooled:
                before = clip.trunk(clip.synthetic(), "head").cpu()
                rows = with_own(seen, before) if settings.own else clip.pooled(before, "head")
            wide = head.width if isinstance(head, WhitenedPCA) else rows.shape[1]
            _compare(seen, (len(classes), wide), tensors)
        except ValueError as wrong:
            raise ModelError(
                f"{folder} does not fit {settings.model}: {wrong}; load the model it was fitted on"
            ) from wrong
        weights = tensors["weights"].to(device)
        about = (settings.method.replace("_", "-"), settings.fields)  # 0.1 wrote zero_shot
        how: dict[str, Any] = {"beside": beside, "own": settings.own, "head": head}
        how |= {"pooled": settings.pooled, "scale": settings.scale}
        how |= {"bias": tensors["bias"].to(device) if "bias" in tensors else None}
        return cls(clip, settings.part, classes, weights, *about, **how)


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
    model: str
    preprocessing: dict[str, Any]


def _head(
    settings: Mapping[str, str | float] | None,
    tensors: Mapping[str, Tensor],
    size: tuple[int, int],
    device: str,
) -> Head | None:
    """The head for C classes and D dimensions, of its tensors in the file."""
    found = {name.removeprefix(_HEAD): tensor.to(device) for name, tensor in tensors.items()}
    if settings is None and not found:
        return None
    numbers = dict(settings or {})
    kind = str(numbers.pop("kind", ""))
    return assemble(kind, found, {name: float(n) for name, n in numbers.items()}, size)


def _settings(path: Path) -> _Settings:
    _check_file(path)
    try:
        return _Settings.model_validate(read_json(path))
    except ValidationError as wrong:
        first = wrong.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise ModelError(
            f"{path} is not a classifier of anyclass: {place}: {first['msg']}"
        ) from wrong
    except AnyclassError as wrong:
        raise ModelError(str(wrong)) from wrong


def _tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file: float32, every number finite."""
    _check_file(path)
    try:  # copied: in the file's memory they lie anyhow, and the last bits of products hang on that
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as wrong:
        raise ModelError(f"{path} cannot be read as safetensors: {wrong!s:.200}") from wrong
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise ModelError(f"{path} is damaged: {name!r:.100} holds more than finite numbers")
    if missing := {"weights", "fingerprint"} - set(tensors):
        raise ModelError(f"{path} is damaged: {' and '.join(sorted(missing))} missing")
    return tensors


def _check_file(path: Path) -> None:
    """Refuse what is missing, and what would never end: a pipe or a device."""
    if not path.is_file():
        raise ModelError(f"{path} is missing; give the folder that `anyclass fit` called model")


@torch.no_grad()
def _put_back(clip: Backbone, part: Part | None, tensors: Mapping[str, Tensor]) -> None:
    """The trained parameters into the model, exactly those that belong to the part."""
    named = clip.parameters(part) if part else {}
    found = {
        name.removeprefix("parameter."): tensor
        for name, tensor in tensors.items()
        if name not in ("weights", "fingerprint", "bias")
    }
    if {n: t.shape for n, t in found.items()} != {n: p.shape for n, p in named.items()}:
        raise ValueError("its trained parameters have other names or shapes")
    for name, tensor in found.items():
        named[name].copy_(tensor)


def _fingerprint(clip: Backbone, beside: Backbone | None) -> Float[Tensor, "3 E"]:
    """What all towers of a classifier make of the synthetic images."""
    towers = [clip] if beside is None else [clip, beside]
    return side_by_side([tower.fingerprint() for tower in towers])


def _compare(
    now: Float[Tensor, "3 E"], shape: tuple[int, int], tensors: Mapping[str, Tensor]
) -> None:
    """Same shapes, same features of the synthetic images."""
    then = tensors["fingerprint"]
    if now.shape != then.shape or tensors["weights"].shape != shape:
        raise ValueError("features have another width, or classes another number")
    if "bias" in tensors and tensors["bias"].shape != shape[:1]:
        raise ValueError("classes have another number")
    if not cosine_similarity(now, then).min() > SAME:
        raise ValueError("its features of the synthetic images differ: other weights")


def _photos(images: ImageDataset | Path | str | Sequence[Path | str]) -> ImageDataset:
    if isinstance(images, ImageDataset):
        return images
    return ImageDataset.read(images) if isinstance(images, Path | str) else ImageDataset.of(images)
