"""How good predictions are. N images, C classes; a label of -1 is unknown and leaves its row out.

Every score is a share from 0 to 1, and `None` where nothing is labelled: a number that cannot be
known is never made up.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import (
    accuracy_score,
    adjusted_rand_score,
    confusion_matrix,
    normalized_mutual_info_score,
)
from sklearn.metrics.cluster import pair_confusion_matrix

Labels = Int[np.ndarray, " N"]
"""Indices of classes; -1 where a true label is unknown."""


def score(labels: Labels, predicted: Labels, names: Sequence[str]) -> dict[str, object] | None:
    """Every number of a prediction: accuracy, mean_per_class, n (labelled images), per_class."""
    value = accuracy(labels, predicted)
    if value is None:
        return None
    return {
        "accuracy": value,
        "mean_per_class": mean_per_class(labels, predicted),
        "n": int((labels >= 0).sum()),
        "per_class": per_class(labels, predicted, names),
    }


def accuracy(labels: Labels, predicted: Labels) -> float | None:
    """Share of the labelled images whose prediction is right."""
    known = labels >= 0
    return float(accuracy_score(labels[known], predicted[known])) if known.any() else None


def mean_per_class(labels: Labels, predicted: Labels) -> float | None:
    """Mean of the accuracies of the classes that have a labelled image: all weigh the same."""
    shares = [accuracy(labels[labels == c], predicted[labels == c]) for c in np.unique(labels)]
    known = [share for share in shares if share is not None]
    return float(np.mean(known)) if known else None


def per_class(
    labels: Labels, predicted: Labels, names: Sequence[str]
) -> list[dict[str, str | int | float | None]]:
    """One row for each of the C names: name, n (labelled images), accuracy (`None` if n = 0)."""
    return [
        {
            "name": name,
            "n": int((labels == c).sum()),
            "accuracy": accuracy(labels[labels == c], predicted[labels == c]),
        }
        for c, name in enumerate(names)
    ]


def confusion(labels: Labels, predicted: Labels, classes: int) -> Int[np.ndarray, "C C"]:
    """Counts: row = true class, column = predicted class."""
    known = labels >= 0
    if not known.any():
        return np.zeros((classes, classes), dtype=np.int64)
    return np.asarray(
        confusion_matrix(labels[known], predicted[known], labels=np.arange(classes)), dtype=np.int64
    )


def expected_calibration_error(
    labels: Labels, probabilities: Float[np.ndarray, "N C"], bins: int = 15
) -> float | None:
    """Mean distance of confidence and accuracy over `bins` equal slices of confidence.

    ECE = sum_b n_b / N |accuracy_b - confidence_b|, slice b = (b / bins, (b + 1) / bins]
    (Guo et al. 2017, arXiv 1706.04599).
    """
    known = labels >= 0
    if not known.any():
        return None
    confidence = probabilities[known].max(axis=1)
    right = probabilities[known].argmax(axis=1) == labels[known]
    slices = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(slices, weights=right - confidence, minlength=bins)  # n_b * gap_b
    return float(np.abs(gaps).sum() / known.sum())


def pair_f1(labels: Labels, predicted: Labels) -> float:
    """How well "in one cluster" says "of one class", over pairs of images; 0 without a pair.

    F1 = 2 tp / (2 tp + fp + fn), tp: pairs of one class in one cluster.
    """
    known = labels >= 0
    if known.sum() < 2:
        return 0.0
    (_, fp), (fn, tp) = pair_confusion_matrix(labels[known], predicted[known])
    return float(2 * tp / max(1, 2 * tp + fp + fn))


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b): high only if both are, as for base and new classes; 0 if both are 0."""
    return 2 * a * b / (a + b) if a + b else 0.0


def base_to_new(
    labels: Labels,
    probabilities: Float[np.ndarray, "N C"],
    new: Bool[np.ndarray, " C"],
) -> dict[str, dict[str, float | None]]:
    """Base and new classes apart, each with their harmonic mean (SHIP, tables 1, 3 and 9).

    Args:
        labels: true classes.
        probabilities: of all classes.
        new: which classes had no labelled image to learn from.

    Returns:
        sliced: each half against its own classes only.
        mixed: both halves against all classes.
        generalized: as mixed, with every class weighing the same.
    """
    is_new = new[labels] & (labels >= 0)
    halves = {"base": ~is_new & (labels >= 0), "new": is_new}
    guess = probabilities.argmax(1)
    columns = {"base": ~new, "new": new}
    within = {
        half: np.where(column, probabilities, -1.0).argmax(1) for half, column in columns.items()
    }
    return {
        "sliced": _halves({h: accuracy(labels[r], within[h][r]) for h, r in halves.items()}),
        "mixed": _halves({h: accuracy(labels[r], guess[r]) for h, r in halves.items()}),
        "generalized": _halves({h: mean_per_class(labels[r], guess[r]) for h, r in halves.items()}),
    }


def _halves(scores: dict[str, float | None]) -> dict[str, float | None]:
    base, new = scores["base"], scores["new"]
    both = None if base is None or new is None else harmonic_mean(base, new)
    return scores | {"harmonic_mean": both}


def clustering(labels: Labels, predicted: Labels, known: Collection[int]) -> dict[str, Any] | None:
    """How good clusters are, those of `known` (old) and of other classes (new) apart.

    Clustering accuracy "v2" of category discovery: one assignment of clusters to classes for all
    images, known classes without privilege. `old_fixed` is what a user of the known names meets:
    the share of old images predicted with exactly their own index. `per_class` weighs all
    classes alike. Labels are those that were hidden from the method; -1 leaves a row out.

    Returns:
        all, old, new, old_fixed, per_class, nmi, ari, assignment (a class for each predicted
        index), n; None where nothing is labelled, or nothing old or new.
    """
    true, guess = labels[labels >= 0], predicted[labels >= 0]
    if len(true) == 0:
        return None
    assigned = assignment(true, guess)
    old, right = np.isin(true, list(known)), assigned[guess] == true
    return {
        "all": _share(right),
        "old": _share(right[old]),
        "new": _share(right[~old]),
        "old_fixed": _share((guess == true)[old]),
        "per_class": mean_per_class(true, assigned[guess]),
        "nmi": float(normalized_mutual_info_score(true, guess)),
        "ari": float(adjusted_rand_score(true, guess)),
        "assignment": assigned.tolist(),
        "n": len(true),
    }


def assignment(labels: Labels, predicted: Labels) -> Int[np.ndarray, " S"]:
    """The class of each predicted index, one to one, that makes most predictions right.

    S is one more than the largest index on either side.
    """
    size = int(max(labels.max(), predicted.max())) + 1
    counts = np.zeros((size, size), dtype=np.int64)  # w[p, t]
    np.add.at(counts, (predicted, labels), 1)
    return np.asarray(linear_sum_assignment(counts, maximize=True)[1])


def _share(right: Bool[np.ndarray, " n"]) -> float | None:
    return float(right.mean()) if len(right) else None
