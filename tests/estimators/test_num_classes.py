"""How many classes there are: the score keeps up to the true number and falls beyond it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score

from anyclass.estimators import num_classes
from anyclass.estimators.num_classes import (
    count_classes,
    estimate_from_curve,
    pair_f1_per_class,
)

Blobs = Callable[[int], Any]


def silent(**_: Any) -> None:
    pass


@pytest.mark.parametrize("seed", [0])
def test_count_classes__finds_the_classes_that_are_there(seed: int) -> None:
    """8 known and 4 new classes, 40 rows each."""
    draw, truth = torch.Generator().manual_seed(seed), torch.arange(12).repeat_interleave(40)
    x, h = (
        torch.randn(12, width, generator=draw)[truth]
        + 0.35 * torch.randn(480, width, generator=draw)
        for width in (32, 37)
    )
    labels = torch.where((truth < 8) & (torch.rand(480, generator=draw) < 0.5), truth, -1)
    found = count_classes(x, labels, silent, extra=h, seed=seed)
    assert 10 <= found.classes <= 14
    assert found.range[0] <= 12 <= found.range[1]


def test_estimate_from_curve__is_the_largest_number_that_is_nearly_as_good() -> None:
    curve = {8: 0.55, 3: 0.77, 4: 0.8, 5: 0.79, 6: 0.785, 7: 0.71}
    found = estimate_from_curve(curve, 400, 20)
    margin = ((0.16 + 1 / 400) / 400) ** 0.5
    assert (found.classes, found.range) == (6, (4, 7)), "0.784 and 0.72 - 0.02 are enough"
    assert found.margin == pytest.approx(margin)
    assert list(found.curve) == [3, 4, 5, 6, 7, 8]
    perfect = estimate_from_curve({3: 1.0, 4: 1.0, 5: 0.99}, 400, 20)
    assert (perfect.classes, perfect.range) == (4, (3, 4)), "then every loss is one too many"


def test_count_classes__evaluates_every_number_from_the_labelled_classes_on(
    loud_blobs: Blobs,
) -> None:
    rows, _, labels = loud_blobs(0)
    log: list[dict[str, Any]] = []
    found = count_classes(rows[:, :12], labels, lambda **row: log.append(row), seed=4)
    assert list(found.curve) == list(range(3, 30)) + [int(k) for k in found.curve if k >= 30]
    assert max(found.curve) == 50
    assert found == estimate_from_curve(found.curve, int((labels >= 0).sum()), 3)
    assert [row["done"] for row in log] == list(range(1, log[-1]["total"] + 1))


@pytest.mark.parametrize("labelled", [0, 1, 40])
def test_count_classes__without_pairs_the_silhouette_decides(labelled: int) -> None:
    """4 apart classes; at most one of them has labels, or each has one label."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.arange(4).repeat_interleave(40)
    x = 3 * torch.randn(4, 16, generator=draw)[truth] + torch.randn(160, 16, generator=draw)
    labels = torch.full_like(truth, -1)
    if labelled == 1:
        labels[::40] = truth[::40]
    labels[: labelled if labelled == 40 else 0] = 0
    found = count_classes(x, labels, silent)
    assert found.classes == 4
    assert found.range[0] <= 4 <= found.range[1]
    assert count_classes(x, labels, silent, seed=3) == found


def test_count_classes__many_images_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(num_classes, "MAX_IMAGES", 200)
    draw = torch.Generator().manual_seed(0)
    truth = torch.arange(6).repeat_interleave(100)
    x = torch.randn(6, 16, generator=draw)[truth] + 0.3 * torch.randn(600, 16, generator=draw)
    labels = torch.where((truth < 4) & (torch.arange(600) % 2 == 0), truth, -1)
    found = count_classes(x, labels, silent)
    assert found.classes == 6
    assert max(found.curve) <= 50


