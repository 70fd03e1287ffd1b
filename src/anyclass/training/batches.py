"""Batches for the training loop: a pure function of the seed and the step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.data import Augmentation, ImageDataset, load_batches
from anyclass.distributed.gradients import gather, own_part
from anyclass.features.cache import Features
from anyclass.features.extract import make_transform
from anyclass.features.stream import raise_if_rejected
from anyclass.rng import seeded_rng


@dataclass(frozen=True)
class Batch:
    """The images of one training step."""

    step: int
    """Index of the step, from 0."""
    starts_epoch: bool
    """Whether this is the first step of an epoch."""
    index: Int[Tensor, " B"]
    """Rows of the images in their `ImageDataset`."""
    hidden: Shaped[Tensor, "b ..."]
    """Frozen trunk outputs of one view of each image (pixels if the whole model is trained); with
    several processes, of those in the part of this one."""
    files: tuple[str, ...]
    """Their file names, for messages."""
    view: Int[Tensor, " B"] | None = None
    """Indices of the cached views, for methods that store more data per view."""
    views: int = 1
    """Views of each image; rows of one view stand together."""

    def gathered(self, own: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "B ..."]:
        """Features of the whole batch, from those of the rows of `hidden`."""
        return gather(own, len(self.index) // self.views, self.views)


@runtime_checkable
class Batches(Protocol):
    """Batches of all training steps, which can be started at any step."""

    def __len__(self) -> int:
        """Number of steps."""

    def start(self, step: int) -> Iterator[Batch]:
        """Batches from `step` on; a pure function of the seed and the step."""


@dataclass(frozen=True)
class Steps:
    """`Batches` without images, for a loss that makes its own inputs."""

    steps: int
    """Number of steps."""

    def __len__(self) -> int:
        """Number of steps."""
        return self.steps

    def start(self, step: int) -> Iterator[Batch]:
        """Steps from `step` on."""
        none = torch.zeros(0, dtype=torch.long)
        for number in range(step, self.steps):
            yield Batch(number, number == 0, none, none, ())


@dataclass(frozen=True)
class TrainingBatches:
    """Views of N images in training order: `Batches` for `optimise`.

    Shuffled in each epoch, without replacement; the last incomplete batch is dropped if N >= B, and
    B = N if N < B. Everything is a pure function of the seed and the step.
    """

    dataset: ImageDataset
    """The images, all readable."""
    clip: Backbone
    """The model; its preprocessing and device are used."""
    cached: Features | None
    """Trunk outputs of K views; None: images are read and augmented in each epoch."""
    augmentation: Augmentation | None
    """Augmentation of images that are read in each epoch; None: the test view."""
    batch_size: int
    """B."""
    steps: int
    """Number of batches."""
    seed: int
    """Random seed of order and views."""

    def __len__(self) -> int:
        """Number of steps."""
        return self.steps

    def start(self, step: int) -> Iterator[Batch]:
        """Batches from `step` on."""
        size = min(self.batch_size, len(self.dataset))
        per_epoch = len(self.dataset) // size
        while step < self.steps:
            epoch, position = divmod(step, per_epoch)
            order = torch.randperm(len(self.dataset), generator=seeded_rng(self.seed, epoch))
            index = order[position * size : min(per_epoch, position + self.steps - step) * size]
            for part, hidden in self._views(index, size, epoch):
                files = tuple(self.dataset.files[i] for i in part.tolist())
                device = self.clip.device
                yield Batch(step, step % per_epoch == 0, part, hidden.to(device), files)
                step += 1

    def _views(
        self, index: Int[Tensor, " n"], size: int, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the remaining batches of an epoch: the rows, and one view of each own one."""
        own = own_part(size)
        if self.cached is None:
            key = seeded_rng(self.seed, epoch).initial_seed()
            draw = make_transform(self.clip, self.augmentation, 1, key)
            mine = index.view(-1, size)[:, own]
            loaded = load_batches(self.dataset[mine.flatten().numpy()], draw, mine.shape[1])
            for part, (batch, bad) in zip(index.split(size), loaded, strict=True):
                raise_if_rejected(bad)
                yield part, self.clip.preprocessing.normalise(batch.pixels[:, 0])
            return
        for part in index.split(size):
            rows = self.cached[part[own]]
            view = torch.randint(
                rows.shape[1], (len(part),), generator=seeded_rng(self.seed, epoch, int(part[0]))
            )
            yield part, rows[torch.arange(len(rows)), view[own]]
