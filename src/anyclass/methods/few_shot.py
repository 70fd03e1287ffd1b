"""What few-shot methods learn from: unit features of labelled images, and of none.

Letters: n labelled images, K views of each, D dimensions, C classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass as plain_dataclass
from functools import cached_property
from math import ceil
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.data import Augmentation, Classes, ImageDataset
from anyclass.errors import RequestError
from anyclass.features.extract import Embedding, embed
from anyclass.log import Log
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch

CROPS = Augmentation((0.5, 1.0), jitter_probability=0.0, grey_probability=0.0, flip_probability=0.5)
"""Views of Tip-Adapter, GDA and SHIP: half of the image or more, mirrored or not."""

START, HELD_OUT = -2, -3
"""Set the draws of what is learned, and of held-out images, apart from others by one seed."""

Over = Literal["labelled", "all"]
"""Classes that an image may belong to while training: those with labelled images, or all."""


def refuse_one_class(classes: Classes, who: str) -> None:
    """A method that tells classes apart, `who` in messages, needs two.

    Raises:
        RequestError: there are fewer.
    """
    if len(classes) < 2:
        raise RequestError(f"{who} tells classes apart: it needs two names (--classes FILE)")


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class FewShot:
    """Which labelled images are learned from, and as what views."""

    shots: Annotated[int, Field(gt=0)] | None = None
    """Most labelled images of a class that are learned from, drawn by the seed; None: all."""
    views: Annotated[int, Field(ge=0)] = 10
    """K, augmented views of each that are embedded once; 0: a new one for every epoch."""
    augmentation: Augmentation = CROPS
    """How views vary."""

    def show(
        self, clip: Backbone, dataset: ImageDataset, log: Log, epochs: int
    ) -> "LabelledFeatures":
        """Embed the views of the labelled images, or find them in the cache.

        Args:
            clip: the model.
            dataset: images, all readable; those without a label are left alone.
            log: gets the progress of embedding.
            epochs: of the training that follows, for `views` = 0.

        Raises:
            RequestError: no image has a label.
        """
        seed = torch.initial_seed()
        chosen = dataset[draw_shots(dataset.labels, self.shots, seed)]
        if not len(chosen):
            raise RequestError(
                "no image has a label to learn from: give some (--labels folders|FILE); for "
                "names alone there are latteclip-plus, latteclip and zero-shot"
            )
        how = Embedding("head", self.augmentation, self.views or max(1, epochs), seed)
        hidden = embed(clip, chosen, how, log)
        with torch.no_grad():
            rows = torch.arange(len(chosen)).split(64)
            x = torch.cat([_unit_views(clip, hidden[some].to(clip.device)) for some in rows])
        return LabelledFeatures(x, torch.tensor(chosen.labels), chosen.files, fresh=not self.views)


def draw_shots(
    labels: Int[np.ndarray, " N"], shots: int | None, seed: int
) -> Int[np.ndarray, " n"]:
    """Rows of labelled images, in order: at most `shots` of each class, without replacement."""
    drawn = []
    for c in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == c)
        order = torch.randperm(len(rows), generator=seeded_rng(seed, int(c))).numpy()
        drawn.append(rows[order[:shots]])
    return np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, dtype=np.int64)


@plain_dataclass(frozen=True)
class LabelledFeatures:
    """Labelled images as features."""

    x: Float[Tensor, "n K D"]
    """Unit features of K views."""
    c: Int[Tensor, " n"]
    """Classes."""
    files: tuple[str, ...]
    """File names, for messages."""
    fresh: bool = False
    """Whether view e belongs to epoch e, instead of being drawn."""

    @property
    def means(self) -> Float[Tensor, "n D"]:
        """Mean over the views of each image, made unit again (Tip-Adapter's keys)."""
        means: Tensor = normalize(self.x.mean(dim=1), dim=-1)
        return means

    @property
    def classes(self) -> Int[Tensor, " B"]:
        """Classes that occur, sorted."""
        classes: Tensor = self.c.unique()
        return classes

    def split(self, share: float, seed: int) -> tuple["LabelledFeatures", "LabelledFeatures"]:
        """Images to learn from and images held out, drawn by the seed within each class.

        Of n images round(share n) are held out, but never a class's last.
        """
        held = torch.zeros(len(self.c), dtype=torch.bool)
        for c in self.classes.tolist():
            rows = (self.c == c).nonzero()[:, 0]
            order = torch.randperm(len(rows), generator=seeded_rng(seed, c, HELD_OUT))
            held[rows[order[: min(round(share * len(rows)), len(rows) - 1)]]] = True
        return self._only(~held), self._only(held)

    def _only(self, chosen: Bool[Tensor, " n"]) -> "LabelledFeatures":
        files = tuple(self.files[i] for i in chosen.nonzero()[:, 0].tolist())
        return LabelledFeatures(self.x[chosen.to(self.x.device)], self.c[chosen], files, self.fresh)

    def batches(self, size: int, epochs: int, seed: int, whole: bool = False) -> "LabelledBatches":
        """Batches of features: one view of each image in each epoch.

        Args:
            size: images of a batch; all of them where there are fewer.
            epochs: passes over the images.
            seed: of order and views.
            whole: leave the last, smaller batch of an epoch out.
        """
        return LabelledBatches(self, min(size, len(self.c)), epochs, seed, whole)


@plain_dataclass(frozen=True)
class LabelledBatches:
    """`Batches` for `optimise`: a pure function of the seed and the step."""

    labelled: LabelledFeatures
    """The images."""
    size: int
    """S, images of a batch."""
    epochs: int
    """Passes over the images."""
    seed: int
    """Of order and views."""
    whole: bool
    """Whether the last, smaller batch of an epoch is left out."""

    @property
    def per_epoch(self) -> int:
        """Steps of one pass."""
        n = len(self.labelled.c)
        return n // self.size if self.whole else ceil(n / self.size)

    def __len__(self) -> int:
        """Number of steps."""
        return self.epochs * self.per_epoch

    def start(self, step: int) -> Iterator[Batch]:
        """Batches from `step` on."""
        n, views = self.labelled.x.shape[:2]
        for epoch in range(step // self.per_epoch, self.epochs):
            order = torch.randperm(n, generator=seeded_rng(self.seed, epoch))
            drawn = torch.randint(views, (n,), generator=seeded_rng(self.seed, epoch, views))
            view = torch.full((n,), epoch % views) if self.labelled.fresh else drawn
            parts = order.split(self.size)[: self.per_epoch]
            for position in range(step % self.per_epoch, len(parts)):
                index = parts[position]
                files = tuple(self.labelled.files[i] for i in index.tolist())
                yield Batch(step, position == 0, index, self.labelled.x[index, view[index]], files)
                step += 1


@plain_dataclass(frozen=True)
class SyntheticFeatures:
    """Features of named classes that no image shows."""

    named: Int[Tensor, " M"]
    """Classes that they are made for."""
    make: Callable[[Int[Tensor, " m"], torch.Generator], Float[Tensor, "m D"]]
    """Unit features of classes (m,), drawn with a generator; without a graph."""
    seed: int
    """Of everything that is drawn."""
    ratio: float = 1.0
    """Made features beside each real one of a batch."""
    pool: int | None = None
    """Features of each class that are made once and drawn from; None: fresh ones, always."""

    def batch(self, step: int, size: int) -> tuple[Float[Tensor, "S D"], Int[Tensor, " S"]]:
        """What stands beside `size` real features in one step: classes uniform, with replacement.

        A pure function of the seed and the step.
        """
        drawing, count = seeded_rng(self.seed, step), max(1, round(self.ratio * size))
        which = torch.randint(len(self.named), (count,), generator=drawing)
        if self.pool is None:
            return self.make(self.named[which], drawing), self.named[which]
        row = which * self.pool + torch.randint(self.pool, (count,), generator=drawing)
        x, c = self._pooled
        return x[row], c[row]

    def each(self, count: int) -> tuple[Float[Tensor, "m D"], Int[Tensor, " m"]]:
        """`count` features of every named class, class after class: m = M count."""
        c = self.named.repeat_interleave(count)
        return self.make(c, seeded_rng(self.seed, -1)), c

    @cached_property
    def _pooled(self) -> tuple[Float[Tensor, "m D"], Int[Tensor, " m"]]:
        return self.each(self.pool or 1)


@plain_dataclass(frozen=True)
class TrainingSet:
    """What a step learns from: real features, those made for named classes, and which columns."""

    labelled: LabelledFeatures
    """Labelled images."""
    synthetic: SyntheticFeatures | None
    """Features of named classes, if there are any."""
    columns: Int[Tensor, " M"]
    """Classes that cross-entropy tells apart, sorted."""

    @classmethod
    def of(
        cls,
        labelled: LabelledFeatures,
        classes: Classes,
        synthetic: SyntheticFeatures | None,
        over: Over,
        log: Log,
    ) -> "TrainingSet":
        """Over all classes if features are made or if told so, else over the labelled ones."""
        everything = synthetic is not None or over == "all"
        columns = torch.arange(len(classes)) if everything else labelled.classes
        if len(columns) < 2:
            log(warning="one class alone has labelled images: there is nothing to tell it from")
        return cls(labelled, synthetic, columns)

    def step(self, batch: Batch) -> tuple[Float[Tensor, "S D"], Int[Tensor, " S"]]:
        """Features of a step, real ones first, and their places among the columns."""
        x, c = batch.hidden, self.labelled.c[batch.index]
        if self.synthetic is not None:
            x_synthetic, c_synthetic = self.synthetic.batch(batch.step, len(c))
            x, c = torch.cat([x, x_synthetic.to(x)]), torch.cat([c, c_synthetic.to(c)])
        return x, torch.searchsorted(self.columns, c).to(x.device)


def _unit_views(clip: Backbone, hidden: Float[Tensor, "b K ..."]) -> Float[Tensor, "b K D"]:
    flat = clip.tail(hidden.flatten(0, 1), "head")
    return flat.reshape(*hidden.shape[:2], -1)
