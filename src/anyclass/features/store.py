"""`FeatureStore`: features of the images of a run, computed once."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.backbone import Backbone, Part
from anyclass.backbone.engine import Engine, engine
from anyclass.data import Classes, ImageDataset, content_hashes
from anyclass.data.nouns import some_nouns
from anyclass.distributed.processes import first_process_first, from_first
from anyclass.features.cache import Embedding, FeatureCache, Features, cache_folder_of
from anyclass.features.extract import (
    ExtractionState,
    extract,
    image_features,
    map_rows,
)
from anyclass.features.text import cached_class_features
from anyclass.log import Log, silent

PROJECTED = 50_000
"""Largest number of images whose projected features are cached beside their trunk outputs."""


class FeatureStore:
    """Images, an untrained model and the features computed from both, in memory and on disk.

    Images are hashed once, weights are hashed once, an engine is built once per part, and trunk
    outputs are read or computed once per embedding.
    """

    def __init__(self, clip: Backbone, dataset: ImageDataset) -> None:
        """Store the arguments; nothing is computed yet.

        Args:
            clip: the model; methods train a copy of it.
            dataset: the images, their labels and the classes.
        """
        self.clip = clip
        self.dataset = dataset
        self._shared = _SharedResults(clip)

    def __len__(self) -> int:
        """N, the number of images."""
        return len(self.dataset)

    def of(self, dataset: ImageDataset) -> "FeatureStore":
        """Store for the same images with other labels or classes, or for some of the images.

        Both stores share their results.
        """
        store = FeatureStore(self.clip, dataset)
        store._shared = self._shared
        return store

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.clip.device

    @property
    def logit_scale(self) -> float:
        """1 / tau of the model, the factor on cosine similarities."""
        return float(self.clip.logit_scale.detach())

    def key(self) -> list[Any]:
        """What identifies model and images."""
        return [self.clip.weights_sha256, self.dataset.files, self.hashes()]

    def about(self) -> dict[str, Any]:
        """The model, for `environment.json`."""
        preprocessing = self.clip.preprocessing.to_json()
        model = {"id": self.clip.model_id, "weights_sha256": self.clip.weights_sha256}
        return model | {"preprocessing": preprocessing}

    def hashes(self) -> list[str | None]:
        """sha256 of the content of each image; None if it is unreadable."""
        return self._shared.hashes(self.dataset)

    def embed(self, how: Embedding, log: Log) -> Features:
        """Trunk outputs of all images.

        Args:
            how: part and views.
            log: gets `stage="embed"`, `done` and `total` while rows are computed.
        """
        key = (how, self.dataset.files)
        if key not in self._shared.embedded:
            self.hashes()
            with first_process_first():  # the others find all rows in the cache
                state = self._shared.state(self.dataset, how, log)
                self._shared.embedded[key] = extract(self.clip, self.dataset, how, state, log)
        return self._shared.embedded[key]

    def image_features(self, part: Part, log: Log) -> Float[Tensor, "N D"]:
        """Unit features of the test views from the untrained model.

        Args:
            part: part of the model whose trunk outputs are cached, "head" or "tail".
            log: gets the progress of embedding.
        """
        key = (part, self.dataset.files)
        if key not in self._shared.features:
            hidden = self.embed(Embedding(part), log)
            with first_process_first():
                found = self._shared.project(self.dataset, hidden, part, log)
            self._shared.features[key] = found
        return self._shared.features[key]

    def feature_blocks(self, part: Part, log: Log) -> Iterator[Float[Tensor, "n D"]]:
        """Unit features of the test views, in blocks: here in one."""
        yield self.image_features(part, log)

    def backbone_features(self, part: Part, log: Log) -> Float[Tensor, "N H"]:
        """Features of the test views before the projection, not normalised."""
        pooled = partial(self.clip.pooled, part=part)
        return map_rows(pooled, self.clip.device, self.embed(Embedding(part), log))

    def arrays(self, log: Log) -> tuple[Any, Any]:
        """Unit features (N, D) and those before the projection (N, H), on the CPU."""
        x = self.image_features("head", log).cpu()
        return x, self.backbone_features("head", log).to(x)

    def named_class_features(
        self, classes: Classes, templates: Sequence[str], log: Log = silent
    ) -> tuple[Int[np.ndarray, " n"], Float[Tensor, "n D"]]:
        """Indices of the classes with a name, and their unit text features."""
        named = [c for c in range(len(classes)) if classes.kind(c) != "unknown"]
        prompts = [classes.all_prompts[c] for c in named]
        if not prompts:
            return np.array([], np.int64), torch.zeros(0, 0, device=self.device)
        return np.array(named), cached_class_features(self.clip, prompts, templates, log)

    def class_features(self, templates: Sequence[str], log: Log = silent) -> Float[Tensor, "C D"]:
        """Unit text feature of each class, cached on disk."""
        return cached_class_features(self.clip, self.dataset.classes.all_prompts, templates, log)

    def noun_features(
        self, template: str, count: int, log: Log = silent
    ) -> Float[Tensor, "M D"] | None:
        """Unit text features of common nouns, cached on disk; None for none.

        Args:
            template: prompt template.
            count: M, about.
            log: gets the progress of encoding.
        """
        if not count:
            return None
        return cached_class_features(self.clip, some_nouns(count), [template], log)


class _SharedResults:
    """Results that stores of the same model share."""

    def __init__(self, clip: Backbone) -> None:
        self.embedded: dict[tuple[Embedding, tuple[str, ...]], Features] = {}
        self.features: dict[tuple[Part, tuple[str, ...]], Tensor] = {}
        self._clip = clip
        self._hashes: dict[str, str | None] = {}
        self._engines: dict[Part, Engine] = {}
        self._caches: dict[Embedding, FeatureCache] = {}
        self._digests: dict[Part, str] = {}

    def state(self, dataset: ImageDataset, how: Embedding, log: Log) -> ExtractionState:
        """Content hashes, cache and engine."""
        trunk_engine = self.engine(how.part)
        if how not in self._caches:
            digest = self._digest(how.part)
            folder = cache_folder_of(self._clip, digest, how, trunk_engine.name)
            self._caches[how] = FeatureCache(folder, log)
        return ExtractionState(self.hashes(dataset), self._caches[how], trunk_engine)

    @torch.no_grad()
    def project(
        self, dataset: ImageDataset, hidden: Features, part: Part, log: Log
    ) -> Float[Tensor, "N D"]:
        """Unit features from trunk outputs; of at most `PROJECTED` images cached as well.

        With them a repeated run does not need the weights of the model.
        """
        hashes = self.hashes(dataset)
        if not 0 < len(hashes) <= PROJECTED or None in hashes:
            return image_features(self._clip, hidden, part)
        weights = self._clip.weights_sha256
        name = self.engine(part).name
        folder = cache_folder_of(self._clip, weights, Embedding(part), name, projected=True)
        cache = FeatureCache(folder, log)
        missing = cache.missing(hashes)
        if missing:
            rows = image_features(self._clip, hidden, part, torch.tensor(missing))
            cache.add(rows[:, None].cpu(), [str(hashes[i]) for i in missing], {})
        features = cache.features(hashes, [])
        return map_rows(lambda x: x, self._clip.device, features)

    def engine(self, part: Part) -> Engine:
        """Engine of the trunk for a part."""
        if part not in self._engines:
            self._engines[part] = engine(self._clip, part)
        return self._engines[part]

    def _digest(self, part: Part) -> str:
        """Digest of the frozen part of the model if `part` is trained."""
        if part not in self._digests:
            self._digests[part] = self._clip.frozen_sha256(part)
        return self._digests[part]

    def hashes(self, dataset: ImageDataset) -> list[str | None]:
        """Content hash of each image."""
        missing = [i for i, file in enumerate(dataset.files) if file not in self._hashes]
        new = dataset[missing]
        found = from_first(partial(content_hashes, new)) if missing else []
        self._hashes |= dict(zip(new.files, found, strict=True))
        return [self._hashes[file] for file in dataset.files]
