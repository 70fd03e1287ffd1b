"""Features of labelled images for few-shot methods, and batches of them.

Letters: n labelled images, K views per image, D dimensions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch

HELD_OUT = -3
"""Seed key of held-out images."""


@dataclass(frozen=True)
class LabelledFeatures:
    """Features and classes of labelled images."""

    x: Float[Tensor, "n K D"]
    """Unit features of the K views."""
    c: Int[Tensor, " n"]
    """Classes."""
    files: tuple[str, ...]
    """File names, for messages."""
    view_per_epoch: bool = False
    """Whether epoch e uses view e; otherwise views are drawn at random."""

    @property
    def means(self) -> Float[Tensor, "n D"]:
        """Mean over the views of each image, normalised (Tip-Adapter's keys)."""
        means: Tensor = normalize(self.x.mean(dim=1), dim=-1)
        return means

    @property
    def classes(self) -> Int[Tensor, " B"]:
        """Sorted classes with at least one image."""
        classes: Tensor = self.c.unique()
        return classes

    def split(self, share: float, seed: int) -> tuple["LabelledFeatures", "LabelledFeatures"]:
        """Split into training and held-out images, at random within each class.

        Of the n images of a class, round(share n) are held out, at most n - 1.
        """
        held_out = torch.zeros(len(self.c), dtype=torch.bool)
        for c in self.classes.tolist():
            rows = (self.c == c).nonzero()[:, 0]
            order = torch.randperm(len(rows), generator=seeded_rng(seed, c, HELD_OUT))
            count = min(round(share * len(rows)), len(rows) - 1)
            held_out[rows[order[:count]]] = True
        return self._subset(~held_out), self._subset(held_out)

    def _subset(self, chosen: Bool[Tensor, " n"]) -> "LabelledFeatures":
        files = tuple(self.files[i] for i in chosen.nonzero()[:, 0].tolist())
        x = self.x[chosen.to(self.x.device)]
        return LabelledFeatures(x, self.c[chosen], files, self.view_per_epoch)

    def batches(
        self, size: int, epochs: int, seed: int, drop_last: bool = False
    ) -> "LabelledBatches":
        """Batches of features, with one view of each image per epoch.

        Args:
            size: batch size; all images if there are fewer.
            epochs: epochs over the images.
            seed: random seed of order and views.
            drop_last: drop the last incomplete batch of an epoch.
        """
        return LabelledBatches(self, min(size, len(self.c)), epochs, seed, drop_last)


@dataclass(frozen=True)
class LabelledBatches:
    """`Batches` for `optimise`: a pure function of the seed and the step."""

    labelled: LabelledFeatures
    """Features of the images."""
    size: int
    """S, batch size."""
    epochs: int
    """Epochs over the images."""
    seed: int
    """Random seed of order and views."""
    drop_last: bool
    """Whether the last incomplete batch of an epoch is dropped."""

    @property
    def per_epoch(self) -> int:
        """Steps per epoch."""
        n = len(self.labelled.c)
        return n // self.size if self.drop_last else ceil(n / self.size)

    def __len__(self) -> int:
        """Number of steps."""
        return self.epochs * self.per_epoch

    def start(self, step: int) -> Iterator[Batch]:
        """Batches from `step` on."""
        n, views = self.labelled.x.shape[:2]
        for epoch in range(step // self.per_epoch, self.epochs):
            order = torch.randperm(n, generator=seeded_rng(self.seed, epoch))
            view = torch.randint(views, (n,), generator=seeded_rng(self.seed, epoch, views))
            if self.labelled.view_per_epoch:
                view = torch.full((n,), epoch % views)
            parts = order.split(self.size)[: self.per_epoch]
            for position in range(step % self.per_epoch, len(parts)):
                index = parts[position]
                x = self.labelled.x[index, view[index]]
                files = tuple(self.labelled.files[i] for i in index.tolist())
                yield Batch(step, position == 0, index, x, files)
                step += 1
