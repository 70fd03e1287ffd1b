"""GCD's number of classes on blobs that tell it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.errors import RequestError
from anyclass.estimators import gcd_num_classes
from anyclass.estimators.gcd_num_classes import estimate_classes


def blobs(seed: int) -> tuple[Tensor, Tensor]:
    """8 known and 4 new classes of 40 in 32 dimensions; half of the known are labelled."""
    draw = torch.Generator().manual_seed(seed)
    true = torch.arange(12).repeat_interleave(40)
    x = torch.randn(12, 32, generator=draw)[true] + 0.35 * torch.randn(480, 32, generator=draw)
    return normalize(x, dim=-1), torch.where((true < 8) & (torch.arange(480) % 2 == 0), true, -1)


@pytest.mark.parametrize("search", ["brent", "grid", "binary"])
@pytest.mark.parametrize("seed", [0])
def test_estimate__is_near_the_truth_and_looks_once(
    monkeypatch: pytest.MonkeyPatch, search: Any, seed: int
) -> None:
    looked, plain = [], gcd_num_classes.kmeans

    def spy(x: Tensor, k: int, **how: Any) -> Any:
        looked.append(k)
        return plain(x, k, restarts=3, **how)

    monkeypatch.setattr(gcd_num_classes, "kmeans", spy)
    x, labels = blobs(seed)
    found = estimate_classes(x, labels, most=40, search=search)
    assert len(looked) == len(set(looked))
    assert list(found.curve) == sorted(looked)
    assert found.curve[found.classes] == max(found.curve.values())
    assert min(looked) >= 8
    assert max(looked) <= 40
    if search != "binary":  # it may stop on the way
        assert abs(found.classes - 12) <= 2


def test_estimate__scores_are_those_of_k_means_on_labelled_images() -> None:
    x, labels = blobs(2)
    found = estimate_classes(x, labels, most=12, search="binary")
    assert found.curve[12] == pytest.approx(1, abs=0.01)
    assert found.curve[8] < 0.9  # new classes share clusters with known ones
    least = estimate_classes(x[labels >= 0], labels[labels >= 0], most=8)
    assert (least.classes, list(least.curve)) == (8, [8])


def test_estimate__between_equal_scores_the_silhouette_decides() -> None:
    """Labelled images are the same at 2 and 3; the unlabelled ones are a third group."""
    draw = torch.Generator().manual_seed(0)
    centre = torch.tensor([[9.0, 0], [-9, 0], [0, 40]])
    true = torch.arange(3).repeat_interleave(20)
    x = centre[true] + torch.randn(60, 2, generator=draw)
    labels = torch.where((true == 1) & (torch.arange(60) % 2 == 0), true, -1)
    found = estimate_classes(x, labels, most=3, search="binary")
    assert found.curve == {1: 1.0, 2: 1.0, 3: 1.0}
    assert found.classes in (2, 3)
    with pytest.raises(RequestError, match="estimated from labels"):
        estimate_classes(x, torch.full((60,), -1))
