"""GCD's estimate of the number of classes: the K at which k-means agrees best with the labels.

Vaze et al., CVPR 2022, arXiv 2201.02609. `num_classes.py` has the estimate of this project.
Letters: n images, D dimensions, K clusters.
"""

from collections.abc import Callable
from itertools import pairwise
from math import log2
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.errors import RequestError
from anyclass.estimators.kmeans import Clusters, check_clusters, kmeans
from anyclass.estimators.metrics import assignment

Search = Literal["brent", "grid", "binary"]
"""Search strategy for the number of classes."""

MAX_CLASSES = 1000
"""Largest number of classes (the official code's); at most a quarter of the images."""

GRID_POINTS = 15
"""Points of the coarse grid."""

SAMPLE = 2000
"""Images for the silhouette score, which breaks ties."""


class GcdEstimate(NamedTuple):
    """Estimated number of classes."""

    classes: int
    """K with the best score."""
    curve: dict[int, float]
    """Score of every evaluated K, ascending."""


def estimate_classes(
    x: Float[Tensor, "n D"],
    labels: Int[Tensor, " n"],
    most: int | None = None,
    search: Search = "brent",
    seed: int = 0,
) -> GcdEstimate:
    """Estimate the number of classes as the K at which k-means agrees best with the labels.

    The score uses labelled images only, so it does not notice how new classes merge or split. Every
    K is evaluated once; the silhouette score breaks ties.

    Args:
        x: unit features.
        labels: class of each labelled image, -1 otherwise.
        most: largest K; None: min(1000, n / 4), and more than the number of labelled classes.
        search: `brent` (the official code), `grid` (log-spaced, then Brent between the neighbours
            of the best), `binary`.
        seed: random seed of k-means.

    Raises:
        RequestError: no image is labelled, or there are fewer images than K.
    """
    known = labels >= 0
    if not bool(known.any()):
        raise RequestError("the number of classes is estimated from labels, but there are none")
    true = labels[known].cpu().numpy()
    least = len(labels[known].unique())
    most = min(len(x), max(least + 1, min(MAX_CLASSES, len(x) // 4))) if most is None else most
    check_clusters(max(least, most), len(x))
    curve: dict[int, float] = {}
    found: dict[int, Clusters] = {}

    def score(k: int) -> float:
        """Clustering accuracy on the labelled images."""
        if k not in curve:
            found[k] = kmeans(x, k, seed=seed)
            guess = found[k].labels[known].cpu().numpy()
            curve[k] = float((assignment(true, guess)[guess] == true).mean())
        return curve[k]

    {"brent": _brent, "grid": _grid, "binary": _binary}[search](score, least, max(least, most))
    best = max(curve.values())
    equal = [k for k in sorted(curve) if curve[k] == best]
    rows = x.detach().cpu().numpy()
    chosen = max(equal, key=lambda k: _silhouette(rows, found[k].labels)) if equal[1:] else equal[0]
    return GcdEstimate(chosen, dict(sorted(curve.items())))


def _brent(score: Callable[[int], float], least: int, most: int) -> None:
    """Brent's bounded search, to a tolerance of half a class."""
    from scipy.optimize import minimize_scalar

    if most > least:
        minimize_scalar(
            lambda k: -score(int(k)),
            bounds=(least, most),
            method="bounded",
            options={"xatol": 0.5},
        )
    else:
        score(least)


def _grid(score: Callable[[int], float], least: int, most: int) -> None:
    """A coarse grid, then Brent's search around its best point."""
    grid = np.unique(np.geomspace(least, most, GRID_POINTS).round().astype(int)).tolist()
    best = max(grid, key=score)
    around = [pair for pair in pairwise(grid) if best in pair]
    if around:
        _brent(score, around[0][0], around[-1][1])


def _binary(score: Callable[[int], float], least: int, most: int) -> None:
    """Binary search for the better half."""
    middle = (least + most) // 2
    for _ in range(int(log2(max(1, most - least)))):
        for k in (least, middle, most):
            score(k)
        least, most = (middle, most) if score(most) > score(least) else (least, middle)
        middle = (least + most) // 2
    for k in (least, middle, most):
        score(k)


def _silhouette(x: Float[np.ndarray, "n D"], labels: Int[Tensor, " n"]) -> float:
    """Silhouette score of the clusters; -1 if it is not defined."""
    from sklearn.metrics import silhouette_score

    rows = x[:SAMPLE]
    c = labels.cpu().numpy()[:SAMPLE]
    if not 1 < len(np.unique(c)) < len(rows):
        return -1.0
    return float(silhouette_score(rows, c))
