"""Two views of each image, half of them labelled: how category discovery trains.

The sampler, the views and the optimiser that GCD's, SimGCD's and GET's official codes share.
Letters: N images, B of a batch, V cached views of each.
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
from anyclass.errors import RequestError
from anyclass.features.extract import Embedding, Features, drawing, embed, stop_if
from anyclass.log import Log
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.optim import Decayed, LearningRate, Sgd

LEAST = 1e-3
"""Where the cosine of the learning rate ends, of where it begins (the official codes)."""

BATCH_NORMED = 0.01
"""Share of the learning rate for a tower with batch normalisation: with all of it the starter has a
few classes take all images, a tenth and a hundredth do alike (docs/methods/get.md)."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class TwoViewTuning:
    """What is trained on pairs of views, how fast and for how long."""

    tune: Literal["tail", "head"] = "tail"
    """Last stage of the image tower and the new layers (the papers: last block), or the new layers
    alone, on cached features."""
    epochs: Annotated[int, Field(ge=0)] = 200
    """Each of N draws, so many as there are images (papers: 200)."""
    batch_size: Annotated[int, Field(gt=0)] = 128
    """B, two views each; B = N for smaller folders."""
    lr: Annotated[float, Field(ge=0)] = 0.1
    """Learning rate of SGD; a cosine over epochs ends at its thousandth."""
    backbone_lr: Annotated[float, Field(ge=0)] | None = None
    """That of the image tower; None: the same (the papers, whose tower is a ViT), or a hundredth
    for one with batch normalisation."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-5
    """Of SGD."""
    decay: Decayed = "all"
    """What weight decay pulls at: everything (GET), or no biases and norms (SimGCD)."""
    views: Annotated[int, Field(ge=0)] = 8
    """V, views drawn once per image, two of which are drawn in turn; 0: new ones each time (the
    papers)."""
    augmentation: CropAndFlip = CropAndFlip()
    """Views of the images while training."""

    def embed(self, clip: Backbone, dataset: ImageDataset, log: Log, seed: int) -> Features | None:
        """Trunk outputs of the V views of each image; None: there are none.

        Raises:
            RequestError: a pair of different views cannot be drawn from one.
        """
        if self.views == 1:
            raise RequestError("pairs need two views or more (--views 2), or new ones (--views 0)")
        if self.views == 0:
            return None
        return embed(clip, dataset, Embedding(self.tune, self.augmentation, self.views, seed), log)

    def pairs(
        self, clip: Backbone, dataset: ImageDataset, cached: Features | None, seed: int
    ) -> "TwoViewBatches":
        """The batches."""
        shape = (self.batch_size, self.epochs, seed)
        return TwoViewBatches(dataset, clip, self.tune, cached, self.augmentation, *shape)

    def schedule(self, clip: Backbone, images: int) -> Sgd:
        """Optimiser and learning rate on a set of `images`.

        Raises:
            RequestError: the tower is to learn while nothing else does.
        """
        share = BATCH_NORMED if clip.batch_normed else 1.0
        if self.backbone_lr and not self.lr:
            raise RequestError("--backbone-lr is a share of --lr, so that may not be 0")
        if self.backbone_lr is not None:
            share = self.backbone_lr / self.lr if self.lr else 0.0
        steps = steps_of_epoch(images, self.batch_size)
        rate = LearningRate(self.lr, min_lr=LEAST * self.lr, epoch=steps)
        return Sgd(rate, self.momentum, self.weight_decay, self.decay, {"visual.": share})


@plain_dataclass(frozen=True)
class TwoViewBatches:
    """Pairs of views in the order of training: `Batches` for `optimise`.

    An epoch is N draws with replacement, each as likely to be a labelled image as not; the last
    part of a batch is dropped. View i and view i + B of a batch show the same image. Everything
    is a pure function of the seed and the step.
    """

    dataset: ImageDataset
    """The N images, all readable; -1 is unlabelled."""
    clip: Backbone
    """Its trunk and preprocessing, and where its weights lie."""
    part: Literal["tail", "head"]
    """What is trained on the trunk's outputs."""
    cached: Features | None
    """What is kept of V views; None: images are read and augmented anew."""
    augmentation: CropAndFlip
    """Of images that are read anew."""
    batch_size: int
    """B."""
    epochs: int
    """How often N images are drawn."""
    seed: int
    """Of draws and views."""

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
                yield Batch(step, first, part.repeat(2), hidden, files * 2, view)
                step += 1

    @property
    def _size(self) -> int:
        return min(self.batch_size, len(self.dataset))

    def _views(
        self, index: Int[Tensor, " n"], epoch: int
    ) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """Images, numbers of their cached views and the views of the rest of an epoch."""
        if self.cached is None:
            yield from self._anew(index, epoch)
            return
        count = self.cached[index[:1]].shape[1]
        for part in index.split(self._size):
            draw = seeded_rng(self.seed, epoch, *part.tolist())
            first = torch.randint(count, (len(part),), generator=draw)
            other = first + torch.randint(1, count, (len(part),), generator=draw)
            view = torch.cat([first, other % count])
            yield part, view, self.cached.views(part.repeat(2), view)

    def _anew(self, index: Int[Tensor, " n"], epoch: int) -> Iterator[tuple[Tensor, None, Tensor]]:
        """Views drawn anew in each epoch, through the trunk; twice in it, an image shows the same.

        Neither the views nor the places of batches depend on where an epoch is gone on with.
        """
        own = seeded_rng(self.seed, epoch).initial_seed()
        draw = drawing(self.clip, self.augmentation, 2, own)
        for batch, bad in load_batches(self.dataset[index.numpy()], draw, self._size):
            stop_if(bad)
            views = batch.pixels.transpose(0, 1).flatten(0, 1).to(self.clip.device)
            with torch.no_grad():
                hidden = self.clip.trunk(self.clip.preprocessing.normalise(views), self.part)
            yield index[batch.indices], None, hidden


def steps_of_epoch(images: int, batch_size: int) -> int:
    """The last part of a batch is dropped; there is one batch at least."""
    return max(1, images // batch_size)


def sampling_weights(labelled: Bool[np.ndarray, " N"]) -> Float[Tensor, " N"]:
    """1 of a labelled image, |labelled| / |unlabelled| of another: half of the draws are of each.

    Where there is only one kind, all weigh alike.
    """
    some, others = int(labelled.sum()), int((~labelled).sum())
    if some == 0 or others == 0:
        return torch.ones(len(labelled), dtype=torch.float64)
    return torch.from_numpy(np.where(labelled, 1.0, some / others))
