"""Metrics of predictions. N images, C classes; rows with an unknown label (-1) are ignored.

Every score is a share from 0 to 1, or `None` if there is no label to compute it from.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

Labels = Int[np.ndarray, " N"]
"""Class indices; -1 for an unknown true label."""


def score(labels: Labels, predicted: Labels, names: Sequence[str]) -> dict[str, object] | None:
    """All scores of a prediction: accuracy, mean_per_class, n (labelled images), per_class."""
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
    """Share of the labelled images with a correct prediction."""
    known = labels >= 0
    return float((labels == predicted)[known].mean()) if known.any() else None


def mean_per_class(labels: Labels, predicted: Labels) -> float | None:
    """Unweighted mean of the accuracies of the classes with labelled images."""
    n, correct = _counts(labels, predicted)
    return float((correct[n > 0] / n[n > 0]).mean()) if n.any() else None


def per_class(
    labels: Labels, predicted: Labels, names: Sequence[str]
) -> list[dict[str, str | int | float | None]]:
    """One row per class: name, n (labelled images), accuracy (`None` if n = 0)."""
    n, correct = (counts.tolist() for counts in _counts(labels, predicted, len(names)))
    return [
        {"name": name, "n": n[c], "accuracy": correct[c] / n[c] if n[c] else None}
        for c, name in enumerate(names)
    ]


def _counts(
    labels: Labels, predicted: Labels, least: int = 0
) -> tuple[Int[np.ndarray, " S"], Int[np.ndarray, " S"]]:
    """Labelled images of each class, and how many of them are predicted correctly."""
    known = labels >= 0
    n = np.bincount(labels[known], minlength=least)
    correct = np.bincount(labels[known & (labels == predicted)], minlength=len(n))
    return n, correct


def confusion(labels: Labels, predicted: Labels, classes: int) -> Int[np.ndarray, "C C"]:
    """Confusion matrix of counts: row = true class, column = predicted class."""
    true, guess, counts = confusion_counts(labels, predicted, classes)
    matrix = np.zeros((classes, classes), dtype=np.int64)
    matrix[true, guess] = counts
    return matrix


def confusion_counts(
    labels: Labels, predicted: Labels, classes: int
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """True class, predicted class and count of the entries that are not 0, sorted."""
    known = (labels >= 0) & (labels < classes) & (predicted >= 0) & (predicted < classes)
    places = labels[known].astype(np.int64) * classes + predicted[known]
    found, counts = np.unique(places, return_counts=True)
    true, guess = np.divmod(found, max(1, classes))
    return true, guess, counts


def expected_calibration_error(
    labels: Labels, probabilities: Float[np.ndarray, "N C"], bins: int = 15
) -> float | None:
    """Mean difference of confidence and accuracy over `bins` equal intervals of confidence.

    ECE = sum_b n_b / N |accuracy_b - confidence_b|, interval b = (b / bins, (b + 1) / bins]
    (Guo et al. 2017, arXiv 1706.04599).
    """
    return calibration_error(labels, probabilities.argmax(1), probabilities.max(1), bins)


def calibration_error(
    labels: Labels, predicted: Labels, confidence: Float[np.ndarray, " N"], bins: int = 15
) -> float | None:
    """Expected calibration error of the predicted classes and their probabilities."""
    known = labels >= 0
    if not known.any():
        return None
    return calibration_gap(confidence[known], (predicted == labels)[known], bins)


def calibration_gap(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], bins: int = 15
) -> float:
    """Expected calibration error of predictions that are right or wrong."""
    intervals = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(intervals, weights=correct - confidence, minlength=bins)  # n_b * gap_b
    return float(np.abs(gaps).sum() / len(confidence))


def harmonic_mean(a: float, b: float) -> float:
    """Harmonic mean 2ab / (a + b), as of base and new accuracy; 0 if both are 0."""
    return 2 * a * b / (a + b) if a + b else 0.0


def base_to_new(
    labels: Labels,
    scores: Float[np.ndarray, "N C"],
    new: Bool[np.ndarray, " C"],
) -> dict[str, dict[str, float | None]]:
    """Accuracies of base and new classes with their harmonic mean (SHIP, tables 1, 3 and 9).

    Args:
        labels: true classes.
        scores: logits or log-probabilities of all classes. Not probabilities in single precision:
            where all of one half are 0, the best of that half cannot be told.
        new: mask of the classes without labelled training images.

    Returns:
        sliced: each half among its own classes only.
        mixed: both halves among all classes.
        generalized: as mixed, with equal weights of the classes.
    """
    is_new = new[labels] & (labels >= 0)
    halves = {"base": ~is_new & (labels >= 0), "new": is_new}
    guess = scores.argmax(1)
    columns = {"base": ~new, "new": new}
    within = {half: np.where(column, scores, -np.inf).argmax(1) for half, column in columns.items()}
    sliced = {h: accuracy(labels[r], within[h][r]) for h, r in halves.items()}
    mixed = {h: accuracy(labels[r], guess[r]) for h, r in halves.items()}
    generalized = {h: mean_per_class(labels[r], guess[r]) for h, r in halves.items()}
    return {
        "sliced": _halves(sliced),
        "mixed": _halves(mixed),
        "generalized": _halves(generalized),
    }


def _halves(scores: dict[str, float | None]) -> dict[str, float | None]:
    """The accuracies of both halves, with their harmonic mean."""
    base = scores["base"]
    new = scores["new"]
    both = None if base is None or new is None else harmonic_mean(base, new)
    return scores | {"harmonic_mean": both}


def clustering(labels: Labels, predicted: Labels, known: Collection[int]) -> dict[str, Any] | None:
    """Clustering accuracies on all images and on those of `known` (old) and of other (new) classes.

    Clustering accuracy "v2" of category discovery: one assignment of clusters to classes for all
    images, without special treatment of known classes. `old_fixed` is the accuracy on old images
    without this assignment. `per_class` weighs all classes equally. `labels` are the labels that
    were hidden from the method; rows with -1 are ignored.

    Returns:
        all, old, new, old_fixed, per_class, nmi, ari, assignment (a class for each predicted
        index), n; None if nothing is labelled; old and new are None without such images.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    true = labels[labels >= 0]
    guess = predicted[labels >= 0]
    if len(true) == 0:
        return None
    assigned = assignment(true, guess)
    old = np.isin(true, list(known))
    correct = assigned[guess] == true
    return {
        "all": _share(correct),
        "old": _share(correct[old]),
        "new": _share(correct[~old]),
        "old_fixed": _share((guess == true)[old]),
        "per_class": mean_per_class(true, assigned[guess]),
        "nmi": float(normalized_mutual_info_score(true, guess)),
        "ari": float(adjusted_rand_score(true, guess)),
        "assignment": assigned.tolist(),
        "n": len(true),
    }


def assignment(labels: Labels, predicted: Labels) -> Int[np.ndarray, " S"]:
    """Match predicted indices to classes, one to one, with the most correct predictions.

    S is one more than the largest index on either side.
    """
    from scipy.optimize import linear_sum_assignment

    size = int(max(labels.max(), predicted.max())) + 1
    counts = np.zeros((size, size), dtype=np.int64)  # w[p, t]
    np.add.at(counts, (predicted, labels), 1)
    return np.asarray(linear_sum_assignment(counts, maximize=True)[1])


def _share(correct: Bool[np.ndarray, " n"]) -> float | None:
    """Share of the images that are correct; None without an image."""
    return float(correct.mean()) if len(correct) else None
