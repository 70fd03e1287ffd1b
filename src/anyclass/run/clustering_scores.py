"""Scores of discovered classes: clustering accuracy, compared with zero-shot and k-means.

Letters: N images, K classes.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from anyclass.classifier.metric_names import STEPS
from anyclass.data import Classes, ImageDataset
from anyclass.estimators.metrics import (
    accuracy,
    assignment,
    calibration_gap,
    clustering,
    per_class,
)
from anyclass.files import Json
from anyclass.run.baselines import FITTED
from anyclass.run.predictions import AllPredictions, Probabilities

MIN_IMAGES = 5
"""Smallest number of images of a class that counts as used."""

FEW_STEPS = 400
"""Training steps below which an empty class may be due to the training."""

ZERO_SHOT = "zero-shot on the classes with a name alone"
"""Name of the zero-shot baseline in messages."""

NO_IMAGE = "no image was assigned to"
BETTER = "has a higher accuracy"
"""Parts of the warnings about discovered classes."""


def discovery_summary(
    predicted: Int64[np.ndarray, " N"], classes: Classes, metrics: Json, held_out: bool
) -> Json:
    """Summarise discovered classes for `metrics.json`; {} if none was discovered.

    Args:
        predicted: class of each image.
        classes: all classes of the run.
        metrics: scores so far.
        held_out: whether the scored labels were held out of training. Then `old_fixed` is the
            accuracy on these images, all of labelled classes.
    """
    if not classes.discovered_names:
        return {}
    sizes = np.bincount(predicted, minlength=len(classes))
    empty = [name for name, size in zip(classes.names, sizes, strict=True) if size == 0]
    adapted = metrics["adapted"]
    share = adapted["accuracy"] if adapted and held_out else None
    rows = {ZERO_SHOT: metrics["zero_shot"], **metrics["controls"]}
    baselines = {name: row["accuracy"] for name, row in rows.items() if row}
    warnings = list(metrics["warnings"])
    if empty:
        advice = _advice_on_empty(metrics["facts"].get(STEPS))
        warnings.append(f"{NO_IMAGE} {', '.join(empty[:5])}: {advice}")
    warnings += _better_baselines("on labelled images", share, baselines)
    return {
        "discovery": {
            "classes": len(classes),
            "labelled": len(classes.labelled),
            "used": int((sizes >= MIN_IMAGES).sum()),
            "empty": empty,
            "old_fixed": share,
            "protocol": "transductive",
        },
        "warnings": warnings,
    }


def _advice_on_empty(steps: int | float | None) -> str:
    """What to do about classes without an image, by the number of training steps, if known."""
    if steps is None or steps >= FEW_STEPS:
        return "a smaller number of classes may do"
    return (
        f"{int(steps)} training steps may be too few; train for more epochs (--epochs) or in "
        "smaller batches (--batch-size)"
    )


def is_discovery_warning(warning: str) -> bool:
    """Whether `discovery_summary` wrote a warning."""
    return warning.startswith(NO_IMAGE) or f" {BETTER} " in warning


def align_labels(dataset: ImageDataset, classes: Classes) -> ImageDataset:
    """Number the labels of a dataset as in `classes`; further names follow after them."""
    more = [name for name in dataset.classes.names if name not in classes.names]
    names = (*classes.names, *more)
    number = np.array([names.index(name) for name in dataset.classes.names] + [-1])
    return replace(dataset, labels=number[dataset.labels], classes=Classes.of(names))


def clustering_scores(
    dataset: ImageDataset,
    predictions: AllPredictions,
    classes: Classes,
    baselines: Mapping[str, Probabilities],
    fitted_on: bool = False,
) -> Json:
    """Score discovered classes on labelled images, compared with zero-shot and baselines.

    Args:
        dataset: images with labels, numbered by `align_labels`; none that was trained on.
        predictions: probabilities of the run's classes.
        classes: the run's classes.
        baselines: probabilities of the same classes by baselines, by name.
        fitted_on: whether the run was fitted on these images, without their labels.
    """
    probabilities = predictions.probabilities()
    adapted = _clustering(dataset, probabilities, classes)
    old = np.where(np.isin(dataset.labels, _named_classes(classes)), dataset.labels, -1)
    compared = {name: _clustering(dataset, rows, classes) for name, rows in baselines.items()}
    ensemble = predictions.log_zero_shot_ensemble
    zero_shot = accuracy(old, predictions.log_zero_shot.argmax(1))
    warnings = _better_baselines(
        "on images of the classes with a name", adapted["old_fixed"], {ZERO_SHOT: zero_shot}
    )
    accuracies = {name: row["all"] for name, row in compared.items()}
    warnings += _better_baselines("on all images", adapted["all"], accuracies)
    return adapted | {
        "zero_shot_accuracy": zero_shot,
        "zero_shot_ensemble_accuracy": (
            None if ensemble is None else accuracy(old, ensemble.argmax(1))
        ),
        "n_old": int((old >= 0).sum()),
        "controls": compared,
        "protocol": "transductive" if fitted_on else "inductive",
        "metric": "clustering accuracy v2",
        "calibration": _calibration(dataset, probabilities),
        "warnings": warnings,
    }


def _calibration(dataset: ImageDataset, probabilities: Probabilities) -> Json:
    """Mean score, accuracy and calibration error, clusters matched to classes."""
    known = dataset.labels >= 0
    predicted = probabilities.argmax(1)
    class_of = assignment(dataset.labels[known], predicted[known])
    right = class_of[predicted[known]] == dataset.labels[known]
    scores = probabilities[known].max(1)
    return {
        "error": calibration_gap(scores, right),
        "mean_score": float(scores.mean()),
        "accuracy": float(right.mean()),
        "n": int(known.sum()),
    }


def aligned(rows: Probabilities, of: Classes, classes: Classes) -> Probabilities:
    """Probabilities of a baseline, the classes that were given in the order of the run's.

    Classes of a run may have been merged since the fit.

    Args:
        rows: probabilities of the baseline.
        of: its classes.
        classes: those of the run.
    """
    column_of = {classes.names[c]: c for c in _named_classes(classes)}
    columns = np.full(len(of), -1)
    for b, name in enumerate(of.names):
        if of.kind(b) != "unknown" and column_of.get(name, len(of)) < len(of):
            columns[column_of[name]] = b
    columns[columns < 0] = np.setdiff1d(np.arange(len(of)), columns)
    return rows[:, columns]


def _clustering(dataset: ImageDataset, probabilities: Probabilities, classes: Classes) -> Json:
    """Clustering accuracy, with class names instead of indices."""
    predicted = probabilities.argmax(1)
    true = dataset.labels
    scores = clustering(true, predicted, _named_classes(classes)) or {}
    assigned = np.array(scores["assignment"])
    known = true >= 0
    hits = assigned[predicted[known]] == true[known]
    matched = set(predicted[known][hits].tolist())
    names = dataset.classes.names
    old = set(_named_classes(classes))
    rows = per_class(true, assigned[predicted], names)
    assignment = {
        name: names[assigned[p]] if p in matched else None for p, name in enumerate(classes.names)
    }
    of_kind = [row | {"kind": "old" if c in old else "new"} for c, row in enumerate(rows)]
    return scores | {
        "assignment": assignment,
        "mean_per_class": scores["per_class"],
        "per_class": [row for row in of_kind if row["n"]],
    }


def _named_classes(classes: Classes) -> list[int]:
    """Indices of the old classes: labelled ones, and those that have only a name."""
    return [*classes.labelled, *classes.named]


def _better_baselines(
    where: str, share: float | None, baselines: Mapping[str, float | None]
) -> list[str]:
    """Warn of each baseline with a higher accuracy."""
    return [
        f"{FITTED.get(name, name)} {BETTER} {where}: {other:.1%} against {share:.1%}"
        for name, other in baselines.items()
        if share is not None and other is not None and other > share
    ]
