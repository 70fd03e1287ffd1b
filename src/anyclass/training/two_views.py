"""Training on two views of each image, as in category discovery.

The sampler, views and optimiser of GCD's, SimGCD's and GET's official code.
Letters: N images, B per batch, V cached views of each.
"""

from collections.abc import Iterator
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.data import CropAndFlip, ImageDataset, load_batches
from anyclass.distributed.gradients import own_part
from anyclass.errors import RequestError
from anyclass.features.cache import Embedding, Features
from anyclass.features.extract import make_transform
from anyclass.features.store import FeatureStore
from anyclass.features.stream import raise_if_rejected
from anyclass.log import Log
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.optim import Decayed, LearningRate, Sgd

LEAST = 1e-3
"""Final learning rate as a share of the first (the official code)."""

BATCH_NORMED = 0.01
"""Factor on the learning rate of an image encoder with batch normalisation. With 1, the starter
model collapses to a few classes; 0.1 and 0.01 perform alike (docs/methods/get.md)."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class TwoViewTuning:
    """Training on pairs of views: trained part, learning rate and epochs."""

    tune: Literal["tail", "head"] = "tail"
    """Trained part: the image encoder's last stage and the new layers (the papers: last block), or
    only the new layers, on cached features (head)."""
    epochs: Annotated[int, Field(ge=0)] = 200
    """Epochs of N draws each (papers: 200)."""
    batch_size: Annotated[int, Field(gt=0)] = 128
    """B, two views each; B = N for smaller folders."""
    lr: Annotated[float, Field(ge=0)] = 0.1
    """Initial learning rate of SGD; it falls by a cosine over the epochs to a thousandth."""
    backbone_lr: Annotated[float, Field(ge=0)] | None = None
    """Learning rate of the image encoder; None: the same (the papers, with a ViT), or a hundredth
    for an encoder with batch normalisation."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-5
    """Weight decay of SGD."""
    decay: Decayed = "all"
    """Parameters with weight decay: all (GET), or matrices only (SimGCD)."""
    views: Annotated[int, Field(ge=0)] = 8
    """V, cached augmented views per image, two of which are drawn in each step; 0: new views in
    each epoch (the papers)."""
    augmentation: CropAndFlip = CropAndFlip()
    """Augmentation of the training images."""

    def check(self) -> None:
        """Refuse settings that exclude each other.

        Raises:
            RequestError: there is only one view per image, or `backbone_lr` is positive and `lr`
                is 0.
        """
        if self.views == 1:
            raise RequestError("use two or more cached views (--views 2), or new ones (--views 0)")
        if self.backbone_lr and not self.lr:
            raise RequestError("with --backbone-lr, --lr must not be 0")

    def cached_views(self, data: FeatureStore, log: Log, seed: int) -> Features | None:
        """Trunk outputs of the V views of each image; None for new views in each epoch.

        Raises:
            RequestError: `check` refuses the settings.
        """
        self.check()
        if self.views == 0:
            return None
        how = Embedding(self.tune, self.augmentation, self.views, seed)
        return data.embed(how, log)

    def pairs(
        self, clip: Backbone, dataset: ImageDataset, cached: Features | None, seed: int
    ) -> "TwoViewBatches":
        """Training batches."""
        return TwoViewBatches(
            dataset,
            clip,
            self.tune,
            cached,
            self.augmentation,
            batch_size=self.batch_size,
            epochs=self.epochs,
            seed=seed,
        )

    def schedule(self, clip: Backbone, images: int) -> Sgd:
        """Optimiser and learning rate for a set of `images`.

        Raises:
            RequestError: `check` refuses the settings.
        """
        self.check()
        share = BATCH_NORMED if clip.batch_normed else 1.0
        if self.backbone_lr is not None:
            share = self.backbone_lr / self.lr if self.lr else 0.0
        steps = steps_of_epoch(images, self.batch_size)
        rate = LearningRate(self.lr, min_lr=LEAST * self.lr, epoch=steps)
        return Sgd(rate, self.momentum, self.weight_decay, self.decay, {"visual.": share})


