"""Features of images that are read now: in bounded memory and without the cache."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.backbone import Backbone, Part
from anyclass.backbone.engine import Engine, engine
from anyclass.data import ImageDataset, Rejection, TestTransform, load_batches
from anyclass.errors import AnyclassError
from anyclass.features.cache import Features
from anyclass.features.extract import BATCH, image_features, run_halving


class StreamResources(NamedTuple):
    """What several calls of `stream` share."""

    workers: int | None = None
    """Workers that read ahead; None: as `load_batches` does by default."""
    trunk: Engine | None = None
    """Engine of the trunk; None: each call creates one."""


@torch.no_grad()
def stream(
    clip: Backbone,
    dataset: ImageDataset,
    part: Part,
    rows: Callable[[Tensor], Tensor] | None = None,
    resources: StreamResources = StreamResources(),
) -> Iterator[tuple[list[int], Float[Tensor, "b E"], list[Rejection]]]:
    """Features of images in order, in bounded memory and without the cache.

    Args:
        clip: the model.
        dataset: the images.
        part: trained part of the model, or "head".
        rows: function from trunk outputs to features; None: unit features of the model.
        resources: workers, and the engine if there is one.

    Yields indices of readable images, their features, and rejections.
    """
    trunk = resources.trunk or engine(clip, part)
    head = rows or partial(clip.tail, part=part)

    def features(pixels: Tensor) -> Tensor:
        return head(trunk.run(pixels)).cpu()

    transform = TestTransform(clip.preprocessing)
    for batch, bad in load_batches(dataset, transform, BATCH, resources.workers):
        found = torch.empty(0, 0)
        if batch.indices:
            found = run_halving(features, batch.pixels[:, 0])
        yield batch.indices, found, bad


def current_features(
    clip: Backbone,
    dataset: ImageDataset,
    part: Part,
    cached: Features,
    index: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "n D"]:
    """Unit features of the test views from a model during training.

    Args:
        clip: the model in its current state.
        dataset: the N images, all readable.
        part: trained part of the model.
        cached: trunk outputs of the test views; not used if the whole model is trained.
        index: rows to compute; None: all.

    Raises:
        AnyclassError: an image is no longer readable.
    """
    if part != "all":
        return image_features(clip, cached, part, index)
    selected = dataset if index is None else dataset[index.numpy()]
    rows = []
    for _, features, bad in stream(clip, selected, part):
        raise_if_rejected(bad)
        rows.append(features)
    return torch.cat(rows)


def raise_if_rejected(bad: Sequence[Rejection]) -> None:
    """Stop the training if an image is no longer readable.

    Raises:
        AnyclassError: there is a rejection.
    """
    if bad:
        reason = f"{bad[0].reason} {bad[0].detail}".strip()
        raise AnyclassError(f"{bad[0].file_name} changed during the training: {reason}")
