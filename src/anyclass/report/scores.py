"""Scores of a run for its report: accuracies with intervals, labelled and named classes apart."""

from collections import Counter
from collections.abc import Sequence
from operator import itemgetter

import pyarrow as pa

from anyclass.files import Json
from anyclass.report.scored import Scored, paired_difference, wilson
from anyclass.report.words import baseline, plain
from anyclass.run.baselines import BEFORE
from anyclass.run.columns import CROSS_FITTED, TRAINING

ENDS = ("zero_shot", "adapted")
"""Keys of the scores before and after adaptation."""
FALL = 0.005
"""Loss of the mean per class that is mentioned."""


def score_rows(metrics: Json) -> list[Json]:
    """Known scores: key, name, accuracy, mean_per_class, n. Training scores are left out."""
    baselines = metrics.get("controls", {})
    known = [(key, name, metrics[key]) for key, name in BEFORE.items()]
    if most := metrics.get("majority"):
        name = most.get("name") or "the most frequent class"
        known.append(("majority", f"Always “{plain(name, 80)}”", most))
    if metrics.get("scored_on") != TRAINING:
        known += [("control", baseline(key), row) for key, row in baselines.items()]
        known.append(("adapted", "This run", metrics["adapted"]))
    figures = itemgetter("accuracy", "mean_per_class", "n")
    columns = ("key", "name", "accuracy", "mean_per_class", "n")
    found = [(key, name, *figures(row)) for key, name, row in known if row]
    return [dict(zip(columns, row, strict=True)) for row in found]


def headline(metrics: Json, scored: Scored) -> Json | None:
    """Accuracy with its interval, and the gain over zero-shot; None without fair labels."""
    adapted = metrics["adapted"]
    if not adapted or metrics.get("scored_on") == TRAINING:
        return None
    n = adapted["n"]
    low, high = wilson(adapted["accuracy"], n)
    cross = metrics.get("scored_on") == CROSS_FITTED
    labels = "label" if n == 1 else "labels"
    how = f"{n} {labels} that it was not trained on"
    if cross:
        how = f"{n} {labels}, each predicted by a fit without it (cross-fitted)"
    return {
        "accuracy": adapted["accuracy"],
        "low": low,
        "high": high,
        "n": n,
        "how": how,
        "gain": _gain(metrics, scored),
    }


def _gain(metrics: Json, scored: Scored) -> Json | None:
    """Difference from zero-shot: points, interval, mean per class, and a verdict.

    `verdict` is `better` or `worse` only if the interval excludes 0 and the mean over the classes
    does not say the opposite; otherwise `open`.
    """
    before = metrics["zero_shot"]
    after = metrics["adapted"]
    if not before:
        return None
    points = after["accuracy"] - before["accuracy"]
    low, high = paired_difference(scored.right_before, scored.right)
    mean = after["mean_per_class"] - before["mean_per_class"]
    clear = low > 0 or high < 0
    verdict = "open"
    if clear and points > 0 and mean >= -FALL:
        verdict = "better"
    elif points < 0 and (clear or mean < -FALL):
        verdict = "worse"
    return {
        "points": points,
        "low": low,
        "high": high,
        "verdict": verdict,
        "certain": clear,
        "mean_before": before["mean_per_class"],
        "mean_after": after["mean_per_class"],
        "opposite": (points > 0 and mean < -FALL) or (points < 0 and mean > FALL),
    }


def halves(rows: Sequence[Json], metrics: Json, table: pa.Table) -> list[Json]:
    """Image counts and accuracies of labelled and of named classes, if there are both.

    Counted are predictions, before and after: not the images that kept a given label.
    `within`: among the classes of the same kind; `among_all`: among all classes.
    """
    before = Counter(table["zero_shot_label"].to_pylist())
    after = Counter(table["label"].to_pylist())
    found: list[Json] = []
    for kind, half in (("labelled", "base"), ("named", "new")):
        members = [row for row in rows if row["kind"] == kind]
        row: Json = {
            "kind": kind,
            "classes": len(members),
            "before": 0,
            "after": 0,
            "within": _ends(metrics, "sliced", half),
            "among_all": _ends(metrics, "mixed", half),
        }
        for member in members:
            row["before"] += before[member["label"]]
            row["after"] += after[member["label"]]
        found.append(row)
    return found if all(half["classes"] for half in found) else []


def _ends(metrics: Json, space: str, half: str) -> list[float | None]:
    """Accuracy on half of the classes before and after adaptation, where it is known."""
    scores = dict(metrics)
    if metrics.get("scored_on") == TRAINING:
        scores["adapted"] = None
    return [((scores[key] or {}).get(space) or {}).get(half) for key in ENDS]
