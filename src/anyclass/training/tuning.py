"""Fine-tuning settings: trained part, learning rate, steps and augmented views.

LatteCLIP and its baselines share them, so that they are compared on equal terms.
"""

from math import ceil
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from anyclass.backbone import Backbone, Part
from anyclass.data import Augmentation
from anyclass.features.cache import Embedding, cached_part
from anyclass.features.store import FeatureStore
from anyclass.log import Log
from anyclass.training.batches import TrainingBatches
from anyclass.training.optim import AdamW, LearningRate

PAPER_LR = 1e-7
"""Learning rate of LatteCLIP and its baselines for training the whole model."""

WEIGHT_DECAY = 0.2
"""Weight decay of LatteCLIP's scripts, except Caltech101."""

PATHS: dict[Part, float] = {"tail": 3e-4, "head": 5e-4}
"""Default learning rate times steps for head and tail: the distance AdamW can move a weight.

The project's own. A fixed rate has no effect in the few steps of a small folder and too much in
the many steps of a large one; LOG.md has the figures.
"""

BETAS = (0.9, 0.98)
"""Decay rates of AdamW's running averages (open_clip's)."""

EPS = 1e-6
"""AdamW's epsilon (open_clip's)."""

WARN_ABOVE = 1e-5
"""Learning rate of the whole model above which the user is warned."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Tuning:
    """Fine-tuning of the image and text encoders."""

    tune: Part = "all"
    """Trained part: the whole model from pixels (the paper), or on frozen, cached features the
    projections (head) or also the image encoder's last stage (tail)."""
    lr: Annotated[float, Field(ge=0)] | None = None
    """Peak learning rate; None: 1e-7 for all (the paper; LatteCLIP's `domain` food101 or sun397:
    1e-6), 5e-4 / steps for head and 3e-4 / steps for tail (ours)."""
    steps: Annotated[int, Field(ge=0)] | None = None
    """Training steps; None: min(2000, 50 ceil(N / B))."""
    batch_size: Annotated[int, Field(gt=0)] = 512
    """B; B = N for smaller folders."""
    warm_up: Annotated[int, Field(ge=0)] | None = None
    """Steps of linear warm-up; None: ceil(N / B)."""
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    """Weight decay of AdamW, for matrices only; None: 0.2 (LatteCLIP's `domain` caltech101 with the
    whole model: 1e-7)."""
    augmentation: Augmentation = Augmentation()
    """Augmentation of the training images."""
    views: Annotated[int, Field(gt=0)] = 4
    """Cached augmented views per image for head and tail (all: new views in each epoch)."""
    micro_batch: Annotated[int, Field(gt=0)] | None = None
    """Images (and texts) per forward pass if memory is short: the same result by gradient
    checkpointing, at the cost of a second forward pass; None: the whole batch."""

    @property
    def cached_views(self) -> int:
        """Views of each image that are embedded once and kept, beside the test view."""
        return 0 if self.tune == "all" else self.views

    def warm_up_of(self, images: int) -> int:
        """Warm-up steps on a set of `images`."""
        return ceil(images / self.batch_size) if self.warm_up is None else self.warm_up

    def steps_of(self, images: int) -> int:
        """Training steps on a set of `images`."""
        epoch = ceil(images / self.batch_size)
        return min(2000, 50 * epoch) if self.steps is None else self.steps

    def schedule(
        self, images: int, lr: float | None = None, weight_decay: float | None = None
    ) -> AdamW:
        """Optimiser and learning rate for a set of `images`.

        Args:
            images: number of images.
            lr: the paper's learning rate of the whole model on this data set, where the field
                gives none.
            weight_decay: its weight decay, likewise.
        """
        path = PATHS.get(self.tune)
        if self.lr is not None:
            lr = self.lr
        elif path:
            lr = path / max(1, self.steps_of(images))
        decay = self.weight_decay
        if decay is None:
            decay = weight_decay if weight_decay is not None and not path else WEIGHT_DECAY
        rate = LearningRate(PAPER_LR if lr is None else lr, self.warm_up_of(images))
        return AdamW(rate, decay, BETAS, EPS, decay="matrices")

    def batches(self, tuned: Backbone, data: FeatureStore, log: Log, seed: int) -> TrainingBatches:
        """Batches of augmented views: cached trunk outputs, or images read anew.

        Args:
            tuned: the model that is trained.
            data: the model before training, and the images.
            log: gets the progress of embedding, and a warning of a high learning rate.
            seed: random seed of order and views.
        """
        if self.tune == "all" and self.lr is not None and self.lr > WARN_ABOVE:
            log(warning=f"lr {self.lr} is high for a whole model: the paper uses 1e-7 to 1e-6")
        how = Embedding(cached_part(self.tune), self.augmentation, self.views, seed)
        return TrainingBatches(
            dataset=data.dataset,
            clip=tuned,
            cached=None if self.tune == "all" else data.embed(how, log),
            augmentation=self.augmentation,
            batch_size=self.batch_size,
            steps=self.steps_of(len(data)),
            seed=seed,
        )
