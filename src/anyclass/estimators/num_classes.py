"""Estimate the number of classes with held-out labels.

The project's own, after the estimate of GCD (arXiv 2201.02609; `kmeans.estimate_classes`), which
takes the K at which k-means of frozen features agrees best with the labels.

    score(K) = F1 of pairs of held-out images: same cluster as a prediction of same class
    K^       = the largest K with score(K) >= b - t min(b, 5 (1 - b)),   b = max score
    t        = 0.01 + 0.2 / L: the fewer labelled classes, the less certain is the score

Half of the labelled classes are held out as a whole, then the other half: like new classes, they
have no part in whitening (`whitening.py`). All images are clustered without labels, and one
hierarchy (`discovery.py`) yields the clusters for all K. Each class has the same weight in the
score, whatever its number of images. Where there are too few labels, the silhouette decides.

Letters: N images, K classes, L of them labelled.
"""

from collections.abc import Iterator, Mapping
from math import sqrt
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from anyclass.errors import RequestError
from anyclass.estimators.discovery import (
    DiscoverySpace,
    Hierarchy,
    average_neighbours,
    partitions,
    sample,
)
from anyclass.estimators.kmeans import MOST
from anyclass.log import Log
from anyclass.rng import seeded_rng

GOOD = 0.01
"""Tolerated loss of score for the estimate, as a share of min(b, 5 (1 - b)): the estimate is as
large as the labels allow, but with a perfect score it must not lose anything."""
UNCERTAIN = 0.2
"""Further tolerated loss, divided by the number of labelled classes."""
POSSIBLE = 0.1
"""Tolerated loss for the upper end of the range, in addition to the standard error."""
STEP = 1.05
"""Factor between two evaluated numbers."""
DRAWS = 2
"""Random halvings of the labelled classes."""
ROWS = 4000
"""Maximum number of images that are clustered."""
LEAST = 4
"""Labelled classes, two of them in each half, below which images are held out, not classes."""
SILHOUETTE_ROWS = 2000
"""Maximum number of images for the silhouette."""


class Count(NamedTuple):
    """Estimated number of classes, including the labelled ones."""

    classes: int
    """K^."""
    range: tuple[int, int]
    """The smallest K within the tolerance `GOOD`, and the largest within `POSSIBLE`."""
    curve: dict[int, float]
    """Score of every evaluated K, ascending."""
    margin: float
    """Standard error of the best score."""


def estimate_num_classes(
    rows: Float[Tensor, "N E"],
    d: int,
    labels: Int[Tensor, " N"],
    log: Log,
    most: int | None = None,
    seed: int = 0,
) -> Count:
    """Estimate the number of classes from partial labels.

    Args:
        rows: [x | h | 1], features of both spaces; h may be missing.
        d: number of columns of x.
        labels: class of each labelled image, -1 otherwise.
        log: gets the progress.
        most: largest K; None: min(1000, N / 4).
        seed: random seed of the halves, and of the sample of many images.

    Raises:
        RequestError: no class has two labelled images, so none can be held out.
    """
    if len(labels) == 0 or int(labels.max()) < 0 or int(labels[labels >= 0].bincount().max()) < 2:
        raise RequestError(
            "the number of classes is estimated from labels, but no class has two labelled "
            "images; label more images, or give the number of unknown classes (--unknown N)"
        )
    extra = rows[:, d:-1] if rows.shape[1] > d + 1 else None
    return count_classes(rows[:, :d], labels, log, extra=extra, most=most, seed=seed)


