"""k-means with some labels against a slow loop.

n = 41 images, D = 6, K = 5, of which 0, 1 and 3 are labelled.
"""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.errors import RequestError
from anyclass.estimators import kmeans as clusters
from anyclass.estimators.kmeans import kmeans, nearest_centre, semi_supervised_kmeans

KNOWN = [0, 1, 3]


def given(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit rows in five loose groups; a third of those of known classes is labelled."""
    draw = torch.Generator().manual_seed(seed)
    true = torch.randint(5, (41,), generator=draw)
    x = torch.randn(5, 6, generator=draw)[true] + 0.6 * torch.randn(41, 6, generator=draw)
    known = (true[:, None] == torch.tensor(KNOWN)).any(1) & (torch.arange(41) % 3 == 0)
    return normalize(x, dim=-1), torch.where(known, true, -1)


def slow(x: Tensor, y: Tensor, centres: Tensor) -> tuple[list[int], Tensor, list[float]]:
    """One restart in loops: labels and centres of the least inertia, and every inertia."""
    best, met = (float("inf"), [], centres), []
    for _ in range(200):
        labels, inertia = [], 0.0
        for i in range(len(x)):
            d = [float((x[i] - c).square().sum()) for c in centres]
            labels.append(int(y[i]) if y[i] >= 0 else int(np.argmin(d)))
            inertia += d[labels[-1]]
        new = [x[[i for i, c in enumerate(labels) if c == k]].mean(0) for k in range(5)]
        met.append(inertia)
        if inertia < best[0]:
            best = (inertia, labels, torch.stack(new))
        moved = sum(float((a - b).norm()) for a, b in zip(new, centres, strict=True))
        centres = torch.stack(new)
        if moved**2 < 1e-4:
            break
    return best[1], best[2], met


@pytest.mark.parametrize("seed", range(2))
def test_semi_supervised__equals_the_loop(seed: int) -> None:
    """With the starts that it drew itself; of all restarts the least inertia wins."""
    x, y = given(seed)
    draw = torch.Generator().manual_seed(seed)
    chance = torch.rand(3, 2, generator=draw, dtype=torch.float64)
    problem = clusters._Problem(x[y < 0], x[y >= 0], y[y >= 0], 5)
    runs = [slow(x, y, start) for start in problem._starts(chance)]
    labels, centres, met = min(runs, key=lambda run: min(run[2]))
    found = semi_supervised_kmeans(x, y, 5, restarts=3, seed=seed)
    assert found.inertia == pytest.approx(min(met), abs=1e-3)
    assert found.labels.tolist() == labels
    assert torch.allclose(found.centres, centres, atol=1e-5)
    for _, _, inertias in runs:
        assert all(b <= a + 1e-4 for a, b in zip(inertias, inertias[1:], strict=False))


def test_starts__are_means_of_labels_and_draws_among_the_unlabelled() -> None:
    """Rows are drawn in proportion to their squared distance to the nearest centre."""
    x, y = given()
    free = x[y < 0]
    chance = torch.rand(4000, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    starts = clusters._Problem(free, x[y >= 0], y[y >= 0], 5)._starts(chance)
    for c in KNOWN:
        assert torch.allclose(starts[:, c], x[y == c].mean(0).expand(4000, 6), atol=1e-6)
    means = torch.stack([x[y == c].mean(0) for c in KNOWN])
    weights = torch.cdist(free, means).square().amin(1)
    drawn = (starts[:, 2][:, None] == free[None]).all(2).float()  # (restarts, u)
    assert drawn.sum(1).eq(1).all()
    share = weights / weights.sum()
    assert (drawn.mean(0) - share).abs().max() < 4 * float((share / 4000).sqrt().max())
    assert not (starts[:, 4] == starts[:, 2]).all(1).any()  # its own distance is 0


@pytest.mark.parametrize("size", [1, 2, 10**6])
def test_semi_supervised__labelled_rows_never_move(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    x, y = given(1)
    whole = semi_supervised_kmeans(x, y, 5, restarts=7, seed=4)
    monkeypatch.setattr(clusters, "AT_ONCE", size * 5 * int((y < 0).sum()))
    found = semi_supervised_kmeans(x, y, 5, restarts=7, seed=4)
    assert (found.labels[y >= 0] == y[y >= 0]).all()
    assert torch.equal(found.labels, whole.labels)  # however many restarts run side by side
    assert set(found.labels.tolist()) == set(range(5))
    for c in range(5):
        assert torch.allclose(found.centres[c], x[found.labels == c].mean(0), atol=1e-6)
    free = y < 0
    assert torch.equal(nearest_centre(x[free], found.centres), found.labels[free])
    again = semi_supervised_kmeans(x, y, 5, restarts=7, seed=4)
    assert torch.equal(again.centres, found.centres)


def test_semi_supervised__without_new_classes_begins_at_the_means() -> None:
    x, y = given(2)
    y = torch.where(y == 3, 2, y)
    found = [semi_supervised_kmeans(x, y, 3, restarts=r, seed=s) for r, s in ((1, 0), (4, 9))]
    assert torch.allclose(found[0].centres, found[1].centres, atol=1e-6)
    known = semi_supervised_kmeans(x[y >= 0], y[y >= 0], 3)
    assert torch.equal(known.labels, y[y >= 0])  # nothing is free: the means


def test_semi_supervised__without_labels_is_k_means() -> None:
    x, _ = given(3)
    none = torch.full((41,), -1)
    found = semi_supervised_kmeans(x, none, 5, restarts=50, seed=1)
    plain = kmeans(x, 5, restarts=50, seed=1)
    assert found.inertia == pytest.approx(plain.inertia, rel=1e-3)
    first = semi_supervised_kmeans(x, none, 1, restarts=1)
    assert torch.allclose(first.centres[0], x.mean(0), atol=1e-6)


def test_semi_supervised__an_empty_cluster_moves_to_the_farthest_row() -> None:
    """Two equal starts: ties go to the first, so that the second is empty."""
    x = torch.tensor([[0.0, 0], [0.1, 0], [0.2, 0], [5, 0], [0, 0.1]])
    problem = clusters._Problem(x, x[:0], torch.zeros(0, dtype=torch.long), 2)
    problem._starts = lambda chance: torch.zeros(1, 2, 2)  # type: ignore[method-assign]
    found = problem.run(torch.rand(1, 2, dtype=torch.float64), 200)
    assert found.labels[0].tolist() == [0, 0, 0, 1, 0]
    assert torch.isfinite(found.centres).all()


def test_semi_supervised__equal_images_and_few_of_them() -> None:
    x, y = torch.ones(7, 3), torch.tensor([0, 0, 1, -1, -1, -1, -1])
    assert torch.isfinite(semi_supervised_kmeans(x, y, 4, restarts=2).centres).all()
    with pytest.raises(RequestError, match="5 classes cannot be found in 4 images"):
        semi_supervised_kmeans(x, y, 7)
    with pytest.raises(RequestError, match="8 classes cannot be found in 7 images; ask"):
        kmeans(x, 8)


# --- how many classes
