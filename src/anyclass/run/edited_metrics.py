"""The metrics of a run after its classes were merged, split, rejected or renamed."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from anyclass.data import Classes
from anyclass.data.label_tables import GIVEN
from anyclass.estimators.metrics import expected_calibration_error
from anyclass.files import Json
from anyclass.run.clustering_scores import discovery_summary, is_discovery_warning
from anyclass.run.columns import CROSS_FITTED, REJECTED, UNSEEN
from anyclass.run.content import read_checked
from anyclass.run.edited_tables import EditedRun
from anyclass.run.scoring import all_scores, stored_confusion


def read_metrics(run: Path) -> Json:
    """The content of `metrics.json`, checked.

    Raises:
        AnyclassError: it is damaged.
    """
    content = read_checked(run, "metrics.json")
    content.setdefault("controls", {})  # runs of 0.1 may have none
    return content


def edited_metrics(run: EditedRun, metrics: Json) -> Json:
    """The content of `metrics.json` with the classes as they are now.

    Scores of the classifier are computed again from the stored predictions; those of zero-shot and
    of the baselines do not change.

    Args:
        run: the edit.
        metrics: the metrics before.
    """
    classes = run.after.classes
    metrics = {key: _renamed(value, run) for key, value in metrics.items()}
    found = metrics.get("discovery")
    if found:
        metrics["discovery"] = found | {"empty": [run.renamed.get(n, n) for n in found["empty"]]}
    for key in ("zero_shot", "zero_shot_ensemble"):
        metrics[key] = _with_classes(metrics.get(key), classes)
    probabilities = run.probabilities
    if probabilities is None:
        return metrics
    table = run.exact.filter(pc.field("status") != REJECTED).to_pydict()
    labels = _labels(table["true_label"], run)
    labels, scored = _scored(run, probabilities, metrics.get("scored_on"), labels, table)
    predicted = probabilities.argmax(1)
    metrics["adapted"] = all_scores(labels, scored, classes)
    key = "calibration_error_known" if "expected" in metrics else "calibration_error"
    metrics[key] = expected_calibration_error(labels, scored)
    if metrics["adapted"]:
        metrics.pop("confusion_counts", None)
        metrics |= stored_confusion(labels, scored.argmax(1), len(classes))
    if metrics.get("changed") is not None:
        before = _labels(table["zero_shot_label"], run)
        free = ~_given(table)  # the others keep their label
        metrics["changed"] = float((predicted != before)[free].mean()) if free.any() else None
    metrics["warnings"] = [w for w in metrics["warnings"] if not is_discovery_warning(w)]
    held_out = metrics.get("scored_on") in (None, UNSEEN)
    metrics.pop("discovery", None)
    return metrics | discovery_summary(predicted, classes, metrics, held_out)


def _labels(names: list[str | None], run: EditedRun) -> Int[np.ndarray, " M"]:
    """Index that the class of each image has now, -1 without a label."""
    index = {name: c for c, name in enumerate(run.after.classes.names)}
    now = [run.renamed.get(name, name) if name else None for name in names]
    return np.array([-1 if name is None else index.get(name, -1) for name in now], np.int64)


def _given(table: Json) -> Bool[np.ndarray, " M"]:
    """Whether the label of each image was trained on."""
    return np.array([status == GIVEN for status in table["status"]], bool)


def _scored(
    run: EditedRun,
    probabilities: Float[np.ndarray, "M C"],
    kind: str | None,
    labels: Int[np.ndarray, " M"],
    table: Json,
) -> tuple[Int[np.ndarray, " M"], Float[np.ndarray, "M C"]]:
    """Labels that are scored, and the probabilities that they are compared with."""
    if kind == UNSEEN:
        return np.where(_given(table), -1, labels), probabilities
    if kind == CROSS_FITTED:
        opinions = _labels(table["opinion"], run)
        others = np.zeros_like(probabilities)
        rows = np.flatnonzero(opinions >= 0)
        others[rows, opinions[rows]] = np.array(table["opinion_score"], np.float32)[rows]
        return np.where(opinions >= 0, labels, -1), others
    return labels, probabilities


def _renamed(scores: Any, run: EditedRun) -> Any:
    """Scores with the names that classes have now."""
    rows = scores.get("per_class") if isinstance(scores, dict) else None
    if not isinstance(rows, list):
        return scores
    return scores | {
        "per_class": [row | {"name": run.renamed.get(row["name"], row["name"])} for row in rows]
    }


def _with_classes(scores: Json | None, classes: Classes) -> Json | None:
    """Scores with a row for each class as it is now."""
    if not scores:
        return scores
    row_of = {row["name"]: row for row in scores["per_class"]}
    nothing = {"n": 0, "accuracy": None}
    rows = [row_of.get(name, {"name": name} | nothing) for name in classes.names]
    return scores | {"per_class": rows}
