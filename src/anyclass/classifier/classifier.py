"""Classifier, the result of `fit`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyclass.backbone import Backbone, EngineName
from anyclass.backbone.device import torch_device
from anyclass.classifier import saving
from anyclass.classifier.heads import Head
from anyclass.classifier.precomputed import NO_MODEL, AnyRepresentation, Precomputed
from anyclass.classifier.record import FitRecord
from anyclass.data import Classes, ImageDataset, Rejection
from anyclass.data.classes import listed
from anyclass.data.feature_tables import FeatureTable, read_features
from anyclass.data.label_inputs import read_images
from anyclass.errors import ImageError, RequestError
from anyclass.estimators.open_world_model import OpenWorldModel


class Prediction(NamedTuple):
    """Probabilities of a batch of consecutive images."""

    rows: list[int]
    """Indices of the readable images in the dataset."""
    probabilities: Float[Tensor, "b C"]
    """Probability of each class."""
    familiarity: Float[Tensor, " b"] | None
    """How usual each image is, as of `Classifier.familiarity`."""
    rejections: list[Rejection]
    """Unreadable images, with reasons."""


@dataclass(frozen=True)
class Classifier:
    """A representation of images, followed by a head."""

    representation: AnyRepresentation
    """Turns images into features, or takes features that were computed before."""
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

    def __repr__(self) -> str:
        """Method, classes and model, without tensors."""
        representation = self.representation
        of = isinstance(representation, Precomputed)
        model = "precomputed features" if of else self.clip.model_id
        names = listed(self.classes.names, 3)
        return f"Classifier({self.method}, {len(self.classes)} classes: {names}; model {model})"

    @property
    def clip(self) -> Backbone:
        """The adapted model.

        Raises:
            RequestError: the classifier was fitted on features and has no model.
        """
        if isinstance(self.representation, Precomputed):
            raise RequestError(NO_MODEL)
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
        return self.head.logits(features.to(self.representation.device)).softmax(dim=1)

    @torch.no_grad()
    def familiarity(self, features: Float[Tensor, "n E"]) -> Float[Tensor, " n"] | None:
        """Share of the training images that are at least as unusual; None if the head cannot tell.

        A low value means that an image is of none of the classes.

        Args:
            features: rows of the representation.
        """
        if not isinstance(self.head, OpenWorldModel):
            return None
        return self.head.familiarity(features.to(self.representation.device))

    @torch.no_grad()
    def stream(self, dataset: ImageDataset) -> Iterator[Prediction]:
        """Predict images in order, in bounded memory."""
        for index, features, rejections in self.representation.stream(dataset):
            if index:
                yield self._prediction(index, features, rejections)
            else:
                yield Prediction(index, torch.empty(0, len(self.classes)), None, rejections)

    def _prediction(
        self, index: list[int], features: Float[Tensor, "n E"], rejections: list[Rejection]
    ) -> Prediction:
        """Predict a batch of images, on the CPU."""
        familiarity = self.familiarity(features)
        if familiarity is not None:
            familiarity = familiarity.cpu()
        return Prediction(index, self.probabilities(features).cpu(), familiarity, rejections)

    @torch.no_grad()
    def stream_features(self, table: FeatureTable) -> Iterator[Prediction]:
        """Predict rows of features in order, in bounded memory.

        Raises:
            RequestError: the classifier needs images, or other features.
        """
        if not isinstance(self.representation, Precomputed):
            raise RequestError("the classifier was fitted on images: give images")
        done = 0
        for rows in self.representation.blocks(table):
            index = list(range(done, done + len(rows)))
            done += len(rows)
            yield self._prediction(index, rows, [])

    def predict_proba(self, images: Any, extra: Any = None) -> Float[np.ndarray, "N C"]:
        """Probability of each class for each image.

        Args:
            images: a folder, a file, images in memory, or a list of these (see `Run.predict`); for
                a classifier that was fitted on features, an array (N, D) of features.
            extra: further features (N, H), if the classifier was fitted with such features.

        Raises:
            ImageError: an image is unreadable; `anyclass.predict` skips it instead.
        """
        if isinstance(images, np.ndarray | Tensor) and images.ndim == 2:
            table = read_features(images, extra)
            return np.concatenate([p.probabilities.numpy() for p in self.stream_features(table)])
        rows = []
        for part in self.stream(read_images(images)):
            if part.rejections:
                bad = part.rejections[0]
                raise ImageError(bad.reason, f"{bad.file_name}: {bad.detail}")
            rows.append(part.probabilities.numpy())
        return np.concatenate(rows)

    def predict(self, images: Any, extra: Any = None) -> list[str]:
        """Most probable class of each image; arguments as for `predict_proba`."""
        return [self.classes.names[c] for c in self.predict_proba(images, extra).argmax(1)]

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
        device: str = "auto",
        allow_pickle: bool = False,
        engine: EngineName = "auto",
        base: Backbone | None = None,
    ) -> "Classifier":
        """Read a saved classifier from its safetensors and JSON files.

        Args:
            folder: folder `model` of a run.
            device: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.
            allow_pickle: accept weights of the base model that are not safetensors.
            engine: engine of the frozen image tower on a CPU.
            base: the untrained base model, if it is loaded already; another model is ignored.

        Raises:
            ModelError: a file is missing, damaged or foreign, or the base model differs from the
                one it was fitted on.
        """
        content = saving.read(Path(folder), torch_device(device), allow_pickle, engine, base)
        return cls(**content._asdict())
