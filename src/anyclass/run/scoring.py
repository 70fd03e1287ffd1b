"""Scores of predictions on labelled images, compared with zero-shot."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from anyclass.data import Classes
from anyclass.estimators.metrics import (
    base_to_new,
    calibration_error,
    confusion,
    confusion_counts,
    score,
)
from anyclass.run.predictions import AllPredictions, LogProbabilities, Probabilities

NO_LABELS = (
    "No image has a label, so the accuracy is unknown; label some images (--labels) or run "
    "`anyclass evaluate` on a labelled folder."
)
"""Explanation of scores that are null."""

MATRIX = 500
"""Maximum number of classes whose confusion matrix is stored with its zeros."""


def compare(
    labels: Int[np.ndarray, " N"],
    predictions: AllPredictions,
    classes: Classes,
    trained_on: Bool[np.ndarray, " N"] | None = None,
) -> dict[str, Any]:
    """Score all predictions; warn if adaptation lost accuracy. Scores are None without labels.

    Args:
        labels: true classes, -1 where there is none to score on.
        predictions: predictions of the same images.
        classes: the classes.
        trained_on: whether the label of each image was trained on; None: no label was. Such an
            image keeps its label, so it does not count among those that `changed`.
    """
    scores = {
        "zero_shot": all_scores(labels, predictions.log_zero_shot, classes),
        "zero_shot_ensemble": None,
        "adapted": all_scores(labels, predictions.log_adapted, classes),
    }
    if predictions.log_zero_shot_ensemble is not None:
        ensemble = all_scores(labels, predictions.log_zero_shot_ensemble, classes)
        scores["zero_shot_ensemble"] = ensemble
    labelled = labels >= 0
    known = bool(labelled.any())
    named = bool(np.isfinite(predictions.log_zero_shot).any())
    adapted = predictions.log_adapted.argmax(1)
    changed = adapted != predictions.log_zero_shot.argmax(1)
    if trained_on is not None:
        changed = changed[~trained_on]
    return scores | {
        "scored": int(labelled.sum()),
        "why_null": None if known else NO_LABELS,
        "majority": majority(labels, classes.names),
        "changed": float(changed.mean()) if named and len(changed) else None,
        **stored_confusion(labels, adapted, len(classes)),
        "calibration_error": calibration_error(
            labels, adapted, np.exp(predictions.log_adapted.max(1))
        ),
        "warnings": [] if classes.discovered_names else _warnings(scores),
    }


def stored_confusion(
    labels: Int[np.ndarray, " N"], predicted: Int[np.ndarray, " N"], classes: int
) -> dict[str, Any]:
    """Confusion matrix for `metrics.json`; None without labels.

    With more than `MATRIX` classes it is None, and `confusion_counts` has its entries but the
    zeros, so that its size is that of the images, not the square of the classes.
    """
    if not (labels >= 0).any():
        return {"confusion": None}
    if classes <= MATRIX:
        return {"confusion": confusion(labels, predicted, classes).tolist()}
    true, guess, counts = confusion_counts(labels, predicted, classes)
    found = {"true": true.tolist(), "predicted": guess.tolist(), "count": counts.tolist()}
    return {"confusion": None, "confusion_counts": found}


def majority(labels: Int[np.ndarray, " N"], names: Sequence[str]) -> dict[str, Any] | None:
    """Score of the answer that is always the most frequent label; None without labels."""
    known = labels[labels >= 0]
    if not len(known):
        return None
    most = int(np.bincount(known).argmax())
    name = names[most] if most < len(names) else None
    scores = score(labels, np.full_like(labels, most), names) or {}
    return {"name": name} | {key: scores[key] for key in ("accuracy", "mean_per_class", "n")}


def all_scores(
    labels: Int[np.ndarray, " N"], found: LogProbabilities | Probabilities, classes: Classes
) -> dict[str, Any] | None:
    """All scores; with labels of labelled and of named classes also those of base and new ones.

    Args:
        labels: true classes.
        found: log-probabilities, or probabilities where only those are stored.
        classes: the classes.
    """
    scores = score(labels, found.argmax(1), classes.names)
    halves = (classes.labelled, classes.named)
    if scores is None or not all(np.isin(labels, half).any() for half in halves):
        return scores
    new = np.isin(np.arange(len(classes)), classes.named)
    return scores | base_to_new(labels, found, new)


def _warnings(scores: dict[str, Any]) -> list[str]:
    """Warn if zero-shot is more accurate than the classifier."""
    before = scores["zero_shot"]
    after = scores["adapted"]
    if not before or not after or after["accuracy"] >= before["accuracy"]:
        return []
    return [
        f"adaptation lowers the accuracy ({after['accuracy']:.1%}, zero-shot "
        f"{before['accuracy']:.1%}): use zero-shot (`anyclass fit zero-shot`) or another method"
    ]
