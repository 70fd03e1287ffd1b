"""Estimate the number of classes with held-out labels.

The project's own, after the estimate of GCD (arXiv 2201.02609; `gcd_num_classes.py`), which
takes the K at which k-means of frozen features agrees best with the labels.

    score(K) = F1 of pairs of held-out images: same cluster as a prediction of same class
    K^       = the largest K with score(K) >= b - t min(b, 5 (1 - b)),   b = max score
    t        = 0.01 + 0.2 / L: the fewer labelled classes, the less certain is the score

Labelled classes are held out as a whole: like new classes, they have no part in whitening
(`whitening.py`). With many labelled classes these are one half, then the other. Halves of few
would leave too few for the whitening: they are held out a fifth at a time, and a third of the score
is that of halves of the images of each class. All images are clustered without labels, and one
hierarchy (`discovery.py`) yields the clusters for all K. Each class has the same weight in the
score, whatever its number of images. Where there are too few labels, the silhouette decides.

Letters: N images, K classes, L of them labelled.
"""

from collections.abc import Iterator, Mapping
from math import sqrt
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from anyclass.estimators.discovery import (
    DiscoverySpace,
    average_neighbours,
    sample,
)
from anyclass.estimators.gcd_num_classes import MAX_CLASSES
from anyclass.estimators.ward import Hierarchy, partitions
from anyclass.log import Log
from anyclass.rng import seeded_rng

TOLERANCE = 0.01
"""Tolerated loss of score for the estimate, as a share of min(b, 5 (1 - b)): the estimate is as
large as the labels allow, but with a perfect score it must not lose anything."""
TOLERANCE_OF_FEW = 0.2
"""Further tolerated loss, divided by the number of labelled classes."""
RANGE_TOLERANCE = 0.1
"""Tolerated loss for the upper end of the range, in addition to the standard error."""
STEP = 1.05
"""Factor between two evaluated numbers."""
DRAWS = 2
"""Random halvings of labelled classes, or of their images."""
HALVES_FROM = 16
"""Labelled classes from which on halves of them are held out."""
FOLDS = 5
"""Parts of fewer labelled classes that are held out in turn."""
IMAGES_WEIGHT = 1 / 3
"""Weight of held-out images beside these parts."""
MAX_IMAGES = 4000
"""Maximum number of images that are clustered."""
MIN_CLASSES = 4
"""Labelled classes below which only images are held out."""
SILHOUETTE_IMAGES = 2000
"""Maximum number of images for the silhouette."""


