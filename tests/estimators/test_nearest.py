"""Nearest rows: against a loop over all pairs."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from anyclass.estimators import nearest as module
from anyclass.estimators.nearest import nearest_pairs


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 4)


def rows(count: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_nearest__each_pair_once(small_blocks: None) -> None:
    x = rows(11, 0)
    expected = set()
    for i in range(11):
        others = sorted((j for j in range(11) if j != i), key=lambda j: -float(x[i] @ x[j]))
        expected |= {(min(i, j), max(i, j)) for j in others[:2] if float(x[i] @ x[j]) >= 0.3}
    pairs, cosines = nearest_pairs(x, None, 2, 0.3)
    assert sorted(map(tuple, pairs.tolist())) == sorted(expected)
    assert cosines == pytest.approx([float(x[i] @ x[j]) for i, j in pairs])


def test_nearest__among_other_rows(small_blocks: None) -> None:
    x, y = rows(6, 1), rows(9, 2)
    pairs, cosines = nearest_pairs(x, y, 3)
    assert pairs[:, 0].tolist() == np.repeat(np.arange(6), 3).tolist()
    best = pairs[::3, 1]
    assert best.tolist() == (x @ y.T).argmax(1).tolist()
    assert cosines[0] == pytest.approx(float((x @ y.T)[0].max()))


def test_nearest__of_few_rows() -> None:
    assert nearest_pairs(rows(1, 0))[0].shape == (0, 2)
    assert nearest_pairs(rows(0, 0))[0].shape == (0, 2)
    assert nearest_pairs(rows(2, 0), rows(0, 1))[0].shape == (0, 2)
    assert nearest_pairs(rows(2, 0), None, 5)[0].tolist() == [[0, 1]]
