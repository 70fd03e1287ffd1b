"""Few-shot features: which images, which views, batches that are a function of seed and step.

13 images of 3 of 4 classes, four of them without a label; n = 11 features, K = 3 views, D = 5.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError
from anyclass.features.cache import Embedding
from anyclass.features.store import FeatureStore
from anyclass.methods.few_shot import CROPS, FewShot, TrainingSet, draw_shots
from anyclass.methods.labelled_features import LabelledFeatures
from anyclass.methods.synthetic_features import SyntheticFeatures
from anyclass.training.batches import Batch

LABELS = np.array([2, 0, -1, 2, 2, 0, -1, 2, 1, -1, 2, 0, -1])
CLASSES = Classes.of(("two", "orange", "art", "image"))


@pytest.fixture(scope="module")
def clip(tiny_clip: Callable[..., str]) -> Backbone:
    return Backbone.load(tiny_clip("causal"), engine="torch")


@pytest.fixture(scope="module")
def dataset(dataset: ImageDataset) -> ImageDataset:
    return replace(dataset, labels=LABELS)


@pytest.fixture
def labelled() -> LabelledFeatures:
    x = torch.randn(11, 3, 5, generator=torch.Generator().manual_seed(0))
    c = torch.tensor([3, 0, 3, 3, 2, 0, 3, 2, 3, 3, 0])
    return LabelledFeatures(normalize(x, dim=-1), c, tuple("abcdefghijk"))


@pytest.fixture
def synthetic() -> SyntheticFeatures:
    return SyntheticFeatures(
        torch.tensor([1, 4]),
        lambda c, draw: normalize(torch.randn(len(c), 5, generator=draw), dim=-1),
        seed=3,
    )


def quiet(**_: Any) -> None:
    """Takes what is logged."""


# --- which images, as what views


@pytest.mark.parametrize("shots", [None, 1, 2, 4, 99])
def test_draw_shots__of_each_class_so_many_or_all(shots: int | None) -> None:
    rows = draw_shots(LABELS, shots, seed=0)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert Counter(LABELS[rows].tolist()) == {
        c: min(n, shots or n) for c, n in {0: 3, 1: 1, 2: 5}.items()
    }


def test_draw_shots__by_the_seed_and_without_regard_to_other_classes() -> None:
    draws = {tuple(draw_shots(LABELS, 2, seed).tolist()) for seed in range(9)}
    assert len(draws) > 3
    assert draw_shots(LABELS, 2, 5).tolist() == draw_shots(LABELS, 2, 5).tolist()
    rows = draw_shots(LABELS, 2, 5)
    fewer = draw_shots(np.where(LABELS == 0, -1, LABELS), 2, 5)
    assert fewer.tolist() == rows[LABELS[rows] != 0].tolist()


def test_draw_shots__nothing_of_nothing() -> None:
    assert draw_shots(np.full(4, -1), 2, 0).tolist() == []


def test_show__embeds_views_of_the_drawn_images(clip: Backbone, dataset: ImageDataset) -> None:
    labelled = FewShot(shots=2, views=3).labelled_features(FeatureStore(clip, dataset), quiet, 7, 4)
    rows = draw_shots(LABELS, 2, 4)
    assert labelled.files == tuple(dataset.files[i] for i in rows)
    assert labelled.c.tolist() == LABELS[rows].tolist()
    hidden = FeatureStore(clip, dataset[rows]).embed(Embedding("head", CROPS, 3, 4), quiet)
    for i in range(len(rows)):
        wanted = torch.stack([clip.tail(hidden[[i]][0][[k]], "head")[0] for k in range(3)])
        assert torch.allclose(labelled.x[i], wanted, atol=1e-6)
    assert torch.allclose(labelled.x.norm(dim=2), torch.ones(5, 3), atol=1e-6)
    assert not labelled.x.requires_grad
    assert not labelled.view_per_epoch
    assert not torch.allclose(labelled.x[:, 0], labelled.x[:, 1], atol=1e-3)


def test_show__of_every_tower(every_clip: str, dataset: ImageDataset) -> None:
    clip = Backbone.load(every_clip, engine="torch")
    labelled = FewShot(shots=1, views=2).labelled_features(FeatureStore(clip, dataset), quiet, 1, 0)
    assert labelled.x.shape == (3, 2, clip.fingerprint().shape[1])
    assert torch.allclose(labelled.x.norm(dim=2), torch.ones(3, 2), atol=1e-5)


def test_show__a_new_view_for_every_epoch(clip: Backbone, dataset: ImageDataset) -> None:
    labelled = FewShot(views=0).labelled_features(FeatureStore(clip, dataset), quiet, 4, 0)
    assert labelled.x.shape[:2] == (9, 4)
    for batch in labelled.batches(2, epochs=4, seed=1).start(0):
        epoch = batch.step // 5
        assert torch.equal(batch.hidden, labelled.x[batch.index, epoch])
    assert FewShot(views=0).labelled_features(FeatureStore(clip, dataset), quiet, 0, 0).x.shape[
        :2
    ] == (9, 1)
    longer = labelled.batches(9, epochs=6, seed=1).start(
        4
    )  # more epochs than views: from the first
    assert [torch.equal(b.hidden, labelled.x[b.index, k]) for k, b in enumerate(longer)] == [
        True
    ] * 2


def test_show__no_label_is_refused(clip: Backbone, dataset: ImageDataset) -> None:
    without = replace(dataset, labels=np.full(13, -1))
    with pytest.raises(RequestError, match="no image has a label"):
        FewShot().labelled_features(FeatureStore(clip, without), quiet, 1, 0)


# --- features


def test_shown__means_and_classes(labelled: LabelledFeatures) -> None:
    for i in range(11):
        mean = sum(labelled.x[i, k] for k in range(3)) / 3
        assert torch.allclose(labelled.means[i], mean / mean.norm(), atol=1e-6)
    assert labelled.classes.tolist() == [0, 2, 3]


@pytest.mark.parametrize(("share", "held"), [(0.0, {}), (0.5, {0: 2, 2: 1, 3: 3}), (0.9, {})])
def test_split__holds_out_of_each_class_but_never_all(
    labelled: LabelledFeatures, share: float, held: dict[int, int]
) -> None:
    rest, out = labelled.split(share, seed=1)
    assert sorted(rest.files + out.files) == list("abcdefghijk")
    assert rest.classes.tolist() == [0, 2, 3]
    if share == 0.9:
        held = {0: 2, 2: 1, 3: 5}
    assert Counter(out.c.tolist()) == held
    for part in (rest, out):
        rows = ["abcdefghijk".index(name) for name in part.files]
        assert torch.equal(part.x, labelled.x[rows])
        assert torch.equal(part.c, labelled.c[rows])


def test_split__by_the_seed(labelled: LabelledFeatures) -> None:
    assert len({labelled.split(0.4, seed)[1].files for seed in range(9)}) > 3
    assert labelled.split(0.4, 2)[1].files == labelled.split(0.4, 2)[1].files


@pytest.mark.parametrize(
    ("size", "drop_last", "sizes"),
    [(4, False, [4, 4, 3]), (4, True, [4, 4]), (11, True, [11]), (99, True, [11])],
)
def test_batches__of_an_epoch(
    labelled: LabelledFeatures, size: int, drop_last: bool, sizes: list[int]
) -> None:
    batches = labelled.batches(size, epochs=3, seed=0, drop_last=drop_last)
    every = list(batches.start(0))
    assert len(batches) == len(every) == 3 * len(sizes)
    assert batches.per_epoch == len(sizes)
    assert [len(batch.index) for batch in every] == sizes * 3
    assert [batch.step for batch in every] == list(range(len(every)))
    assert [batch.starts_epoch for batch in every] == ([True] + [False] * (len(sizes) - 1)) * 3
    for epoch in range(3):
        seen = [
            i
            for b in every[epoch * len(sizes) : (epoch + 1) * len(sizes)]
            for i in b.index.tolist()
        ]
        assert len(seen) == len(set(seen)) == sum(sizes)


def test_batches__one_view_of_each_image(labelled: LabelledFeatures) -> None:
    drawn = Counter[int]()
    for batch in labelled.batches(4, epochs=20, seed=0).start(0):
        assert batch.files == tuple("abcdefghijk"[i] for i in batch.index)
        for row, i in zip(batch.hidden, batch.index.tolist(), strict=True):
            views = [k for k in range(3) if torch.equal(row, labelled.x[i, k])]
            assert len(views) == 1
            drawn[views[0]] += 1
    assert sum(drawn.values()) == 20 * 11
    assert min(drawn.values()) > 50  # of 73 expected


def alike(one: Batch, other: Batch) -> bool:
    same = torch.equal(one.index, other.index) and torch.equal(one.hidden, other.hidden)
    return same and (one.step, one.starts_epoch) == (other.step, other.starts_epoch)


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches__start_anywhere(labelled: LabelledFeatures, drop_last: bool) -> None:
    batches = labelled.batches(4, epochs=3, seed=0, drop_last=drop_last)
    every = list(batches.start(0))
    for step in range(len(every) + 1):
        later = list(batches.start(step))
        assert len(later) == len(every) - step
        assert all(alike(a, b) for a, b in zip(later, every[step:], strict=True))


def test_batches__shuffle_anew_by_seed_and_epoch(labelled: LabelledFeatures) -> None:
    first, again, other = (
        list(labelled.batches(11, epochs=2, seed=seed).start(0)) for seed in (0, 0, 1)
    )
    assert all(alike(a, b) for a, b in zip(first, again, strict=True))
    orders = {tuple(batch.index.tolist()) for batch in [*first, *other]}
    assert len(orders) == 4


# --- features that are made


def test_made__batch_is_fresh_uniform_and_repeatable(synthetic: SyntheticFeatures) -> None:
    x, c = synthetic.batch(7, 6)
    again, same = synthetic.batch(7, 6)
    assert torch.equal(x, again)
    assert torch.equal(c, same)
    assert x.shape == (6, 5)
    assert not torch.equal(x, synthetic.batch(8, 6)[0])
    assert not torch.equal(x, replace(synthetic, seed=4).batch(7, 6)[0])
    drawn = Counter(k for step in range(100) for k in synthetic.batch(step, 6)[1].tolist())
    assert set(drawn) == {1, 4}
    expected = 300  # chi-square with one degree of freedom: 6.6 at one percent
    assert sum((n - expected) ** 2 / expected for n in drawn.values()) < 6.6


@pytest.mark.parametrize(("ratio", "count"), [(1.0, 6), (0.5, 3), (2.5, 15), (0.01, 1)])
def test_made__ratio_to_real_features(
    synthetic: SyntheticFeatures, ratio: float, count: int
) -> None:
    x, c = replace(synthetic, ratio=ratio).batch(0, 6)
    assert len(x) == len(c) == count


def test_made__each_is_class_after_class(synthetic: SyntheticFeatures) -> None:
    x, c = synthetic.per_class(3)
    assert c.tolist() == [1, 1, 1, 4, 4, 4]
    assert len({tuple(row) for row in x.tolist()}) == 6
    assert torch.equal(x, synthetic.per_class(3)[0])


def test_made__a_pool_is_drawn_from(synthetic: SyntheticFeatures) -> None:
    pooled = replace(synthetic, pool=3)
    x, c = pooled.per_class(3)
    for step in range(9):
        some, of = pooled.batch(step, 6)
        for row, k in zip(some, of.tolist(), strict=True):
            rows = [i for i in range(6) if torch.equal(row, x[i])]
            assert [int(c[i]) for i in rows] == [k]


# --- what a step learns from


def step(training_set: TrainingSet) -> tuple[Tensor, Tensor]:
    batch = next(
        islice(training_set.labelled.batches(4, 2, seed=0).start(2), 1)
    )  # the last, smaller one
    x, y = training_set.step(batch)
    assert torch.equal(x[:3], batch.hidden)
    assert training_set.columns[y[:3]].tolist() == training_set.labelled.c[batch.index].tolist()
    return x, y


def test_lesson__labelled_classes_alone(labelled: LabelledFeatures) -> None:
    training_set = TrainingSet.of(labelled, Classes.of("abcde"), None, "labelled", quiet)
    assert training_set.columns.tolist() == [0, 2, 3]
    x, y = step(training_set)
    assert len(x) == len(y) == 3
    assert int(y.max()) <= 2


def test_lesson__all_classes(labelled: LabelledFeatures) -> None:
    training_set = TrainingSet.of(labelled, Classes.of("abcde"), None, "all", quiet)
    assert training_set.columns.tolist() == [0, 1, 2, 3, 4]
    assert len(step(training_set)[0]) == 3


@pytest.mark.parametrize("over", ["labelled", "all"])
def test_lesson__made_features_beside_real_ones(
    labelled: LabelledFeatures, synthetic: SyntheticFeatures, over: Any
) -> None:
    training_set = TrainingSet.of(labelled, Classes.of("abcde"), synthetic, over, quiet)
    assert training_set.columns.tolist() == [0, 1, 2, 3, 4]
    x, y = step(training_set)
    wanted, c = synthetic.batch(2, 3)
    assert torch.equal(x[3:], wanted)
    assert y[3:].tolist() == c.tolist()


def test_lesson__a_single_class_is_said(labelled: LabelledFeatures) -> None:
    said = list[dict[str, Any]]()
    alone = replace(labelled, c=torch.full((11,), 2))
    TrainingSet.of(alone, Classes.of("abcde"), None, "labelled", lambda **row: said.append(row))
    assert [list(row) for row in said] == [["warning"]]
    TrainingSet.of(alone, Classes.of("abcde"), None, "all", lambda **row: said.append(row))
    assert len(said) == 1


def test_few_shot__bad_values_are_refused(tmp_path: Path) -> None:
    for bad in ({"shots": 0}, {"views": -1}, {"more": 1}):
        with pytest.raises(ValueError, match="validation error"):
            FewShot(**bad)