class Count(NamedTuple):
    """Estimated number of classes, including the labelled ones."""

    classes: int
    """K^."""
    range: tuple[int, int]
    """The smallest K within `TOLERANCE`, and the largest within `RANGE_TOLERANCE`."""
    curve: dict[int, float]
    """Score of every evaluated K, ascending."""
    margin: float
    """Standard error of the best score."""


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
    rows = sample(labels, MAX_IMAGES, seed)
    most = max(least, min(MAX_CLASSES, len(rows) // 4) if most is None else most)
    x = x[rows]
    labels = labels[rows]
    extra = None if extra is None else extra[rows]
    numbers = list(_numbers(least, most))
    splits = list(_splits(labels, seed))
    if not splits:
        u = DiscoverySpace.fit(x, labels, extra).transform(x, extra)
        count = _from_silhouette(u[:SILHOUETTE_IMAGES], numbers, seed)
        log(stage="count", done=1, total=1)
        return count
    curve = dict.fromkeys(numbers, 0.0)
    for done, split in enumerate(splits):
        u = DiscoverySpace.fit(x, split.given, extra).transform(x, extra)
        scores = _scores(u, split, numbers, seed)
        curve = {k: value + split.weight * scores[k] for k, value in curve.items() if k in scores}
        log(stage="count", done=done + 1, total=len(splits))
    return estimate_from_curve(curve, int((labels >= 0).sum()), known)


def estimate_from_curve(curve: Mapping[int, float], images: int, classes: int) -> Count:
    """Estimate the number and its range.

    Args:
        curve: score of some K.
        images: number of labelled images.
        classes: number of labelled classes.
    """
    tolerance = TOLERANCE + TOLERANCE_OF_FEW / classes
    best = max(curve.values())
    loss = min(best, 5 * (1 - best))
    margin = sqrt((best * (1 - best) + 1 / images) / images)  # a score of 1 has an error as well
    wide = max(tolerance, RANGE_TOLERANCE)
    good = [k for k in curve if curve[k] >= best - tolerance * loss]
    possible = [k for k in curve if curve[k] >= best - wide * loss - margin]
    return Count(max(good), (min(good), max(possible)), dict(sorted(curve.items())), margin)


def pair_f1_per_class(
    labels: Int[np.ndarray, " N"],
    clusters: Int[np.ndarray, " N"],
    judged: Int[np.ndarray, " J"] | None = None,
) -> float:
    """F1 score of "same cluster" as a prediction of "same class", each class with weight one.

    w_ck = share of class c in cluster k, F1 = 2 sum_ck w_ck^2 / (J + sum_ck w_ck sum_d w_dk), c
    over the J judged classes, d over all. Rows with label -1 are ignored; 0 if there are no others.

    Args:
        labels: class of each row, -1 without one.
        clusters: cluster of each row.
        judged: classes whose rows are predicted; None: all.
    """
    known = labels >= 0
    if not known.any():
        return 0.0
    classes, of_class = np.unique(labels[known], return_inverse=True)
    found, of_cluster = np.unique(clusters[known], return_inverse=True)
    table = np.zeros((len(classes), len(found)))
    np.add.at(table, (of_class, of_cluster), 1.0)
    w = table / table.sum(1, keepdims=True)
    own = w if judged is None else w[np.isin(classes, judged)]
    same = len(own) + (own * w.sum(0)).sum()
    return float(2 * np.square(own).sum() / same)


class _Split(NamedTuple):
    """Labels that shape the features, and labels that score the clusters."""

    given: Int[Tensor, " N"]
    """Labels for whitening, -1 elsewhere."""
    truth: Int[Tensor, " N"]
    """Labels for the score, -1 elsewhere."""
    judged: Int[np.ndarray, " J"] | None
    """Classes that are scored among all in `truth`; None: all."""
    weight: float
    """Weight of the score; those of all splits sum to 1."""


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
    u: Float[Tensor, "n R"], split: _Split, numbers: list[int], seed: int
) -> dict[int, float]:
    """Score of each number on the held-out images."""
    rows = split.truth >= 0
    truth = split.truth[rows].cpu().numpy()
    return {
        k: pair_f1_per_class(truth, clusters[rows].cpu().numpy(), split.judged)
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
    good = [k for k in curve if curve[k] >= best - RANGE_TOLERANCE * abs(best)]
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


def _splits(labels: Int[Tensor, " N"], seed: int) -> list[_Split]:
    """What is held out in turn; nothing if fewer than two classes have two images."""
    counts = labels[labels >= 0].bincount() if bool((labels >= 0).any()) else labels[:0]
    classes = (counts >= 2).nonzero()[:, 0]
    if len(classes) < 2:
        return []
    half = _half_of_classes if len(classes) >= HALVES_FROM else _half_of_images
    parts = [half(labels, classes, seed, draw) for draw in range(DRAWS)]
    if MIN_CLASSES <= len(classes) < HALVES_FROM:
        whole = _parts_of_classes(labels, classes, seed)
        return [*whole, *_both_halves(labels, parts, IMAGES_WEIGHT)]
    return _both_halves(labels, parts, 1.0)


def _parts_of_classes(
    labels: Int[Tensor, " N"], classes: Int[Tensor, " L"], seed: int
) -> list[_Split]:
    """Each part of the classes held out; their images are judged beside those of the others."""
    order = classes[torch.randperm(len(classes), generator=seeded_rng(seed)).to(labels.device)]
    count = min(FOLDS, len(classes))
    splits = []
    for fold in range(count):
        away = order[fold::count]
        given = torch.where(torch.isin(labels, away), -1, labels)
        splits.append(_Split(given, labels, away.cpu().numpy(), (1 - IMAGES_WEIGHT) / count))
    return splits


def _half_of_classes(
    labels: Int[Tensor, " N"], classes: Int[Tensor, " L"], seed: int, draw: int
) -> Bool[Tensor, " N"]:
    """Images of a random half of the classes."""
    order = torch.randperm(len(classes), generator=seeded_rng(seed, draw)).to(labels.device)
    return torch.isin(labels, classes[order[::2]])


def _half_of_images(
    labels: Int[Tensor, " N"], classes: Int[Tensor, " L"], seed: int, draw: int
) -> Bool[Tensor, " N"]:
    """A random half of the images of each class."""
    order = torch.randperm(len(labels), generator=seeded_rng(seed, draw)).to(labels.device)
    part = torch.zeros_like(labels, dtype=torch.bool)
    for c in classes:
        members = order[labels[order] == c]
        part[members[::2]] = True
    return part


def _both_halves(
    labels: Int[Tensor, " N"], parts: list[Bool[Tensor, " N"]], weight: float
) -> list[_Split]:
    """Each part given and the rest held out, and the other way round."""
    splits = []
    for part in parts:
        for given in (part, ~part):
            held = torch.where(given, -1, labels)
            share = weight / (2 * len(parts))
            splits.append(_Split(torch.where(given, labels, -1), held, None, share))
    return splits
