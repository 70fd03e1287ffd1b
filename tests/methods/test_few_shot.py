"""Few-shot features: which pictures, which views, batches that are a function of seed and step.

13 pictures of 3 of 4 classes, four of them without a label; n = 11 features, K = 3 views, D = 5.
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
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.data import Classes, Photos
from anyclass.errors import RequestError
from anyclass.features.extract import Embedding, embed
from anyclass.methods.few_shot import CROPS, FewShot, Lesson, Made, Shown, draw_shots
from anyclass.training.batches import Batch

LABELS = np.array([2, 0, -1, 2, 2, 0, -1, 2, 1, -1, 2, 0, -1])
CLASSES = Classes.of(("two", "orange", "art", "image"))


@pytest.fixture(scope="module")
def clip(tiny_clip: Callable[..., str]) -> Backbone:
    return Backbone.load(tiny_clip("causal"), engine="torch")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    root, noise = tmp_path_factory.mktemp("mosaics"), np.random.default_rng(0)
    for i in range(13):
        tiles = noise.integers(0, 256, (3 + i % 3, 4, 3)).astype(np.uint8)
        mosaic = Image.fromarray(tiles).resize((50 + 3 * i, 44), Image.Resampling.NEAREST)
        mosaic.save(root / f"{i:02}.png")
    return replace(Photos.read(root, CLASSES.names), labels=LABELS)


@pytest.fixture
def shown() -> Shown:
    x = torch.randn(11, 3, 5, generator=torch.Generator().manual_seed(0))
    c = torch.tensor([3, 0, 3, 3, 2, 0, 3, 2, 3, 3, 0])
    return Shown(normalize(x, dim=-1), c, tuple("abcdefghijk"))


@pytest.fixture
def made() -> Made:
    return Made(
        torch.tensor([1, 4]),
        lambda c, draw: normalize(torch.randn(len(c), 5, generator=draw), dim=-1),
        seed=3,
    )


def quiet(**_: Any) -> None:
    """Takes what is logged."""


# --- which pictures, as what views


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


def test_show__embeds_views_of_the_drawn_pictures(clip: Backbone, photos: Photos) -> None:
    torch.manual_seed(4)
    shown = FewShot(shots=2, views=3).show(clip, photos, quiet, epochs=7)
    rows = draw_shots(LABELS, 2, 4)
    assert shown.files == tuple(photos.files[i] for i in rows)
    assert shown.c.tolist() == LABELS[rows].tolist()
    hidden = embed(clip, photos[rows], Embedding("head", CROPS, 3, 4), quiet)
    for i in range(len(rows)):
        wanted = torch.stack([clip.tail(hidden[[i]][0][[k]], "head")[0] for k in range(3)])
        assert torch.allclose(shown.x[i], wanted, atol=1e-6)
    assert torch.allclose(shown.x.norm(dim=2), torch.ones(5, 3), atol=1e-6)
    assert not shown.x.requires_grad
    assert not shown.fresh
    assert not torch.allclose(shown.x[:, 0], shown.x[:, 1], atol=1e-3)


def test_show__of_every_tower(every_clip: str, photos: Photos) -> None:
    clip = Backbone.load(every_clip, engine="torch")
    shown = FewShot(shots=1, views=2).show(clip, photos, quiet, epochs=1)
    assert shown.x.shape == (3, 2, clip.fingerprint().shape[1])
    assert torch.allclose(shown.x.norm(dim=2), torch.ones(3, 2), atol=1e-5)


def test_show__a_new_view_for_every_epoch(clip: Backbone, photos: Photos) -> None:
    shown = FewShot(views=0).show(clip, photos, quiet, epochs=4)
    assert shown.x.shape[:2] == (9, 4)
    for batch in shown.batches(2, epochs=4, seed=1).start(0):
        epoch = batch.step // 5
        assert torch.equal(batch.hidden, shown.x[batch.index, epoch])
    assert FewShot(views=0).show(clip, photos, quiet, epochs=0).x.shape[:2] == (9, 1)
    longer = shown.batches(9, epochs=6, seed=1).start(4)  # more epochs than views: from the first
    assert [torch.equal(b.hidden, shown.x[b.index, k]) for k, b in enumerate(longer)] == [True] * 2


def test_show__no_label_is_refused(clip: Backbone, photos: Photos) -> None:
    without = replace(photos, labels=np.full(13, -1))
    with pytest.raises(RequestError, match="no picture has a label to learn from"):
        FewShot().show(clip, without, quiet, epochs=1)


# --- features


def test_shown__means_and_classes(shown: Shown) -> None:
    for i in range(11):
        mean = sum(shown.x[i, k] for k in range(3)) / 3
        assert torch.allclose(shown.means[i], mean / mean.norm(), atol=1e-6)
    assert shown.labelled.tolist() == [0, 2, 3]


@pytest.mark.parametrize(("share", "held"), [(0.0, {}), (0.5, {0: 2, 2: 1, 3: 3}), (0.9, {})])
def test_split__holds_out_of_each_class_but_never_all(
    shown: Shown, share: float, held: dict[int, int]
) -> None:
    rest, out = shown.split(share, seed=1)
    assert sorted(rest.files + out.files) == list("abcdefghijk")
    assert rest.labelled.tolist() == [0, 2, 3]
    if share == 0.9:
        held = {0: 2, 2: 1, 3: 5}
    assert Counter(out.c.tolist()) == held
    for part in (rest, out):
        rows = ["abcdefghijk".index(name) for name in part.files]
        assert torch.equal(part.x, shown.x[rows])
        assert torch.equal(part.c, shown.c[rows])


def test_split__by_the_seed(shown: Shown) -> None:
    assert len({shown.split(0.4, seed)[1].files for seed in range(9)}) > 3
    assert shown.split(0.4, 2)[1].files == shown.split(0.4, 2)[1].files


@pytest.mark.parametrize(
    ("size", "whole", "sizes"),
    [(4, False, [4, 4, 3]), (4, True, [4, 4]), (11, True, [11]), (99, True, [11])],
)
def test_batches__of_an_epoch(shown: Shown, size: int, whole: bool, sizes: list[int]) -> None:
    batches = shown.batches(size, epochs=3, seed=0, whole=whole)
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


def test_batches__one_view_of_each_picture(shown: Shown) -> None:
    drawn = Counter[int]()
    for batch in shown.batches(4, epochs=20, seed=0).start(0):
        assert batch.files == tuple("abcdefghijk"[i] for i in batch.index)
        for row, i in zip(batch.hidden, batch.index.tolist(), strict=True):
            views = [k for k in range(3) if torch.equal(row, shown.x[i, k])]
            assert len(views) == 1
            drawn[views[0]] += 1
    assert sum(drawn.values()) == 20 * 11
    assert min(drawn.values()) > 50  # of 73 expected


def alike(one: Batch, other: Batch) -> bool:
    same = torch.equal(one.index, other.index) and torch.equal(one.hidden, other.hidden)
    return same and (one.step, one.starts_epoch) == (other.step, other.starts_epoch)


@pytest.mark.parametrize("whole", [False, True])
def test_batches__start_anywhere(shown: Shown, whole: bool) -> None:
    batches = shown.batches(4, epochs=3, seed=0, whole=whole)
    every = list(batches.start(0))
    for step in range(len(every) + 1):
        later = list(batches.start(step))
        assert len(later) == len(every) - step
        assert all(alike(a, b) for a, b in zip(later, every[step:], strict=True))


def test_batches__shuffle_anew_by_seed_and_epoch(shown: Shown) -> None:
    first, again, other = (
        list(shown.batches(11, epochs=2, seed=seed).start(0)) for seed in (0, 0, 1)
    )
    assert all(alike(a, b) for a, b in zip(first, again, strict=True))
    orders = {tuple(batch.index.tolist()) for batch in [*first, *other]}
    assert len(orders) == 4


# --- features that are made


def test_made__batch_is_fresh_uniform_and_repeatable(made: Made) -> None:
    x, c = made.batch(7, 6)
    again, same = made.batch(7, 6)
    assert torch.equal(x, again)
    assert torch.equal(c, same)
    assert x.shape == (6, 5)
    assert not torch.equal(x, made.batch(8, 6)[0])
    assert not torch.equal(x, replace(made, seed=4).batch(7, 6)[0])
    drawn = Counter(k for step in range(100) for k in made.batch(step, 6)[1].tolist())
    assert set(drawn) == {1, 4}
    expected = 300  # chi-square with one degree of freedom: 6.6 at one percent
    assert sum((n - expected) ** 2 / expected for n in drawn.values()) < 6.6


@pytest.mark.parametrize(("ratio", "count"), [(1.0, 6), (0.5, 3), (2.5, 15), (0.01, 1)])
def test_made__ratio_to_real_features(made: Made, ratio: float, count: int) -> None:
    x, c = replace(made, ratio=ratio).batch(0, 6)
    assert len(x) == len(c) == count


def test_made__each_is_class_after_class(made: Made) -> None:
    x, c = made.each(3)
    assert c.tolist() == [1, 1, 1, 4, 4, 4]
    assert len({tuple(row) for row in x.tolist()}) == 6
    assert torch.equal(x, made.each(3)[0])


def test_made__a_pool_is_drawn_from(made: Made) -> None:
    pooled = replace(made, pool=3)
    x, c = pooled.each(3)
    for step in range(9):
        some, of = pooled.batch(step, 6)
        for row, k in zip(some, of.tolist(), strict=True):
            rows = [i for i in range(6) if torch.equal(row, x[i])]
            assert [int(c[i]) for i in rows] == [k]


# --- what a step learns from


def step(lesson: Lesson) -> tuple[Tensor, Tensor]:
    batch = next(islice(lesson.shown.batches(4, 2, seed=0).start(2), 1))  # the last, smaller one
    x, y = lesson.step(batch)
    assert torch.equal(x[:3], batch.hidden)
    assert lesson.columns[y[:3]].tolist() == lesson.shown.c[batch.index].tolist()
    return x, y


def test_lesson__labelled_classes_alone(shown: Shown) -> None:
    lesson = Lesson.of(shown, Classes.of("abcde"), None, "labelled", quiet)
    assert lesson.columns.tolist() == [0, 2, 3]
    x, y = step(lesson)
    assert len(x) == len(y) == 3
    assert int(y.max()) <= 2


def test_lesson__all_classes(shown: Shown) -> None:
    lesson = Lesson.of(shown, Classes.of("abcde"), None, "all", quiet)
    assert lesson.columns.tolist() == [0, 1, 2, 3, 4]
    assert len(step(lesson)[0]) == 3


@pytest.mark.parametrize("over", ["labelled", "all"])
def test_lesson__made_features_beside_real_ones(shown: Shown, made: Made, over: Any) -> None:
    lesson = Lesson.of(shown, Classes.of("abcde"), made, over, quiet)
    assert lesson.columns.tolist() == [0, 1, 2, 3, 4]
    x, y = step(lesson)
    wanted, c = made.batch(2, 3)
    assert torch.equal(x[3:], wanted)
    assert y[3:].tolist() == c.tolist()


def test_lesson__a_single_class_is_said(shown: Shown) -> None:
    said = list[dict[str, Any]]()
    alone = replace(shown, c=torch.full((11,), 2))
    Lesson.of(alone, Classes.of("abcde"), None, "labelled", lambda **row: said.append(row))
    assert [list(row) for row in said] == [["warning"]]
    Lesson.of(alone, Classes.of("abcde"), None, "all", lambda **row: said.append(row))
    assert len(said) == 1


def test_few_shot__bad_values_are_refused(tmp_path: Path) -> None:
    for bad in ({"shots": 0}, {"views": -1}, {"more": 1}):
        with pytest.raises(ValueError, match="validation error"):
            FewShot(**bad)
