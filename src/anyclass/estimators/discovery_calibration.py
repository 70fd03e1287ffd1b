"""Calibrate discovered classes by labelled classes that are treated as unknown.

Half of the labelled classes lose their labels (and names), and so do half of the labelled images of
the others; the same estimator is fitted again, for the same number of classes. Their labels then
tell which predictions are right, once clusters are matched to the hidden classes one to one:

    a   = share of these images that are right           expected accuracy of unlabelled images
    T_i = argmin_T calibration error of p^(1/T) on them
    T   = sqrt(T_i)

T_i is for images that the estimator was fitted on; for new images, whose probabilities are less
extreme, it is too much. T, half way between T_i and none, serves both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Bool, Float, Int

from anyclass.estimators.metrics import assignment, calibration_gap

MIN_CLASSES = 4
"""Minimum number of labelled classes of which some are hidden."""
MIN_IMAGES = 30
"""Minimum number of images with a hidden label."""
MAX_IMAGES = 12_000
"""Maximum number of images that are fitted again."""
TEMPERATURES = np.geomspace(1, 10, 47)
"""T that are tried."""


@dataclass(frozen=True)
class Hidden:
    """A fit in which some labels are hidden."""

    rows: Int[np.ndarray, " n"]
    """The images."""
    labels: Int[np.ndarray, " n"]
    """Labels that are left, -1 elsewhere; the M kept classes come first."""
    truth: Int[np.ndarray, " n"]
    """Hidden labels, -1 elsewhere; the hidden classes follow the kept ones."""
    kept: Int[np.ndarray, " M"]
    """Number of each kept class before."""


@dataclass(frozen=True)
class Calibration:
    """What hidden labels tell."""

    accuracy: float
    """a."""
    temperature: float
    """T."""
    error: float
    """Calibration error of p^(1/T) on the images with a hidden label."""
    images: int
    """Number of images with a hidden label."""
    classes: int
    """Number of hidden classes."""


def calibrate(
    labels: Int[np.ndarray, " N"],
    known: int,
    seed: int,
    refit: Callable[[Hidden], Float[np.ndarray, "n K"]],
) -> Calibration | None:
    """Hide labels, fit again and compare; None if there are too few labels.

    Args:
        labels: class of each labelled image, -1 otherwise.
        known: number of classes with labels or a name.
        seed: random seed of what is hidden.
        refit: probabilities of the images of a fit with hidden labels, kept classes first.
    """
    hidden = hide(labels, known, seed)
    if hidden is None:
        return None
    p = refit(hidden)
    rows = hidden.truth >= 0
    first = len(hidden.kept)
    right = matched(p[rows].argmax(1), hidden.truth[rows], first)
    errors = [calibration_gap(tempered(p[rows], t).max(1), right) for t in TEMPERATURES]
    temperature = sqrt(TEMPERATURES[int(np.argmin(errors))])
    return Calibration(
        accuracy=float(right.mean()),
        temperature=temperature,
        error=calibration_gap(tempered(p[rows], temperature).max(1), right),
        images=int(rows.sum()),
        classes=int(hidden.truth.max()) + 1 - first,
    )


def hide(labels: Int[np.ndarray, " N"], known: int, seed: int) -> Hidden | None:
    """Hide half of the labelled classes, and half of the labels of the others.

    Args:
        labels: class of each labelled image, -1 otherwise.
        known: number of classes with labels or a name.
        seed: random seed.
    """
    labelled = np.unique(labels[labels >= 0])
    if len(labelled) < MIN_CLASSES:
        return None
    rng = np.random.default_rng(seed)
    rows = np.arange(len(labels))
    if len(rows) > MAX_IMAGES:
        rows = np.sort(rng.permutation(rows)[:MAX_IMAGES])
    away = rng.permutation(labelled)[: len(labelled) // 2]
    kept = np.setdiff1d(np.arange(known), away)
    number = np.full(known, -1)
    number[kept] = np.arange(len(kept))
    number[away] = len(kept) + np.arange(len(away))
    old = labels[rows]
    new = np.where(old >= 0, number[old], -1)
    left = np.where(new < len(kept), new, -1)
    for c in np.intersect1d(kept, labelled):
        of_class = rng.permutation(np.flatnonzero(old == c))
        left[of_class[: len(of_class) // 2]] = -1
    truth = np.where(left < 0, new, -1)
    if (truth >= 0).sum() < MIN_IMAGES:
        return None
    return Hidden(rows, left, truth, kept)


def matched(
    predicted: Int[np.ndarray, " n"], truth: Int[np.ndarray, " n"], kept: int
) -> Bool[np.ndarray, " n"]:
    """Whether each prediction is right, with clusters matched to hidden classes one to one."""
    right: Bool[np.ndarray, " n"] = predicted == truth
    both = (predicted >= kept) & (truth >= kept)
    right &= truth < kept
    if both.any():
        class_of = assignment(truth[both] - kept, predicted[both] - kept)
        right[both] = class_of[predicted[both] - kept] == truth[both] - kept
    return right


def tempered(p: Float[np.ndarray, "n K"], t: float) -> Float[np.ndarray, "n K"]:
    """Probabilities in proportion to p^(1/T)."""
    powers = (p / p.max(1, keepdims=True)) ** (1 / t)
    return np.asarray(powers / powers.sum(1, keepdims=True))
