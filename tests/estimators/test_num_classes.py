"""How many classes there are: the score keeps up to the true number and falls beyond it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from anyclass.errors import RequestError
from anyclass.estimators.num_classes import PATIENCE, estimate_from_curve, estimate_num_classes

Blobs = Callable[[int], Any]


def silent(**_: Any) -> None:
    pass


@pytest.mark.parametrize("seed", [0])
def test_count_classes__finds_the_classes_that_are_there(seed: int) -> None:
    """8 known and 4 new classes, 40 rows each."""
    draw, truth = torch.Generator().manual_seed(seed), torch.arange(12).repeat_interleave(40)
    both = [
        torch.randn(12, width, generator=draw)[truth]
        + 0.35 * torch.randn(480, width, generator=draw)
        for width in (32, 37)
    ]
    labels = torch.where((truth < 8) & (torch.rand(480, generator=draw) < 0.5), truth, -1)
    rows = torch.cat([*both, torch.ones(480, 1)], dim=1)
    found = estimate_num_classes(rows, 32, labels, silent, seed=seed)
    assert 10 <= found.classes <= 14
    assert found.range[0] <= 12 <= found.range[1]


def test_estimate_from_curve__is_the_largest_number_that_is_nearly_as_good() -> None:
    curve = {8: 0.55, 3: 0.77, 4: 0.8, 5: 0.79, 6: 0.765, 7: 0.71}
    found = estimate_from_curve(curve, 400)
    margin = ((0.16 + 1 / 400) / 400) ** 0.5
    assert (found.classes, found.range) == (6, (3, 7)), "0.76 and 0.72 - 0.02 are enough"
    assert found.margin == pytest.approx(margin)
    assert list(found.curve) == [3, 4, 5, 6, 7, 8]
    perfect = estimate_from_curve({3: 1.0, 4: 1.0, 5: 0.99}, 400)
    assert (perfect.classes, perfect.range) == (4, (3, 4)), "then every loss is one too many"


def test_count_classes__stops_where_the_score_has_fallen(loud_blobs: Blobs) -> None:
    rows, _, labels = loud_blobs(0)
    log: list[dict[str, Any]] = []
    found = estimate_num_classes(rows, 12, labels, lambda **row: log.append(row), seed=4)
    assert next(iter(found.curve)) == 3
    assert found == estimate_from_curve(found.curve, int((labels >= 0).sum()))
    assert len([k for k in found.curve if k > found.range[1]]) == PATIENCE
    assert [row["done"] for row in log[:-1]] == list(range(1, len(found.curve)))
    assert log[-1]["done"] == log[-1]["total"] > len(found.curve)


def test_count_classes__numbers_of_labels_mean_nothing(loud_blobs: Blobs) -> None:
    rows, _, labels = loud_blobs(0)
    other = torch.where(labels >= 0, 7 * labels + 2, -1)
    first, second = (estimate_num_classes(rows, 12, y, silent, most=4) for y in (labels, other))
    assert first == second


def test_count_classes__looks_no_further_than_asked(loud_blobs: Blobs) -> None:
    rows, _, labels = loud_blobs(0)
    assert list(estimate_num_classes(rows, 12, labels, silent, most=4).curve) == [3, 4]
    assert list(estimate_num_classes(rows, 12, labels, silent, most=2).curve) == [3]


def test_count_classes__a_class_with_one_label_is_given_or_left_out(loud_blobs: Blobs) -> None:
    rows, truth, labels = loud_blobs(0)
    one = (truth == 2).nonzero()[:1, 0]
    labels = torch.where(truth == 2, -1, labels).index_fill(0, one, 2)
    assert estimate_num_classes(rows, 12, labels, silent, most=5).classes in (4, 5)
    labels = torch.full_like(labels, -1).index_fill(0, one, 2)
    with pytest.raises(RequestError, match="no class has two labelled images"):
        estimate_num_classes(rows, 12, labels, silent)
