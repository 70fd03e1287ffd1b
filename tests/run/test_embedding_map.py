"""The map of the embeddings: groups stay together, and the same features give the same map."""

from pathlib import Path

import numpy as np
import pytest

from anyclass.run.embedding_map import (
    SAMPLE,
    EmbeddingMap,
    map_of,
    positions,
    read_map,
    sample_rows,
    write_map,
)
from tests.conftest import steps_of_maps


@pytest.fixture(autouse=True)
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many steps as a user's map takes; elsewhere tests take a few."""
    steps_of_maps(monkeypatch, 250, 500)


def groups(sizes: tuple[int, ...] = (20, 33, 11), width: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Features in well separated groups, and the group of each row."""
    draw = np.random.default_rng(3)
    group = np.repeat(np.arange(len(sizes)), sizes)
    return draw.normal(size=(len(group), width)) + 12 * np.eye(width)[group], group


def test_positions__keep_groups_apart_in_the_unit_square() -> None:
    x, group = groups()
    points = positions(x, 0)
    assert points.shape == (64, 2)
    assert (points.min(), points.max()) == (0.0, 1.0)
    distance = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    np.fill_diagonal(distance, np.inf)
    assert (group[distance.argmin(1)] == group).all()


def test_positions__are_the_same_again_and_different_by_features() -> None:
    x, _ = groups()
    assert np.array_equal(positions(x, 0), positions(x, 0))
    assert not np.array_equal(positions(x, 0), positions(x[::-1], 0)[::-1])


@pytest.mark.parametrize("n", [5, 6, 9])
def test_positions__of_few_images(n: int) -> None:
    assert np.isfinite(positions(np.random.default_rng(1).normal(size=(n, 3)), 0)).all()


def test_positions__of_equal_images() -> None:
    assert (positions(np.ones((6, 4)), 0) == 0.5).all()


def test_map_of__needs_images_and_features() -> None:
    assert map_of(list("abcd"), np.ones((4, 3)), 0) is None
    assert map_of(list("abcdef"), None, 0) is None


def test_sample_rows__are_all_or_some_in_order() -> None:
    assert sample_rows(7, 0).tolist() == list(range(7))
    rows = sample_rows(SAMPLE + 500, 0)
    assert len(set(rows.tolist())) == SAMPLE
    assert rows.tolist() == sorted(rows.tolist())
    assert rows.max() < SAMPLE + 500
    assert rows.tolist() != sample_rows(SAMPLE + 500, 1).tolist()


def test_read_map__is_what_was_written(tmp_path: Path) -> None:
    assert read_map(tmp_path) == {}
    write_map(tmp_path, EmbeddingMap(["b", "a"], np.array([[0.25, 0.5], [1.0, 0.0]])))
    assert read_map(tmp_path) == {"b": (0.25, 0.5), "a": (1.0, 0.0)}
