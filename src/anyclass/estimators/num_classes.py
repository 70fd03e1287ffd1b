"""Estimate the number of classes with held-out labels.

The project's own, after the estimate of GCD (arXiv 2201.02609; `kmeans.estimate_classes`), which
takes the K at which k-means of frozen features agrees best with the labels.

    score(K) = F1 of pairs of held-out images: same cluster as a prediction of same class
    K^       = the largest K with score(K) >= b - 0.05 min(b, 5 (1 - b)),   b = max score

Half of the labels of each class are held out, then the other half. The given labels are used for
whitening (`whitening.py`); k-means of all images uses no label. Up to the true number, the score
hardly changes, because new classes get clusters of their own; beyond it, superfluous clusters
split known classes as well.

Letters: N images, K classes.
"""

from collections.abc import Iterator, Mapping
from math import ceil, sqrt
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.errors import RequestError
from anyclass.estimators.kmeans import MOST, semi_supervised_kmeans
from anyclass.estimators.metrics import pair_f1
from anyclass.estimators.whitening import Whitening
from anyclass.log import Log
from anyclass.rng import seeded_rng

GOOD = 0.05
"""Tolerated loss of score for the estimate, as a share of min(b, 5 (1 - b)): the estimate is as
large as the labels allow, but with a perfect score it must not lose anything."""
POSSIBLE = 0.1
"""Tolerated loss for the upper end of the range, in addition to the standard error."""
STEP = 1.1
"""Factor between two evaluated numbers."""
PATIENCE = 3
"""Numbers beyond the range after which the search ends."""
RESTARTS = 10
"""Restarts of k-means."""
DRAWS, ENOUGH = 5, 500
"""Most random halvings of the labels, and the total of held-out images that is enough."""


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
    how: Whitening = Whitening(),  # noqa: B008 (frozen)
    seed: int = 0,
) -> Count:
    """Estimate the number of classes from partial labels.

    It assumes that new classes vary as much as the labelled ones.

    Args:
        rows: [x | h | 1], features of both spaces.
        d: number of columns of x.
        labels: class of each labelled image, -1 otherwise.
        log: gets the progress.
        most: largest K; None: min(1000, N / 4).
        how: whitening of the features.
        seed: random seed of the halves and of k-means.

    Raises:
        RequestError: no class has two labelled images, so none can be held out.
    """
    known = len(labels[labels >= 0].unique())
    most = max(known, min(MOST, len(rows) // 4)) if most is None else max(known, most)
    images = int((labels >= 0).sum())
    draws = min(DRAWS, ceil(ENOUGH / max(1, images)))
    halves = [(given, held) for given, held in _halves(labels, draws, seed) if (held >= 0).any()]
    if not halves:
        raise RequestError(
            "the number of classes is estimated from labels, but no class has two labelled "
            "images; label more images, or give the number of unknown classes (--unknown N)"
        )
    splits = [_Split(rows, d, given, held, 2 * most, how) for given, held in halves]
    numbers = list(_numbers(known, most))
    curve: dict[int, float] = {}
    for k in numbers:
        curve[k] = sum(split.score(k, seed) for split in splits) / len(splits)
        found = estimate_from_curve(curve, images)
        over = sum(other > found.range[1] for other in curve) >= PATIENCE
        log(stage="count", done=len(numbers) if over else len(curve), total=len(numbers))
        if over:
            break
    return found


def estimate_from_curve(curve: Mapping[int, float], images: int) -> Count:
    """Estimate the number and its range from the scores of some K on `images` labelled images."""
    best = max(curve.values())
    loss = min(best, 5 * (1 - best))
    margin = sqrt((best * (1 - best) + 1 / images) / images)  # a score of 1 has an error as well
    good = [k for k in curve if curve[k] >= best - GOOD * loss]
    possible = [k for k in curve if curve[k] >= best - POSSIBLE * loss - margin]
    return Count(max(good), (min(good), max(possible)), dict(sorted(curve.items())), margin)


def _numbers(first: int, last: int) -> Iterator[int]:
    """Numbers from `first` to `last` in geometric steps of `STEP`."""
    k = first
    while k < last:
        yield k
        k = max(k + 1, round(STEP * k))
    yield last


class _Split:
    """Features whitened by the given labels, and the held-out labels."""

    def __init__(
        self,
        rows: Float[Tensor, "N E"],
        d: int,
        given: Int[Tensor, " N"],
        held: Int[Tensor, " N"],
        q: int,
        how: Whitening,
    ) -> None:
        self.held = held.cpu().numpy()
        self.space = how.spaces(rows, d, given, q)
        self.x, self.h = self.space.reduced(rows)

    def score(self, k: int, seed: int) -> float:
        """Score of K clusters."""
        u = self.space.joined(self.x[:, : 2 * k], self.h[:, : 2 * k]).cpu()
        unlabelled = torch.full((len(u),), -1)
        found = semi_supervised_kmeans(u, unlabelled, k, RESTARTS, seed=seed).labels
        return pair_f1(self.held, found.numpy())


def _halves(labels: Int[Tensor, " N"], draws: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield given and held-out labels of random halves, and the same with the halves swapped."""
    for draw in range(draws):
        order = torch.randperm(len(labels), generator=seeded_rng(seed, draw)).to(labels.device)
        first = torch.zeros_like(labels, dtype=torch.bool)
        for c in labels[labels >= 0].unique():
            members = order[labels[order] == c]
            first[members[: (len(members) + 1) // 2]] = True
        for part in (first, ~first):
            given = torch.where(part, labels, -1)
            held = torch.where(part | ~torch.isin(labels, given[given >= 0]), -1, labels)
            yield given, held
