"""How many classes there are, by labels that are held out.

The project's own, after the estimate of GCD (arXiv 2201.02609; `clusters.estimate_classes`), which
asks at which number k-means of frozen features agrees best with labels.

    score(K) = F1 of pairs of held-out images: of one class if and only if in one cluster
    K^       = the largest K with score(K) >= b - 0.05 min(b, 5 (1 - b)),   b = max score

Half of the labels of each class are held out, then the other half. Those that are given sharpen
the features (`whitening.py`); k-means of all images sees no label at all. Up to the true number
the score hardly changes, since new classes take clusters of their own; beyond it, clusters that
are too many split known classes as well.

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
"""What the score of the estimate may lose against the best, as a share of the smaller of the best
and five times what that lacks: as many classes as labels allow, but where labels are told apart
perfectly none that costs anything."""
POSSIBLE = 0.1
"""The same of any number that is still thought possible, beside the standard error."""
STEP = 1.1
"""Factor from one number that is looked at to the next."""
PATIENCE = 3
"""Numbers in a row that are no longer possible, after which none is looked at."""
RESTARTS = 10
"""Of k-means."""
DRAWS, ENOUGH = 5, 500
"""How often labels are cut in halves at most: until so many images were held out in all."""


class Count(NamedTuple):
    """How many classes there seem to be, those with labels included."""

    classes: int
    """K^."""
    range: tuple[int, int]
    """The smallest K that is `GOOD` as K^ is, and the largest that is `POSSIBLE`."""
    curve: dict[int, float]
    """Score of every K that was looked at, ascending."""
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
    """Estimate the number of classes from the labels of some.

    An estimate: it sees how labelled classes split, and takes new ones to be as wide.

    Args:
        rows: [x | h | 1], features of both spaces.
        d: how many columns are x.
        labels: class of each labelled image, -1 otherwise.
        log: gets the progress, the last number tried counting for all that are left.
        most: largest K; None: min(1000, N / 4).
        how: what is done to the features.
        seed: of halves and of k-means.

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
            "the number of classes is estimated from labels, and no class has two labelled "
            "images; label more, or say how many there are (--unknown N)"
        )
    trials = [_Trial(rows, d, *pair, 2 * most, how) for pair in halves]
    numbers, curve = list(_numbers(known, most)), dict[int, float]()
    for k in numbers:
        curve[k] = sum(trial.score(k, seed) for trial in trials) / len(trials)
        found = judged(curve, images)
        over = sum(other > found.range[1] for other in curve) >= PATIENCE
        log(stage="count", done=len(numbers) if over else len(curve), total=len(numbers))
        if over:
            break
    return found


def judged(curve: Mapping[int, float], images: int) -> Count:
    """What the scores of some numbers, and of how many labelled images, say."""
    best = max(curve.values())
    loss = min(best, 5 * (1 - best))
    margin = sqrt((best * (1 - best) + 1 / images) / images)  # 1 is not certain either
    good = [k for k in curve if curve[k] >= best - GOOD * loss]
    possible = [k for k in curve if curve[k] >= best - POSSIBLE * loss - margin]
    return Count(max(good), (min(good), max(possible)), dict(sorted(curve.items())), margin)


def _numbers(first: int, last: int) -> Iterator[int]:
    """Numbers from `first` to `last`, `STEP` times as large each time."""
    k = first
    while k < last:
        yield k
        k = max(k + 1, round(STEP * k))
    yield last


class _Trial:
    """Half of the labels held out."""

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
        """That of K clusters."""
        u = self.space.joined(self.x[:, : 2 * k], self.h[:, : 2 * k]).cpu()
        nobody = torch.full((len(u),), -1)
        found = semi_supervised_kmeans(u, nobody, k, RESTARTS, seed=seed).labels
        return pair_f1(self.held, found.numpy())


def _halves(labels: Int[Tensor, " N"], draws: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Labels that are given, and those that are held out, both ways round."""
    for draw in range(draws):
        order = torch.randperm(len(labels), generator=seeded_rng(seed, draw)).to(labels.device)
        first = torch.zeros_like(labels, dtype=torch.bool)
        for c in labels[labels >= 0].unique():
            mine = order[labels[order] == c]
            first[mine[: (len(mine) + 1) // 2]] = True
        for part in (first, ~first):
            given = torch.where(part, labels, -1)
            held = torch.where(part | ~torch.isin(labels, given[given >= 0]), -1, labels)
            yield given, held
