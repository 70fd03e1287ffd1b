"""The classes of a run for its report: what is known of each, images, accuracies; in order."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from anyclass.data.label_tables import GIVEN
from anyclass.files import Json
from anyclass.report.labels import label_counts
from anyclass.report.words import KINDS, plain
from anyclass.run.columns import TRAINING

OPEN = 30
"""Classes that are shown before the rest is folded."""


def class_rows(classes: Json, metrics: Json, table: pa.Table) -> list[Json]:
    """One row per class in the order of the run: kind, labels, images, mean score, accuracies.

    Args:
        classes: the content of `classes.json`.
        metrics: the content of `metrics.json`.
        table: all rows of `predictions.parquet`.
    """
    kinds = dict(zip(classes["names"], classes["kinds"], strict=True))
    given = label_counts(table)
    kept = Counter(table.filter(pc.field("status") == GIVEN)["label"].to_pylist())
    table = table.filter(pc.field("status") == "ok")
    groups = table.group_by("label").aggregate([("score", "mean"), ("score", "count")])
    predicted = {row["label"]: row for row in groups.to_pylist()}
    before = _accuracies(metrics["zero_shot"])
    after = _accuracies(None if metrics.get("scored_on") == TRAINING else metrics["adapted"])
    return [
        {
            "label": label,
            "name": plain(label, 80),
            "kind": kinds.get(label, "unknown"),
            "known": KINDS[kinds.get(label, "unknown")],
            "labels": given[label],
            "count": predicted.get(label, NOTHING)["score_count"] + kept[label],
            "score": predicted.get(label, NOTHING)["score_mean"],
            "n": after.get(label, NOTHING)["n"],
            "zero_shot": before.get(label, NOTHING)["accuracy"],
            "adapted": after.get(label, NOTHING)["accuracy"],
        }
        for label in _labels(classes["names"], table)
    ]


NOTHING = {"score_mean": None, "score_count": 0, "accuracy": None, "n": 0}
"""What is known of a class without images or without labels."""


def _accuracies(scores: Json | None) -> Mapping[str, Json]:
    """Name of a class -> its row of the scores."""
    return {row["name"]: row for row in scores["per_class"]} if scores else {}


def _labels(names: Sequence[str], table: pa.Table) -> list[str]:
    """Class names in the user's order, followed by other predicted labels by size."""
    found = Counter(table["label"].to_pylist())
    return [
        *names,
        *(label for label, _ in found.most_common() if label is not None and label not in names),
    ]


def ordered(rows: Sequence[Json]) -> list[Json]:
    """Classes by what matters: most mistakes first where that is known, then by images."""

    def key(row: Json) -> tuple[float, int]:
        mistakes = 0.0 if row["adapted"] is None else row["n"] * (1 - row["adapted"])
        return -mistakes, -row["count"]

    return sorted(rows, key=key)


def class_table(rows: Sequence[Json]) -> Json:
    """The table of classes: rows that are shown, rows that are folded, classes without images."""
    used = [row for row in ordered(rows) if row["count"] or row["n"]]
    empty = [row for row in rows if not row["count"] and not row["n"]]
    scored = any(row["adapted"] is not None for row in rows)
    return {
        "shown": used[:OPEN],
        "folded": used[OPEN:],
        "empty": empty,
        "most": max((row["count"] for row in rows), default=0),
        "scored": scored,
    }
