"""`PrecomputedFeatures`: features that were computed before, in the place of images and a model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.backbone import Part
from anyclass.data import Classes, ImageDataset
from anyclass.data.feature_tables import FeatureTable
from anyclass.features.store import FeatureStore
from anyclass.log import Log, silent


@dataclass(frozen=True, eq=False)
class PrecomputedFeatures:
    """Features of images, and texts of classes: what a `FeatureStore` computes, as it was given."""

    table: FeatureTable
    """The features, and the names of their rows."""
    dataset: ImageDataset
    """The same rows, with labels and classes."""
    texts: Float[Tensor, "C D"]
    """Unit text feature of each class with a name; NaN: the class has no text."""
    logit_scale: float
    """1 / tau, the factor on cosine similarities."""
    negatives: Float[Tensor, "M D"] | None = None
    """Text features of nouns other than the classes, if there are any."""
    digest: str = ""
    """Checksum of the features."""

    def __len__(self) -> int:
        """N, the number of images."""
        return len(self.table)

    @property
    def device(self) -> torch.device:
        """Device of the features."""
        return torch.device("cpu")

    @property
    def extra_width(self) -> int:
        """H, 0 without further features."""
        return 0 if self.table.extra is None else int(self.table.extra.shape[1])

    def of(self, dataset: ImageDataset) -> "PrecomputedFeatures":
        """The same features with other labels or classes."""
        return replace(self, dataset=dataset)

    def checked(self) -> "PrecomputedFeatures":
        """The same features with a checksum; every value is read.

        Raises:
            RequestError: a value is not finite, or a row is zero.
        """
        digest = sha256()
        for x, h in self.table.blocks():
            digest.update(x.tobytes())
            digest.update(h.tobytes())
        return replace(self, digest=digest.hexdigest())

    def key(self) -> list[Any]:
        """What identifies model and images."""
        return [self.digest, self.dataset.files]

    def about(self) -> dict[str, Any]:
        """The model, for `environment.json`."""
        return {"id": "features", "weights_sha256": self.digest, "file": self.table.source}

    def arrays(self, log: Log) -> tuple[Any, Any]:
        """Image features (N, D) and further features (N, H), if there are any, as they are."""
        return self.table.x, self.table.extra

    def feature_blocks(self, part: Part, log: Log) -> Iterator[Float[Tensor, "n D"]]:
        """Unit features in blocks."""
        for x, _ in self.table.blocks():
            yield torch.from_numpy(x)

    def image_features(self, part: Part, log: Log) -> Float[Tensor, "N D"]:
        """Unit features of all images, in memory."""
        return torch.cat(list(self.feature_blocks(part, log)))

    def backbone_features(self, part: Part, log: Log) -> Float[Tensor, "N H"]:
        """Further features of all images, in memory; without any, the unit features."""
        if self.table.extra is None:
            return self.image_features(part, log)
        return torch.from_numpy(np.concatenate([h for _, h in self.table.blocks()]))

    def class_features(self, templates: Sequence[str], log: Log = silent) -> Float[Tensor, "C D"]:
        """Unit text feature of each class; NaN: the class has no text."""
        return self.texts

    def noun_features(
        self, template: str, count: int, log: Log = silent
    ) -> Float[Tensor, "M D"] | None:
        """Unit text features of nouns, as they were given; None without any."""
        return self.negatives if count else None

    def named_class_features(
        self, classes: Classes, templates: Sequence[str], log: Log = silent
    ) -> tuple[Int[np.ndarray, " n"], Float[Tensor, "n D"]]:
        """Indices of the classes with a text, and their texts; discovered classes have none."""
        named = np.flatnonzero(~self.texts.isnan().any(1).numpy())
        kept = np.array([c for c in named if classes.kind(int(c)) != "unknown"], np.int64)
        return kept, self.texts[torch.from_numpy(kept)]


AnyFeatures = FeatureStore | PrecomputedFeatures
"""Features of images: of a model that is here, or precomputed."""
