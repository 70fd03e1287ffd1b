"""Trunk outputs of images, read from the cache or computed into it, and features from them."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone, Part
from anyclass.backbone.engine import Engine
from anyclass.data import (
    Augmentation,
    AugmentedViews,
    CropAndFlip,
    ImageDataset,
    Rejection,
    TestTransform,
    content_hashes,
    load_batches,
)
from anyclass.errors import out_of_memory
from anyclass.features.cache import SHARD, Embedding, FeatureCache, Features
from anyclass.files import Pace
from anyclass.log import Log

BATCH = 64
"""Batch size of the trunk; halved when memory runs out."""


class ExtractionState(NamedTuple):
    """Results that `extract` shares within a run."""

    hashes: Sequence[str | None]
    """Content hash of each image; None if it is unreadable."""
    cache: FeatureCache
    """Cached rows."""
    engine: Engine
    """Engine of the trunk."""


def extract(
    clip: Backbone,
    dataset: ImageDataset,
    how: Embedding,
    state: ExtractionState,
    log: Log,
) -> Features:
    """Trunk outputs of all images, from the cache or computed and added to it.

    Args:
        clip: the model with an untrained trunk.
        dataset: the images.
        how: part and views.
        state: content hashes, cache and engine.
        log: gets `stage="embed"`, `done` and `total`.

    Raises:
        StorageError: the features do not fit on the disk; known after the first of them.
    """
    cache = state.cache
    hashes = state.hashes
    bad: dict[str, Rejection] = {}
    missing = dataset[cache.missing(hashes)]
    begun = False
    for rows, keys, refused in _compute(clip, missing, how, state.engine, log):
        if len(rows) and not begun:
            cache.check_space(rows[0].nbytes * len(missing))
            begun = True
        bad |= {row.file_name: row for row in refused}
        cache.add(rows, keys, _permanent(dataset, hashes, refused))
    cache.join()
    content = dict(zip(dataset.files, hashes, strict=True))
    reasons = {str(content[name]): row for name, row in bad.items() if content[name]}
    reasons |= cache.refused
    changed = Rejection("", "unreadable", "it changed while it was read")
    rejections = []
    for i in [i for i, key in enumerate(hashes) if not cache.has(key)]:
        name = dataset.files[i]
        reason = bad.get(name) or reasons.get(str(content[name]), changed)
        rejections.append(reason._replace(file_name=name))
    return cache.features(hashes, rejections)


@torch.no_grad()
def image_features(
    clip: Backbone, features: Features, part: Part, index: Int[Tensor, " n"] | None = None
) -> Float[Tensor, "n D"]:
    """Unit features of the first view of all N images or of rows `index`, through the tail."""
    return map_rows(lambda hidden: clip.tail(hidden, part), clip.device, features, index)


@torch.no_grad()
def map_rows(
    function: Callable[[Tensor], Tensor],
    device: torch.device,
    features: Features,
    index: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "n W"]:
    """Apply a function to the first view of all N images or of rows `index`."""
    rows = torch.arange(len(features)) if index is None else index.cpu()
    hidden = (features[some][:, 0].to(device) for some in rows.split(SHARD))
    return torch.cat([function(some) for some in hidden])


def pooled_features(clip: Backbone, features: Features, part: Part) -> Float[Tensor, "N H"]:
    """Unit features before the projection, of the first view of all N images."""
    return map_rows(lambda x: normalize(clip.pooled(x, part), dim=-1), clip.device, features)


@torch.no_grad()
def map_views(
    function: Callable[[Tensor], Tensor], device: torch.device, features: Features
) -> Features:
    """Apply a function to all views of all N images, none rejected; keep the result in memory."""
    parts = []
    views = features[[0]].shape[1]
    for some in torch.arange(len(features)).split(max(1, BATCH // views)):
        hidden = features[some].to(device)
        rows = function(hidden.flatten(0, 1))
        parts.append(rows.unflatten(0, hidden.shape[:2]).cpu())
    index = np.arange(len(features))
    place = np.stack([np.zeros_like(index), index], axis=1)
    return Features([torch.cat(parts)], place, [])


def _permanent(
    dataset: ImageDataset, hashes: Sequence[str | None], rows: Sequence[Rejection]
) -> dict[str, Rejection]:
    """Content hash -> rejection, if the content is the reason and has not changed since."""
    by_name = {row.file_name: row for row in rows if row.reason != "unreadable"}
    index = [i for i, name in enumerate(dataset.files) if name in by_name]
    current = content_hashes(dataset[index])
    return {
        key: by_name[dataset.files[i]]
        for i, key in zip(index, current, strict=True)
        if key and key == hashes[i]
    }


@torch.no_grad()
def _compute(
    clip: Backbone, dataset: ImageDataset, how: Embedding, trunk: Engine, log: Log
) -> Iterator[tuple[Tensor, list[str], list[Rejection]]]:
    """Yield rows, content hashes and rejections as often as keeping them takes little time.

    That is after each batch where computing one takes long; at Ctrl-C what there is.
    """
    rows: list[Tensor] = []
    keys: list[str] = []
    refused: list[Rejection] = []
    transform = make_transform(clip, how.augmentation, how.views, how.seed)
    done = 0
    pace = Pace()
    if len(dataset):
        log(stage="embed", done=0, total=len(dataset))
    try:
        for batch, bad in load_batches(dataset, transform, BATCH):
            if batch.indices:
                rows.append(_forward(trunk, batch.pixels))
                keys += batch.hashes
            done += len(batch.indices) + len(bad)
            refused += bad
            log(stage="embed", done=done, total=len(dataset))
            if keys and (len(keys) >= SHARD or pace.due()):
                with pace.saving():
                    yield torch.cat(rows), keys, refused
                rows = []
                keys = []
                refused = []
    except KeyboardInterrupt:
        if keys and len(keys) == sum(map(len, rows)):
            yield torch.cat(rows), keys, refused
        raise
    if keys or refused:
        yield torch.cat(rows) if rows else torch.empty(0), keys, refused


def make_transform(
    clip: Backbone, augmentation: Augmentation | CropAndFlip | None, views: int, seed: int
) -> TestTransform | AugmentedViews:
    """Transform from an image to its views."""
    if augmentation is None:
        return TestTransform(clip.preprocessing)
    return AugmentedViews(clip.preprocessing, augmentation, views, seed)


def _forward(trunk: Engine, pixels: Tensor) -> Tensor:
    """Trunk outputs (b, K, ...) of uint8 views (b, K, 3, H, W); maps in half precision."""

    def run(x: Tensor) -> Tensor:
        return trunk.run(x).cpu()

    hidden = torch.cat([run_halving(run, x) for x in pixels.flatten(0, 1).split(BATCH)])
    hidden = hidden.half() if hidden.ndim > 2 else hidden
    rows: Tensor = hidden.unflatten(0, pixels.shape[:2])
    return rows


def run_halving(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Compute `run(x)`; split the batch in halves while memory runs out."""
    try:
        return run(x)
    except Exception as error:  # ONNX Runtime has its own
        if not out_of_memory(error) or len(x) == 1:
            raise
    middle = len(x) // 2
    return torch.cat([run_halving(run, x[:middle]), run_halving(run, x[middle:])])


def stack_features(x: Float[Tensor, "n E"], h: Float[Tensor, "n H"]) -> Float[Tensor, "n R"]:
    """Rows [x | h | 1] of features x, backbone features h and a one for the bias: R = E + H + 1."""
    return torch.cat([x, h.to(x), torch.ones_like(x[:, :1])], dim=1)