def test_pair_f1_per_class__weighs_classes_alike() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, -1])
    clusters = np.array([5, 5, 5, 5, 5, 7, 7])
    # w = [[1, 0], [1/2, 1/2]]: 2 (1 + 1/4 + 1/4) / (2 + (3/2)^2 + (1/2)^2)
    assert pair_f1_per_class(labels, clusters) == pytest.approx(3 / 4.5)
    assert pair_f1_per_class(labels, labels) == 1
    assert pair_f1_per_class(labels[6:], clusters[6:]) == 0


def test_pair_f1_per_class__judges_some_classes_among_all() -> None:
    labels = np.array([3, 3, 3, 3, 8, 8, 8, 8])
    clusters = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    # w = [[3/4, 1/4], [0, 1]]; of 8: 2 x 1 / (1 + 1 x (1/4 + 1))
    assert pair_f1_per_class(labels, clusters, np.array([8])) == pytest.approx(2 / 2.25)
    # of 3: 2 (9/16 + 1/16) / (1 + (3/4)^2 + 1/4 x 5/4)
    assert pair_f1_per_class(labels, clusters, np.array([3])) == pytest.approx(1.25 / 1.875)
    assert pair_f1_per_class(labels, clusters, np.array([3, 8])) == pytest.approx(
        pair_f1_per_class(labels, clusters)
    )


@pytest.mark.parametrize(
    ("classes", "with_class", "alone"), [(3, 0, 2), (4, 1, 2), (7, 1, 2), (16, 2, 0), (17, 2, 0)]
)
def test_splits__hold_out_every_label_and_shape_features_by_the_others(
    classes: int, with_class: int, alone: int
) -> None:
    """Classes 2, 4 and so on, 5 labels each, and one with a single label.

    Each label is held out `with_class` times with all of its class, `alone` times without it.
    """
    labels = torch.cat([2 + 2 * torch.arange(classes).repeat_interleave(5), torch.tensor([1, -1])])
    splits = num_classes._splits(labels, 3)
    assert sum(split.weight for split in splits) == pytest.approx(1)
    counted: dict[bool, list[int]] = {True: [], False: []}
    for split in splits:
        judged = split.truth.unique() if split.judged is None else torch.tensor(split.judged)
        out = (labels >= 0) & (split.given < 0)
        whole = not bool(torch.isin(split.given, judged[judged >= 0]).any())
        counted[whole] += labels[out].tolist()
        assert torch.equal(split.truth[out], labels[out]), "what is held out is scored"
        assert torch.equal(split.given[~out], labels[~out])
    several = labels[labels > 1].tolist()
    for whole, times in ((True, with_class), (False, alone)):
        assert sorted(c for c in counted[whole] if c > 1) == sorted(times * several)


def test_silhouette__equals_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=draw)
    clusters = torch.randint(5, (30,), generator=draw)
    clusters[0] = 9
    found = num_classes._silhouette(torch.cdist(x, x), clusters)
    assert found == pytest.approx(silhouette_score(x.numpy(), clusters.numpy()), abs=1e-5)


def test_count_classes__numbers_of_labels_mean_nothing(loud_blobs: Blobs) -> None:
    rows, _, labels = loud_blobs(0)
    other = torch.where(labels >= 0, 7 * labels + 2, -1)
    first, second = (count_classes(rows[:, :12], y, silent, most=4) for y in (labels, other))
    assert first == second


def test_count_classes__looks_no_further_than_asked(loud_blobs: Blobs) -> None:
    rows, _, labels = loud_blobs(0)
    assert list(count_classes(rows[:, :12], labels, silent, most=4).curve) == [3, 4]
    assert list(count_classes(rows[:, :12], labels, silent, most=2).curve) == [3]


def test_count_classes__a_class_with_one_label_is_given_or_left_out(loud_blobs: Blobs) -> None:
    rows, truth, labels = loud_blobs(0)
    one = (truth == 2).nonzero()[:1, 0]
    labels = torch.where(truth == 2, -1, labels).index_fill(0, one, 2)
    assert count_classes(rows[:, :12], labels, silent, most=5).classes in (4, 5)
