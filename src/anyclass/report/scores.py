"""Scores of a run for its report: accuracies, labelled and named classes apart, mistakes."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anyclass.report.gallery import Json, title
from anyclass.run.label_scores import CROSS_FITTED, TRAINING

SCORES = {
    "zero_shot": "Zero-shot",
    "zero_shot_ensemble": "Zero-shot, many templates",
}
"""Keys of the scores before adaptation in `metrics.json`, in the order of the report -> titles."""
ADAPTED = {CROSS_FITTED: "Adapted, cross-fitted", TRAINING: "Adapted, on its training labels"}
"""What is scored -> title of the score of the classifier, if it is not on other labels."""
CONTROLS = {
    "text": "Control: class prompts as features",
    "none": "Control: class names only",
    "kmeans": "k-means",
    "kmeans_with_labels": "k-means with labels",
}
"""Keys of the baselines -> their titles."""
ENDS = ("zero_shot", "adapted")
"""Keys of the scores before and after adaptation."""
MATRIX = 24
"""Most classes of a confusion matrix that is shown in full."""


def score_rows(metrics: Json) -> list[Json]:
    """Known scores: key, name, accuracy, mean_per_class, n, gain over zero-shot."""
    base = metrics["zero_shot"]
    controls = metrics.get("controls", {})
    adapted = ADAPTED.get(str(metrics.get("scored_on")), "Adapted")
    known = [(key, name, metrics[key]) for key, name in SCORES.items()]
    if metrics.get("majority"):
        known.append(("majority", "Majority class", metrics["majority"]))
    known += [("control", CONTROLS.get(key, title(key)), row) for key, row in controls.items()]
    return [
        {
            "key": key,
            "name": name,
            **{field: row[field] for field in ("accuracy", "mean_per_class", "n")},
            "gain": row["accuracy"] - base["accuracy"] if base else None,
        }
        for key, name, row in [*known, ("adapted", adapted, metrics["adapted"])]
        if row
    ]


def halves(rows: Sequence[Json], metrics: Json, table: pa.Table) -> list[Json]:
    """Image counts and accuracies of labelled and of named classes, if there are both.

    `within`: among the classes of the same kind; `among_all`: among all classes.
    """
    before = Counter(table["zero_shot_label"].to_pylist())
    found = []
    for kind, half in (("labelled", "base"), ("named", "new")):
        members = [row for row in rows if row["kind"] == kind]
        scores = {
            space: [((metrics[key] or {}).get(name) or {}).get(half) for key in ENDS]
            for space, name in (("within", "sliced"), ("among_all", "mixed"))
        }
        counts = {
            "classes": len(members),
            "before": sum(before[row["name"]] for row in members),
            "after": sum(row["count"] for row in members),
        }
        found.append({"kind": kind, **counts, **scores})
    return found if all(half["classes"] for half in found) else []


def confusion(names: Sequence[str], counts: list[list[int]] | None) -> Json:
    """Confusion matrix as rows (true class, [(count, share), ...]), if small, and mistakes."""
    table = np.array(counts or np.zeros((0, 0)), dtype=np.int64)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    names = [*names, *(f"unknown {i + 1}" for i in range(len(table) - len(names)))]
    mistakes = [(names[t], names[p], int(table[t, p])) for t, p in np.argwhere(table) if t != p]
    rows = [
        (name, list(zip(row.tolist(), share.tolist(), strict=True)))
        for name, row, share in zip(names, table, shares, strict=False)
    ]
    return {
        "rows": rows if len(rows) <= MATRIX else [],
        "mistakes": sorted(mistakes, key=lambda pair: -pair[2])[:8],
    }


def moves(moved: pa.Table) -> dict[str, int]:
    """Count the labels that differ from zero-shot: all, checkable, fixed and broken ones."""
    truth = moved["true_label"]
    fixed = pc.sum(pc.equal(moved["label"], truth))
    broken = pc.sum(pc.equal(moved["zero_shot_label"], truth))
    return {
        "count": len(moved),
        "known": len(moved) - truth.null_count,
        "fixed": fixed.as_py() or 0,
        "broken": broken.as_py() or 0,
    }
