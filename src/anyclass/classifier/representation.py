"""Representation of images: features of one image tower, or of two, as the input of a head.

Letters: n images, D dimensions of the space shared with texts, H of the image tower before its
projection, E columns of a row.

    projected   unit features after the projection (D)
    pooled      unit features before the projection (H)
    both        after the projection, before it (not normalised), and a one: E = D + H + 1

Features of two towers are concatenated and divided by sqrt(2), so that a cosine is the mean of both
towers' cosines.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone, Part
from anyclass.classifier.settings import Space
from anyclass.data import ImageDataset, Rejection
from anyclass.features.cache import Features, cached_part
from anyclass.features.extract import image_features, map_rows, stack_features
from anyclass.features.stream import StreamResources, raise_if_rejected, stream


@dataclass(frozen=True)
class Representation:
    """Features of an image, the input of a head."""

    towers: tuple[Backbone, ...]
    """The adapted model, optionally followed by the model before training (ReCLIP)."""
    part: Part | None = None
    """Trained part of the first tower; None: none."""
    space: Space = "projected"
    """Feature space."""

    @property
    def clip(self) -> Backbone:
        """The adapted model."""
        return self.towers[0]

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.clip.device

    @property
    def width(self) -> int:
        """E, number of columns."""
        with torch.no_grad():
            hidden = self.clip.trunk(self.clip.synthetic(), "head")
            return self.rows(hidden, "head").shape[1]

    @property
    def comparable_width(self) -> int | None:
        """First columns that images are compared by, up to the projection; None: all."""
        return self.fingerprint().shape[1] if self.space == "both" else None

    def rows(self, hidden: Float[Tensor, "n ..."], part: Part) -> Float[Tensor, "n E"]:
        """Rows of images from their trunk outputs for `part`."""
        if self.space == "pooled":
            return normalize(self.clip.pooled(hidden, part), dim=-1)
        x = concat_towers([tower.tail(hidden, part) for tower in self.towers])
        return stack_features(x, self.clip.pooled(hidden, part)) if self.space == "both" else x

    @torch.no_grad()
    def of(self, dataset: ImageDataset, cached: Features) -> Float[Tensor, "n E"]:
        """Rows of a dataset from its cached trunk outputs.

        If the whole first tower was trained, the images are read again.

        Args:
            dataset: the images, all readable.
            cached: trunk outputs of their test views, for `cached_part(self.part)`.

        Raises:
            AnyclassError: an image is no longer readable.
        """
        part = cached_part(self.part)
        if self.part != "all":
            return map_rows(partial(self.rows, part=part), self.clip.device, cached)
        rows = [replace(self, towers=self.towers[:1])._streamed(dataset)]
        for tower in self.towers[1:]:
            rows.append(image_features(tower, cached, part))
        return concat_towers(rows)

    def stream(
        self, dataset: ImageDataset, resources: StreamResources = StreamResources()
    ) -> Iterator[tuple[list[int], Float[Tensor, "n E"], list[Rejection]]]:
        """Rows of images in order, in bounded memory and without the cache.

        Yields indices of readable images, their rows, and rejections.
        """
        part = self.part or "head"
        return stream(self.clip, dataset, part, partial(self.rows, part=part), resources)

    def _streamed(self, dataset: ImageDataset) -> Float[Tensor, "n E"]:
        """Rows of a whole dataset, without the cache."""
        parts = []
        for _, rows, rejections in self.stream(dataset):
            raise_if_rejected(rejections)
            parts.append(rows)
        return torch.cat(parts).to(self.clip.device)

    def fingerprint(self) -> Float[Tensor, "3 E"]:
        """Projected features of three synthetic images by all towers."""
        return concat_towers([tower.fingerprint() for tower in self.towers])

    def with_clip(self, clip: Backbone) -> "Representation":
        """Replace the adapted model."""
        return replace(self, towers=(clip, *self.towers[1:]))


def concat_towers(rows: Sequence[Float[Tensor, "n D"]]) -> Float[Tensor, "n E"]:
    """Unit rows of E = D or 2 D columns from the unit rows of one tower or two.

    Cosines between such rows are the means of the towers' cosines.
    """
    return torch.cat(list(rows), dim=1) / sqrt(len(rows))


def unit_features(rows: Float[Tensor, "n E"], width: int | None) -> Float[np.ndarray, "n D"]:
    """Unit features to compare images by: the first `width` columns, as of `comparable_width`."""
    unit: Float[np.ndarray, "n D"] = normalize(rows[:, :width].float(), dim=1).cpu().numpy()
    return unit