def count_classes(
    x: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    log: Log,
    *,
    extra: Float[Tensor, "N H"] | None = None,
    most: int | None = None,
    seed: int = 0,
) -> Count:
    """Estimate the number of classes, from labels if there are any.

    It assumes that new classes differ as much as the labelled ones do.

    Args:
        x: features.
        labels: class of each labelled image, -1 otherwise.
        log: gets the progress.
        extra: h, further features of the same images.
        most: largest K; None: min(1000, N / 4).
        seed: random seed of the halves, and of the sample of many images.
    """
    known = len(labels[labels >= 0].unique())
    least = max(1, known)
    rows = sample(labels, ROWS, seed)
    most = max(least, min(MOST, len(rows) // 4) if most is None else most)
    x = x[rows]
    labels = labels[rows]
    extra = None if extra is None else extra[rows]
    numbers = list(_numbers(least, most))
    halves = list(_halves(labels, seed))
    if not halves:
        u = DiscoverySpace.fit(x, labels, extra).transform(x, extra)
        count = _from_silhouette(u[:SILHOUETTE_ROWS], numbers, seed)
        log(stage="count", done=1, total=1)
        return count
    scores: list[dict[int, float]] = []
    for given, held in halves:
        u = DiscoverySpace.fit(x, given, extra).transform(x, extra)
        scores.append(_scores(u, held, numbers, seed))
        log(stage="count", done=len(scores), total=len(halves))
    shared = set(numbers).intersection(*scores)
    curve = {k: float(np.mean([score[k] for score in scores])) for k in sorted(shared)}
    return estimate_from_curve(curve, int((labels >= 0).sum()), known)


def estimate_from_curve(curve: Mapping[int, float], images: int, classes: int) -> Count:
    """Estimate the number and its range.

    Args:
        curve: score of some K.
        images: number of labelled images.
        classes: number of labelled classes.
    """
    tolerance = GOOD + UNCERTAIN / classes
    best = max(curve.values())
    loss = min(best, 5 * (1 - best))
    margin = sqrt((best * (1 - best) + 1 / images) / images)  # a score of 1 has an error as well
    good = [k for k in curve if curve[k] >= best - tolerance * loss]
    possible = [k for k in curve if curve[k] >= best - max(tolerance, POSSIBLE) * loss - margin]
    return Count(max(good), (min(good), max(possible)), dict(sorted(curve.items())), margin)


def pair_f1_per_class(labels: Int[np.ndarray, " N"], clusters: Int[np.ndarray, " N"]) -> float:
    """F1 score of "same cluster" as a prediction of "same class", each class with weight one.

    w_ck = share of class c in cluster k, F1 = 2 sum_ck w_ck^2 / (C + sum_k (sum_c w_ck)^2).
    Rows with label -1 are ignored; 0 if there are no others.
    """
    known = labels >= 0
    if not known.any():
        return 0.0
    classes, of_class = np.unique(labels[known], return_inverse=True)
    found, of_cluster = np.unique(clusters[known], return_inverse=True)
    table = np.zeros((len(classes), len(found)))
    np.add.at(table, (of_class, of_cluster), 1.0)
    w = table / table.sum(1, keepdims=True)
    same = len(classes) + np.square(w.sum(0)).sum()
    return float(2 * np.square(w).sum() / same)


def _numbers(first: int, last: int) -> Iterator[int]:
    """Numbers from `first` to `last` in geometric steps of `STEP`."""
    k = first
    while k < last:
        yield k
        k = max(k + 1, round(STEP * k))
    yield last


def _hierarchy(u: Float[Tensor, "n R"], numbers: list[int], seed: int) -> Hierarchy:
    """Clusters of all images, without labels."""
    nobody = torch.full((len(u),), -1, device=u.device)
    return Hierarchy.fit(average_neighbours(u), nobody, numbers[0], seed)


def _scores(
    u: Float[Tensor, "n R"], held: Int[Tensor, " n"], numbers: list[int], seed: int
) -> dict[int, float]:
    """Score of each number on the held-out images."""
    truth = held.cpu().numpy()
    rows = held >= 0
    return {
        k: pair_f1_per_class(truth[truth >= 0], clusters[rows].cpu().numpy())
        for k, clusters in partitions(_hierarchy(u, numbers, seed), numbers)
    }


def _from_silhouette(u: Float[Tensor, "n R"], numbers: list[int], seed: int) -> Count:
    """Estimate the number with the highest silhouette, on averaged features."""
    v = average_neighbours(u)
    distances = (2 - 2 * v @ v.T).clamp_min(0).sqrt()
    curve = {
        k: _silhouette(distances, clusters) if k > 1 else 0.0
        for k, clusters in partitions(_hierarchy(u, numbers, seed), numbers)
    }
    best = max(curve.values())
    good = [k for k in curve if curve[k] >= best - POSSIBLE * abs(best)]
    return Count(max(curve, key=curve.__getitem__), (min(good), max(good)), curve, 0.0)


def _silhouette(distances: Float[Tensor, "n n"], clusters: Int[Tensor, " n"]) -> float:
    """Mean of (b - a) / max(a, b), with 0 for the only image of a cluster (Rousseeuw 1987)."""
    z = one_hot(clusters.unique(return_inverse=True)[1]).to(distances)
    sizes = z.sum(0)
    own = z.bool()
    sums = distances @ z
    a = sums[own] / (z @ sizes - 1).clamp_min(1)
    b = (sums / sizes).masked_fill(own, float("inf")).amin(1)
    s = (b - a) / torch.maximum(a, b).clamp_min(1e-12)
    alone = (z @ sizes) == 1
    return float(s.masked_fill(alone, 0).mean())


def _halves(labels: Int[Tensor, " N"], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield given and held-out labels of random halves, and the same with the halves swapped.

    Whole classes are held out, or images of each class if there are few classes. Nothing is
    yielded if fewer than two classes have two images.
    """
    counts = labels[labels >= 0].bincount() if bool((labels >= 0).any()) else labels[:0]
    classes = (counts >= 2).nonzero()[:, 0]
    if len(classes) < 2:
        return
    for draw in range(DRAWS):
        rng = seeded_rng(seed, draw)
        part = torch.zeros_like(labels, dtype=torch.bool)
        if len(classes) >= LEAST:
            order = torch.randperm(len(classes), generator=rng).to(labels.device)
            part = torch.isin(labels, classes[order[::2]])
        else:
            order = torch.randperm(len(labels), generator=rng).to(labels.device)
            for c in classes:
                members = order[labels[order] == c]
                part[members[::2]] = True
        for first in (part, ~part):
            yield torch.where(first, labels, -1), torch.where(first, -1, labels)