@plain_dataclass(frozen=True)
class TwoViewBatches:
    """Pairs of views in training order: `Batches` for `optimise`.

    An epoch is N draws with replacement; labelled and unlabelled images have the same total
    probability. The last incomplete batch is dropped. Views i and i + B of a batch are of the same
    image. Everything is a pure function of the seed and the step.
    """

    dataset: ImageDataset
    """The N images, all readable; -1 is unlabelled."""
    clip: Backbone
    """The model; its trunk, preprocessing and device are used."""
    part: Literal["tail", "head"]
    """Trained part."""
    cached: Features | None
    """Trunk outputs of V views; None: images are read and augmented in each epoch."""
    augmentation: CropAndFlip
    """Augmentation of images that are read in each epoch."""
    batch_size: int
    """B."""
    epochs: int
    """Number of epochs."""
    seed: int
    """Random seed of draws and views."""

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return steps_of_epoch(len(self.dataset), self.batch_size)

    def __len__(self) -> int:
        """Number of steps."""
        return self.epochs * self.per_epoch

    def start(self, step: int) -> Iterator[Batch]:
        """Batches from `step` on."""
        weights = sampling_weights(self.dataset.labels >= 0)
        while step < len(self):
            epoch, position = divmod(step, self.per_epoch)
            draw = seeded_rng(self.seed, epoch)
            order = torch.multinomial(weights, len(self.dataset), replacement=True, generator=draw)
            index = order[position * self._size : self.per_epoch * self._size]
            for part, view, hidden in self._views(index, epoch):
                files = tuple(self.dataset.files[i] for i in part.tolist())
                hidden = hidden.to(self.clip.device)
                first = step % self.per_epoch == 0
                yield Batch(step, first, part.repeat(2), hidden, files * 2, view, views=2)
                step += 1

    @property
    def _size(self) -> int:
        return min(self.batch_size, len(self.dataset))

    def _views(
        self, index: Int[Tensor, " n"], epoch: int
    ) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """Yield rows, view indices and own trunk outputs of the remaining batches of an epoch."""
        if self.cached is None:
            yield from self._anew(index, epoch)
            return
        own = own_part(self._size)
        count = self.cached[index[:1]].shape[1]
        for part in index.split(self._size):
            draw = seeded_rng(self.seed, epoch, *part.tolist())
            first = torch.randint(count, (len(part),), generator=draw)
            other = first + torch.randint(1, count, (len(part),), generator=draw)
            view = torch.stack([first, other % count])
            mine = part[own].repeat(2)
            yield part, view.flatten(), self.cached.views(mine, view[:, own].flatten())

    def _anew(self, index: Int[Tensor, " n"], epoch: int) -> Iterator[tuple[Tensor, None, Tensor]]:
        """Yield new views in each epoch; an image drawn twice in an epoch has the same views twice.

        The views do not depend on the step at which training continues.
        """
        key = seeded_rng(self.seed, epoch).initial_seed()
        draw = make_transform(self.clip, self.augmentation, 2, key)
        mine = index.view(-1, self._size)[:, own_part(self._size)]
        loaded = load_batches(self.dataset[mine.flatten().numpy()], draw, mine.shape[1])
        for part, (batch, bad) in zip(index.split(self._size), loaded, strict=True):
            raise_if_rejected(bad)
            views = batch.pixels.transpose(0, 1).flatten(0, 1).to(self.clip.device)
            with torch.no_grad():
                hidden = self.clip.trunk(self.clip.preprocessing.normalise(views), self.part)
            yield part, None, hidden


def steps_of_epoch(images: int, batch_size: int) -> int:
    """Number of complete batches, at least 1."""
    return max(1, images // batch_size)


def sampling_weights(labelled: Bool[np.ndarray, " N"]) -> Float[Tensor, " N"]:
    """1 for a labelled image, |labelled| / |unlabelled| for another: half of the draws each.

    All weights are 1 if there is only one kind.
    """
    count = int(labelled.sum())
    others = int((~labelled).sum())
    if count == 0 or others == 0:
        return torch.ones(len(labelled), dtype=torch.float64)
    return torch.from_numpy(np.where(labelled, 1.0, count / others))
