"""Which images to label next: against loops, and on clusters whose answer is known."""

import numpy as np
import pytest

from anyclass.estimators import active_learning
from anyclass.estimators.active_learning import density, most_useful


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_density__is_the_mean_cosine_to_the_nearest_other_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(active_learning, "NEIGHBOURS", 3)
    monkeypatch.setattr(active_learning, "BLOCK", 4)
    x = unit(np.random.default_rng(0).normal(size=(11, 5)))
    rows = np.array([7, 2, 0, 10, 4])
    expected = []
    for i in rows:
        cosines = sorted((float(x[i] @ x[j]) for j in range(11) if j != i), reverse=True)
        expected.append(max(0.0, sum(cosines[:3]) / 3))
    assert density(x, rows) == pytest.approx(expected, abs=1e-12)


def test_density__of_many_rows_refers_to_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    x = unit(np.random.default_rng(1).normal(size=(60, 3)) + (1, 0, 0))
    exact = density(x, np.arange(60))
    monkeypatch.setattr(active_learning, "REFERENCES", 40)
    sampled = density(x, np.arange(60))
    assert np.corrcoef(exact, sampled)[0, 1] > 0.8
    assert (sampled != exact).any()


def test_density__of_a_single_row_is_one() -> None:
    assert density(np.ones((1, 1)), np.array([0])).tolist() == [1.0]


def three_clusters() -> tuple[np.ndarray, np.ndarray]:
    """12 + 9 + 15 rows in three directions, and one outlier; margins are 0.9 but for some."""
    draw = np.random.default_rng(2)
    centres = np.eye(3, 6)
    sizes = (12, 9, 15)
    rows = [c + 0.05 * draw.normal(size=(n, 6)) for c, n in zip(centres, sizes, strict=True)]
    x = unit(np.concatenate([*rows, -np.eye(1, 6, 5)]))
    return x, np.full(37, 0.9)


def test_most_useful__one_uncertain_row_of_each_cluster_and_no_outlier() -> None:
    x, margin = three_clusters()
    margin[[3, 4, 15, 30, 31, 36]] = (0.2, 0.05, 0.3, 0.1, 0.4, 0.0)  # 36 is the outlier
    chosen = most_useful(x, margin, np.ones(37, bool), 3)
    assert chosen.tolist() == [4, 30, 15]  # by usefulness; 3 and 31 are of the same clusters


def test_most_useful__leaves_out_rows_that_are_no_candidates() -> None:
    x, margin = three_clusters()
    margin[[3, 4, 15, 30]] = (0.2, 0.05, 0.3, 0.1)
    free = np.ones(37, bool)
    free[4] = False
    assert most_useful(x, margin, free, 3).tolist() == [30, 3, 15]
    assert most_useful(x, margin, np.zeros(37, bool), 3).tolist() == []
    assert most_useful(x, margin, free, 0).tolist() == []


def test_most_useful__of_equal_rows_takes_what_there_is() -> None:
    x = np.ones((8, 1))
    assert most_useful(x, np.linspace(0.1, 0.8, 8), np.ones(8, bool), 5).tolist() == [0]
    two = most_useful(x[:2], np.array([0.5, 0.2]), np.ones(2, bool), 5)
    assert two.tolist() == [1, 0]
