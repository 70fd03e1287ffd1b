"""Pairs of views: a function of seed and step, two views of each, half of them labelled.

N = 11 images, 3 of them labelled, B = 4, V = 5 cached views.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from anyclass.backbone import Backbone
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.features.cache import Embedding
from anyclass.features.store import FeatureStore
from anyclass.training.batches import Batch, Batches
from anyclass.training.two_views import TwoViewBatches, TwoViewTuning, sampling_weights

HOW = TwoViewTuning(tune="head", epochs=3, batch_size=4, views=5)


@pytest.fixture(scope="module")
def clip(tiny_clip: Callable[..., str]) -> Backbone:
    return Backbone.load(tiny_clip("causal"), engine="torch")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    root, noise = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for i in range(11):
        tiles = noise.integers(0, 256, (6, 5, 3)).astype(np.uint8)
        Image.fromarray(tiles).resize((60, 53)).save(root / f"{i:02}.png")
    labels = np.where(np.isin(np.arange(11), [2, 5, 6]), 0, -1)
    return replace(ImageDataset.read(root, ["one"], unknown=1), labels=labels)


def made(
    clip: Backbone, dataset: ImageDataset, how: TwoViewTuning = HOW, seed: int = 3
) -> TwoViewBatches:
    return how.pairs(
        clip, dataset, how.cached_views(FeatureStore(clip, dataset), lambda **_: None, seed), seed
    )


def same(a: Batch, b: Batch) -> bool:
    views = a.view is b.view is None or torch.equal(a.view, b.view)
    return (
        (a.step, a.starts_epoch, a.files) == (b.step, b.starts_epoch, b.files)
        and torch.equal(a.index, b.index)
        and torch.equal(a.hidden, b.hidden)
        and views
    )


@pytest.mark.parametrize("views", [5, 0])
def test_pairs__are_a_function_of_seed_and_step(
    clip: Backbone, dataset: ImageDataset, views: int
) -> None:
    how = replace(HOW, views=views)
    pairs = made(clip, dataset, how)
    assert isinstance(pairs, Batches)
    assert (len(pairs), pairs.per_epoch) == (6, 2)
    whole = list(pairs.start(0))
    assert [batch.step for batch in whole] == list(range(6))
    assert [batch.starts_epoch for batch in whole] == [True, False] * 3
    for step in range(7):
        torch.rand(step)  # whatever else is drawn
        rest = list(made(clip, dataset, how).start(step))
        assert len(rest) == 6 - step
        assert all(same(a, b) for a, b in zip(rest, whole[step:], strict=True))
    other = next(iter(made(clip, dataset, how, seed=4).start(0)))
    assert not torch.equal(other.index, whole[0].index)


def test_pairs__are_two_different_cached_views_of_each_image(
    clip: Backbone, dataset: ImageDataset
) -> None:
    how = replace(HOW, epochs=60)
    pairs, drawn = made(clip, dataset, how), set()
    views = FeatureStore(clip, dataset).embed(
        Embedding("head", how.augmentation, 5, 3), lambda **_: None
    )
    for batch in pairs.start(0):
        assert batch.hidden.shape == (8, 32)
        assert batch.view is not None
        assert torch.equal(batch.index[:4], batch.index[4:])
        assert (batch.view[:4] != batch.view[4:]).all()
        assert batch.files == tuple(f"{i:02}.png" for i in batch.index.tolist())
        table = views[batch.index]
        assert torch.equal(batch.hidden, table[torch.arange(8), batch.view])
        drawn |= set(zip(batch.view[:4].tolist(), batch.view[4:].tolist(), strict=True))
    assert len(drawn) == 20  # every ordered pair


def test_pairs__drawn_anew_are_two_views_that_no_epoch_repeats(
    clip: Backbone, dataset: ImageDataset
) -> None:
    seen: dict[int, list[torch.Tensor]] = {}
    for batch in made(clip, dataset, replace(HOW, views=0)).start(0):
        assert batch.view is None
        assert batch.hidden.shape == (8, 32)
        for i, first, other in zip(batch.index, batch.hidden[:4], batch.hidden[4:], strict=False):
            assert not torch.equal(first, other)
            seen.setdefault((batch.step // 2, int(i)), []).append(first)
    firsts = {first[0].numpy().tobytes() for first in seen.values()}
    assert len(firsts) == len(seen)


def test_pairs__are_labelled_half_of_the_time(clip: Backbone, dataset: ImageDataset) -> None:
    batches = made(clip, dataset, replace(HOW, epochs=400)).start(0)
    index = torch.cat([batch.index[:4] for batch in batches])
    labelled = torch.from_numpy(dataset.labels.copy())[index] >= 0
    assert abs(labelled.float().mean() - 0.5) < 0.04
    assert len(index.unique()) == 11
    assert sampling_weights(dataset.labels >= 0)[[0, 2]].tolist() == [3 / 8, 1.0]
    for one_kind in (np.ones(5, dtype=bool), np.zeros(5, dtype=bool)):
        assert sampling_weights(one_kind).tolist() == [1.0] * 5


def test_pairs__of_a_small_folder_are_all_of_it(clip: Backbone, dataset: ImageDataset) -> None:
    pairs = made(clip, dataset, replace(HOW, batch_size=500))
    assert [len(batch.index) for batch in pairs.start(0)] == [22, 22, 22]


def test_embed__one_view_is_no_pair(clip: Backbone, dataset: ImageDataset) -> None:
    with pytest.raises(RequestError, match="two or more cached views"):
        made(clip, dataset, replace(HOW, views=1))


def test_schedule__is_that_of_the_papers(clip: Backbone) -> None:
    sgd = TwoViewTuning().schedule(clip, 5994)
    assert (sgd.momentum, sgd.weight_decay, sgd.decay) == (0.9, 5e-5, "all")
    assert sgd.shares == {"visual.": 1.0}
    rates = [sgd.rate.at(46 * epoch, 46 * 200) for epoch in (0, 100, 199)]
    assert rates == pytest.approx([0.1, 0.05005, 1.0616e-4], rel=1e-4)
    slower = TwoViewTuning(backbone_lr=0.005).schedule(clip, 5994)
    assert slower.shares == {"visual.": pytest.approx(0.05)}


def test_schedule__a_batch_normed_tower_moves_less(tiny_clip: Callable[..., str]) -> None:
    clip = Backbone.load(tiny_clip("huggingface"), engine="torch")
    assert TwoViewTuning().schedule(clip, 9).shares == {"visual.": 0.01}
    assert TwoViewTuning(backbone_lr=0.1).schedule(clip, 9).shares == {"visual.": 1.0}
    with pytest.raises(RequestError, match="with --backbone-lr, --lr must not be 0"):
        TwoViewTuning(lr=0, backbone_lr=0.1).schedule(clip, 9)
