"""Classifier, the result of `fit`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyclass.backbone import Backbone, EngineName
from anyclass.backbone.device import torch_device
from anyclass.backbone.engine import engine
from anyclass.classifier import hub, loading, saving
from anyclass.classifier.class_edits import EditedClasses
from anyclass.classifier.heads import Head, edited, edits_of, fitted_head
from anyclass.classifier.precomputed import NO_MODEL, AnyRepresentation, Precomputed
from anyclass.classifier.record import FitRecord
from anyclass.classifier.two_means import two_means
from anyclass.data import Classes, ImageDataset, Rejection
from anyclass.data.classes import listed
from anyclass.data.feature_tables import FeatureTable, read_features
from anyclass.data.label_inputs import read_images
from anyclass.errors import ImageError, RequestError
from anyclass.estimators.open_world_model import OpenWorldModel
from anyclass.features.stream import StreamResources
from anyclass.features.text import PLAIN


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
    """Labels, texts and metrics of the fit; not saved with the model."""

    def __repr__(self) -> str:
        """Method, classes and model, without tensors."""
        precomputed = isinstance(self.representation, Precomputed)
        model = "precomputed features" if precomputed else self.clip.model_id
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
    def template(self) -> str:
        """Class prompt of the method; after SHIP that of the few-shot method which it fitted."""
        then = self.fields.get("then")
        fields = then if isinstance(then, Mapping) and "template" in then else self.fields
        return str(fields.get("template", PLAIN))

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
    def log_probabilities(self, features: Float[Tensor, "n E"]) -> Float[Tensor, "n C"]:
        """Logarithm of `probabilities`, which tells classes apart whose probabilities are 0."""
        return self.head.logits(features.to(self.representation.device)).log_softmax(dim=1)

    @torch.no_grad()
    def familiarity(self, features: Float[Tensor, "n E"]) -> Float[Tensor, " n"] | None:
        """Share of the training images that are at least as unusual; None if the head cannot tell.

        A low value means that an image is of none of the classes.

        Args:
            features: rows of the representation.
        """
        head = fitted_head(self.head)  # merged or split classes leave it as it is
        if not isinstance(head, OpenWorldModel):
            return None
        return head.familiarity(features.to(self.representation.device))

    @torch.no_grad()
    def stream(
        self, dataset: ImageDataset, resources: StreamResources = StreamResources()
    ) -> Iterator[Prediction]:
        """Predict images in order, in bounded memory."""
        for index, features, rejections in self.representation.stream(dataset, resources):
            if index:
                yield self._prediction(index, features, rejections)
            else:
                yield Prediction(index, torch.empty(0, len(self.classes)), None, rejections)

    def stream_resources(self, workers: int) -> StreamResources:
        """What several calls of `stream` share: workers, and an engine that is created once."""
        return StreamResources(workers, engine(self.clip, self.representation.part or "head"))

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
        done = 0
        for rows in self._blocks(table):
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
        if _are_features(images):
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
        """Most probable class of each image; arguments as for `predict_proba`.

        An image of a class that was rejected gets "", no label.
        """
        best = self.predict_proba(images, extra).argmax(1).tolist()
        return [self.classes.label(c) or "" for c in best]

    def merge(self, *names: str) -> "Classifier":
        """Merge discovered classes, or add them to a class that was given: probabilities add.

        Raises:
            RequestError: a class does not exist, or two of them were given.
        """
        return self._edited(self._classes.merge(names))

    @torch.no_grad()
    def split(
        self,
        name: str,
        images: Any,
        names: Sequence[str] = (),
        extra: Any = None,
    ) -> "Classifier":
        """Split a discovered class by 2-means of those images that are predicted as it.

        Args:
            name: the class.
            images: images, or features, as for `predict_proba`.
            names: names of both halves; by default "discovered 3a" and "discovered 3b".
            extra: further features.

        Raises:
            RequestError: the class does not exist or was given, or has no two different images.
        """
        c = self._classes.discovered(name, "split")
        rows = [part[self.probabilities(part).argmax(1) == c] for part in self._rows(images, extra)]
        return self._edited(self._classes.split(name, two_means(torch.cat(rows)).numpy(), names))

    def reject(self, name: str) -> "Classifier":
        """Reject a discovered class: `predict` gives no label to its images.

        Raises:
            RequestError: the class does not exist or was given.
        """
        return self._edited(self._classes.reject(name))

    def rename(self, names: Mapping[str, str]) -> "Classifier":
        """Rename discovered classes: old name -> new name.

        Raises:
            RequestError: a class does not exist or was given, or a name is taken or unusable.
        """
        return self._edited(self._classes.rename(names))

    @property
    def _classes(self) -> EditedClasses:
        """The classes, with what was merged and split since the fit."""
        return EditedClasses(self.classes, edits_of(self.head, len(self.classes)))

    def _edited(self, changed: EditedClasses) -> "Classifier":
        """The same classifier with other classes."""
        head = edited(fitted_head(self.head), changed.edits)
        return replace(self, head=head, classes=changed.classes)

    def _rows(self, images: Any, extra: Any) -> Iterator[Float[Tensor, "n E"]]:
        """Rows of images or of features, without unreadable images."""
        if _are_features(images):
            yield from self._blocks(read_features(images, extra))
            return
        for index, rows, _ in self.representation.stream(read_images(images)):
            if index:
                yield rows

    def _blocks(self, table: FeatureTable) -> Iterator[Float[Tensor, "n E"]]:
        """Rows of features, in blocks.

        Raises:
            RequestError: the classifier needs images, or other features.
        """
        if not isinstance(self.representation, Precomputed):
            raise RequestError("the classifier was fitted on images: give images")
        yield from self.representation.blocks(table)

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
        revision: str | None = None,
        model: str | None = None,
    ) -> "Classifier":
        """Read a saved classifier from its safetensors and JSON files.

        Args:
            folder: folder `model` of a run, or `hf-hub:OWNER/NAME`.
            device: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.
            allow_pickle: accept weights of the base model that are not safetensors.
            engine: engine of the frozen image tower.
            base: the untrained base model, if it is loaded already; another model is ignored.
            revision: branch, tag or commit on the hub.
            model: where the base model is now, as for `fit`, if it has moved. Its weights must be
                those of the fit.

        Raises:
            ModelError: a file is missing, damaged or foreign, or the base model differs from the
                one it was fitted on.
            RequestError: the hub has no such classifier, or cannot be reached.
        """
        if str(folder).startswith(hub.HUB):
            folder = hub.download(str(folder).removeprefix(hub.HUB), revision)
        content = loading.read(
            Path(folder), torch_device(device), allow_pickle, engine, base, model
        )
        return cls(**content._asdict())

    @classmethod
    def from_pretrained(
        cls, name: str, revision: str | None = None, device: str = "auto"
    ) -> "Classifier":
        """Read a classifier from the Hugging Face hub, as `load("hf-hub:OWNER/NAME")` does.

        Args:
            name: `OWNER/NAME`.
            revision: branch, tag or commit; by default the main branch.
            device: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.

        Raises:
            RequestError: the hub has no such classifier, or cannot be reached.
            ModelError: a file is damaged, or the base model differs.
        """
        return cls.load(f"{hub.HUB}{name}", device, revision=revision)

    def push_to_hub(self, name: str, revision: str | None = None, private: bool = True) -> str:
        """Upload safetensors, JSON and a card to the Hugging Face hub.

        `anyclass.export(run, hub=name)` uploads the card of the run as well.

        Args:
            name: `OWNER/NAME`, made if it does not exist.
            revision: branch to commit to; by default the main branch.
            private: whether a new repository is private.

        Returns:
            The address of the commit.

        Raises:
            RequestError: the hub refuses, or cannot be reached.
        """
        names = "".join(f"* {name}\n" for name in self.classes.names)
        card = f"# An image classifier by anyclass {self.method}\n\n{names}"
        with TemporaryDirectory() as folder:
            self.save(folder)
            return hub.upload(Path(folder), name, card, revision, private)["url"]


def _are_features(images: Any) -> bool:
    """Whether an array of rows was given in the place of images."""
    return isinstance(images, np.ndarray | Tensor) and images.ndim == 2
