"""What the few-shot methods share: labelled images, the training set, and the fit.

Letters: n labelled images, K views per image, D dimensions, C classes.
"""

from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import Augmentation, Classes
from anyclass.errors import RequestError
from anyclass.features.cache import Embedding
from anyclass.features.store import FeatureStore
from anyclass.log import Log
from anyclass.methods.labelled_features import LabelledFeatures
from anyclass.methods.synthetic_features import SyntheticFeatures
from anyclass.methods.workload import TextTraining, Workload
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch

CROPS = Augmentation((0.5, 1.0), jitter_probability=0.0, grey_probability=0.0, flip_probability=0.5)
"""Augmentation of Tip-Adapter, GDA and SHIP: crops of 50 % to 100 % of the area, flips."""

PUBLISHED_SCALE = 100.0
"""Inverse temperature 1 / tau of OpenAI's models, to which published weights of logits belong."""

START = -2
"""Seed key of initial parameters."""

Over = Literal["labelled", "all"]
"""Classes of the cross-entropy in training: those with labelled images, or all."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class FewShot:
    """Labelled images of a few-shot method, and their augmented views."""

    shots: Annotated[int, Field(gt=0)] | None = None
    """Maximum number of labelled images per class, drawn at random by the seed; None: all."""
    views: Annotated[int, Field(ge=0)] = 10
    """K, augmented views per image, cached and drawn in training; 0: a new view in each epoch."""
    augmentation: Augmentation = CROPS
    """Augmentation of the views."""

    def workload(self, epochs: int, *training: TextTraining, needs_labels: bool = True) -> Workload:
        """Estimate the cost of `epochs` over the images, with `training` of the text encoder."""
        return Workload(
            labelled_views=self.views or epochs,
            shots=self.shots,
            text_training=training,
            needs_labels=needs_labels,
            least_names=2,
        )

    def labelled_features(
        self, data: FeatureStore, log: Log, epochs: int, seed: int
    ) -> LabelledFeatures:
        """Embed the views of the labelled images; cached views are reused.

        Args:
            data: the model and readable images; unlabelled ones are not used.
            log: receives the progress of embedding.
            epochs: epochs of training, which is the number of views if `views` is 0.
            seed: random seed of the draw of images and their views.

        Raises:
            RequestError: no image has a label.
        """
        clip = data.clip
        chosen = data.dataset[draw_shots(data.dataset.labels, self.shots, seed)]
        if not len(chosen):
            raise RequestError(
                "no image has a label: give labels (--labels folders|FILE), or use "
                "open-world, latteclip or zero-shot, which need only class names"
            )
        embedding = Embedding("head", self.augmentation, self.views or max(1, epochs), seed)
        hidden = data.of(chosen).embed(embedding, log)
        with torch.no_grad():
            batches = torch.arange(len(chosen)).split(64)
            x = torch.cat([_unit_views(clip, hidden[rows].to(clip.device)) for rows in batches])
        c = torch.tensor(chosen.labels)
        return LabelledFeatures(x, c, chosen.files, view_per_epoch=not self.views)


def draw_shots(
    labels: Int[np.ndarray, " N"], shots: int | None, seed: int
) -> Int[np.ndarray, " n"]:
    """Draw at most `shots` labelled images per class without replacement; return sorted rows."""
    drawn = []
    for c in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == c)
        order = torch.randperm(len(rows), generator=seeded_rng(seed, int(c))).numpy()
        drawn.append(rows[order[:shots]])
    return np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, dtype=np.int64)


@plain_dataclass(frozen=True)
class FewShotTask:
    """Training data of a few-shot method."""

    clip: Backbone
    """The model; it is not changed."""
    labelled: LabelledFeatures
    """Features of labelled images."""
    classes: Classes
    """All C classes."""
    synthetic: SyntheticFeatures | None = None
    """Features of classes without a labelled image; with them, the loss is over all classes."""
    over: Over = "labelled"
    """Classes of the cross-entropy if there are no synthetic features."""
    seed: int = 0
    """Random seed of initial parameters, order and views."""

    def training_set(self, log: Log) -> "TrainingSet":
        """Real and synthetic features for training; warns if there is a single class."""
        return TrainingSet.of(self.labelled, self.classes, self.synthetic, self.over, log)


@runtime_checkable
class FewShotMethod(Protocol):
    """A method that is fitted on features of labelled images."""

    @property
    def data(self) -> FewShot:
        """Labelled images and their augmented views."""

    @property
    def epochs(self) -> int:
        """Epochs over the labelled images."""

    def learn(self, task: FewShotTask, log: Log, checkpoint: Path | None = None) -> Classifier:
        """Fit on features; `checkpoint`: checkpoint file, to resume a killed run."""


def fit_few_shot(
    method: FewShotMethod,
    data: FeatureStore,
    log: Log,
    scratch: Path | None,
    seed: int,
) -> Classifier:
    """Embed the labelled images of `data` and fit `method`: the `fit` of all few-shot methods.

    Args:
        method: the method.
        data: the model and readable images.
        log: receives the progress of embedding and the rows of the method.
        scratch: folder of checkpoints, to resume a killed run; None: no checkpoints.
        seed: random seed.

    Raises:
        RequestError: no image has a label.
    """
    labelled = method.data.labelled_features(data, log, method.epochs, seed)
    task = FewShotTask(data.clip, labelled, data.dataset.classes, seed=seed)
    return method.learn(task, log, scratch and scratch / "training.safetensors")


@plain_dataclass(frozen=True)
class TrainingSet:
    """Real and synthetic features, and the classes of the cross-entropy."""

    labelled: LabelledFeatures
    """Real features."""
    synthetic: SyntheticFeatures | None
    """Features of classes without a labelled image, if any."""
    columns: Int[Tensor, " M"]
    """Sorted classes of the cross-entropy."""

    @classmethod
    def of(
        cls,
        labelled: LabelledFeatures,
        classes: Classes,
        synthetic: SyntheticFeatures | None,
        over: Over,
        log: Log,
    ) -> "TrainingSet":
        """Use all classes with synthetic features or if `over` is all, else the labelled ones."""
        all_classes = synthetic is not None or over == "all"
        columns = torch.arange(len(classes)) if all_classes else labelled.classes
        if len(columns) < 2:
            log(warning="only one class has labelled images: the loss cannot separate classes")
        return cls(labelled, synthetic, columns)

    def step(self, batch: Batch) -> tuple[Float[Tensor, "S D"], Int[Tensor, " S"]]:
        """Features of a step, real ones first, and their positions in `columns`."""
        x = batch.hidden
        c = self.labelled.c[batch.index]
        if self.synthetic is not None:
            x_synthetic, c_synthetic = self.synthetic.batch(batch.step, len(c))
            x = torch.cat([x, x_synthetic.to(x)])
            c = torch.cat([c, c_synthetic.to(c)])
        return x, torch.searchsorted(self.columns, c).to(x.device)


def _unit_views(clip: Backbone, hidden: Float[Tensor, "b K ..."]) -> Float[Tensor, "b K D"]:
    flat = clip.tail(hidden.flatten(0, 1), "head")
    return flat.reshape(*hidden.shape[:2], -1)
