"""Classifier, the result of `fit`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyclass.backbone import Backbone, EngineName
from anyclass.classifier import saving
from anyclass.classifier.heads import Head
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.data import Classes, ImageDataset, Rejection
from anyclass.errors import ImageError


class Prediction(NamedTuple):
    """Probabilities of a batch of consecutive images."""

    rows: list[int]
    """Indices of the readable images in the dataset."""
    probabilities: Float[Tensor, "b C"]
    """Probability of each class."""
    rejections: list[Rejection]
    """Unreadable images, with reasons."""


@dataclass(frozen=True)
class Classifier:
    """A representation of images, followed by a head."""

    representation: Representation
    """Turns images into features."""
    head: Head
    """Turns features into logits of the classes."""
    classes: Classes
    """Classes in the order of the logits."""
    method: str
    """Name of the method."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The method's hyper-parameters as JSON values."""
    record: FitRecord = field(default_factory=FitRecord)
    """Labels, texts and figures of the fit; not saved with the model."""

    @property
    def clip(self) -> Backbone:
        """The adapted model."""
        return self.representation.clip

    @property
    def classes_(self) -> list[str]:
        """Class names in the order of the columns of `predict_proba` (scikit-learn's name)."""
        return list(self.classes.names)

    @torch.no_grad()
    def probabilities(self, features: Float[Tensor, "n E"]) -> Float[Tensor, "n C"]:
        """Softmax of the logits.

        Args:
            features: rows of the representation.
        """
        return self.head.logits(features.to(self.clip.device)).softmax(dim=1)

    @torch.no_grad()
    def stream(self, dataset: ImageDataset) -> Iterator[Prediction]:
        """Predict images in order, in bounded memory."""
        for index, features, rejections in self.representation.stream(dataset):
            probabilities = torch.empty(0, len(self.classes))
            if index:
                probabilities = self.probabilities(features).cpu()
            yield Prediction(index, probabilities, rejections)

    def predict_proba(
        self, images: ImageDataset | Path | str | Sequence[Path | str]
    ) -> Float[np.ndarray, "N C"]:
        """Probability of each class for each image.

        Args:
            images: a folder, a list of files or an `ImageDataset`.

        Raises:
            ImageError: an image is unreadable; `anyclass.predict` skips it instead.
        """
        rows = []
        for part in self.stream(_dataset(images)):
            if part.rejections:
                bad = part.rejections[0]
                raise ImageError(bad.reason, f"{bad.file_name}: {bad.detail}")
            rows.append(part.probabilities.numpy())
        return np.concatenate(rows)

    def predict(self, images: ImageDataset | Path | str | Sequence[Path | str]) -> list[str]:
        """Most probable class of each image."""
        return [self.classes.names[c] for c in self.predict_proba(images).argmax(1)]

    def save(self, folder: Path | str) -> None:
        """Write `classifier.safetensors` and `classifier.json` into `folder`, each atomically."""
        content = saving.Saved(
            self.representation, self.head, self.classes, self.method, self.fields
        )
        saving.write(Path(folder), content)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        device: str = "cpu",
        allow_pickle: bool = False,
        engine: EngineName = "auto",
        base: Backbone | None = None,
    ) -> "Classifier":
        """Read a saved classifier from its safetensors and JSON files.

        Args:
            folder: folder `model` of a run.
            device: torch device.
            allow_pickle: accept weights of the base model that are not safetensors.
            engine: engine of the frozen image tower on a CPU.
            base: the untrained base model, if it is loaded already; another model is ignored.

        Raises:
            ModelError: a file is missing, damaged or foreign, or the base model differs from the
                one it was fitted on.
        """
        content = saving.read(Path(folder), device, allow_pickle, engine, base)
        return cls(**content._asdict())


def _dataset(images: ImageDataset | Path | str | Sequence[Path | str]) -> ImageDataset:
    """Read a folder or a list of files."""
    if isinstance(images, ImageDataset):
        return images
    if isinstance(images, Path | str):
        return ImageDataset.read(images)
    return ImageDataset.of(images)
