"""How the towers of a model are trained: which part, how fast, for how long, on which views.

What LatteCLIP and its baselines share, so that they are compared on equal terms.
"""

from math import ceil
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from anyclass.backbone import Backbone, Part
from anyclass.data import Augmentation, ImageDataset
from anyclass.features.extract import Embedding, cached_part, embed
from anyclass.log import Log
from anyclass.training.batches import TrainingBatches
from anyclass.training.optim import AdamW, LearningRate

PAPER_LR = 1e-7
"""LatteCLIP's learning rate when everything is trained, and that of its baselines."""

PATHS: dict[Part, float] = {"tail": 3e-4, "head": 5e-4}
"""Default learning rate times steps, for head and tail: how far AdamW may move a weight.

The project's own. A fixed rate does nothing in the few steps of a small folder and too much in
the many of a large one; LOG.md has the figures.
"""

BETAS, EPS = (0.9, 0.98), 1e-6
"""AdamW's running averages and floor (open_clip's)."""

BOLD = 1e-5
"""Learning rate of the whole model above which the user is warned."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Tuning:
    """How the towers are trained."""

    tune: Part = "all"
    """What is trained: everything from pixels (the paper), or on frozen, cached features the
    projections (head) or the image tower's last stage with them (tail)."""
    lr: Annotated[float, Field(ge=0)] | None = None
    """Highest learning rate; None: 1e-7 for all (the paper; 1e-6 for Food101 and SUN397), and the
    project's own for head (5e-4 / steps) and tail (3e-4 / steps), for which there is no paper."""
    steps: Annotated[int, Field(ge=0)] | None = None
    """Training steps; None: min(2000, 50 ceil(N / B))."""
    batch_size: Annotated[int, Field(gt=0)] = 512
    """B; B = N for smaller folders."""
    warm_up: Annotated[int, Field(ge=0)] | None = None
    """Steps of linear warm-up; None: ceil(N / B)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.2
    """AdamW's, on matrices only."""
    augmentation: Augmentation = Augmentation()
    """Views of the images while training."""
    views: Annotated[int, Field(gt=0)] = 4
    """Views drawn once per image for head and tail (all draws anew each time)."""
    micro_batch: Annotated[int, Field(gt=0)] | None = None
    """Images, and texts, that go through the towers at once where memory is short: the same
    numbers for a second forward pass; None: the whole batch."""

    def warm_up_of(self, images: int) -> int:
        """Steps of warm-up on a set of `images`."""
        return ceil(images / self.batch_size) if self.warm_up is None else self.warm_up

    def steps_of(self, images: int) -> int:
        """Training steps on a set of `images`."""
        epoch = ceil(images / self.batch_size)
        return min(2000, 50 * epoch) if self.steps is None else self.steps

    def schedule(self, images: int) -> AdamW:
        """Optimiser and learning rate on a set of `images`."""
        lr = self.lr
        if lr is None:
            path = PATHS.get(self.tune)
            lr = path / max(1, self.steps_of(images)) if path else PAPER_LR
        rate = LearningRate(lr, self.warm_up_of(images))
        return AdamW(rate, self.weight_decay, BETAS, EPS, decay="matrices")

    def batches(
        self, tuned: Backbone, dataset: ImageDataset, log: Log, seed: int
    ) -> TrainingBatches:
        """Training views: cached trunk outputs, or images read anew; warns of a bold rate."""
        if self.tune == "all" and self.lr is not None and self.lr > BOLD:
            log(warning=f"lr {self.lr} is bold for a whole model: the paper takes 1e-7 to 1e-6")
        how = Embedding(cached_part(self.tune), self.augmentation, self.views, seed)
        cached = None if self.tune == "all" else embed(tuned, dataset, how, log)
        steps = self.steps_of(len(dataset))
        return TrainingBatches(
            dataset, tuned, cached, self.augmentation, self.batch_size, steps, seed
        )


def trained_part(method: object) -> Part | None:
    """What of the towers a method trains; None for one that leaves them as they are."""
    part: Part | None = getattr(getattr(method, "tuning", method), "tune", None)
    return part


def cached_views(method: object) -> int:
    """Views of each image that a method trains on and that are kept, beside the test view."""
    views: int = getattr(getattr(method, "tuning", None), "views", 0)
    return views if trained_part(method) != "all" else 0
