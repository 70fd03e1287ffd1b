"""Batches for the training loop: a pure function of the seed and the step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.data import Augmentation, ImageDataset, load_batches
from anyclass.features.extract import Features, drawing, stop_if
from anyclass.rng import seeded_rng


@dataclass(frozen=True)
class Batch:
    """What one step sees."""

    step: int
    """0-based."""
    starts_epoch: bool
    """Whether the images have just been shuffled."""
    index: Int[Tensor, " B"]
    """Rows of the images in their `ImageDataset`."""
    hidden: Shaped[Tensor, "B ..."]
    """One view of each image, as the frozen trunk left it (pixels when everything is trained)."""
    files: tuple[str, ...]
    """Their file names, for messages."""
    view: Int[Tensor, " B"] | None = None
    """Which of an image's cached views each is, where a method keeps more of a view."""


@runtime_checkable
class Batches(Protocol):
    """A training set in order: as many steps as it is long, and able to start in the middle."""

    def __len__(self) -> int:
        """Number of steps."""

    def start(self, step: int) -> Iterator[Batch]:
        """Batches from `step` on; a pure function of the seed and the step."""


@dataclass(frozen=True)
class Steps:
    """`Batches` of no images, for a loss that makes what it needs."""

    steps: int
    """How many there are."""

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
    """Views of N images in the order of training: `Batches` for `optimise`.

    Shuffled anew each epoch without replacement; the last part of a batch is dropped when N >= B,
    and B = N when N < B. Everything is a pure function of the seed and the step.
    """

    dataset: ImageDataset
    """The images, all readable."""
    clip: Backbone
    """Its preprocessing, and where its weights lie."""
    cached: Features | None
    """Trunk outputs of K views; None: images are read and augmented anew in each epoch."""
    augmentation: Augmentation | None
    """Of images that are read anew; None: the one test view."""
    batch_size: int
    """B."""
    steps: int
    """How many batches there are."""
    seed: int
    """Of order and views."""

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
        """One view of each image of the rest of an epoch, batch by batch."""
        if self.cached is None:
            own = seeded_rng(self.seed, epoch).initial_seed()
            draw = drawing(self.clip, self.augmentation, 1, own)
            for batch, bad in load_batches(self.dataset[index.numpy()], draw, size):
                stop_if(bad)
                yield index[batch.indices], self.clip.preprocessing.normalise(batch.pixels[:, 0])
            return
        for part in index.split(size):
            rows = self.cached[part]
            view = torch.randint(
                rows.shape[1], (len(part),), generator=seeded_rng(self.seed, epoch, int(part[0]))
            )
            yield part, rows[torch.arange(len(part)), view]
