"""What a run folder says, as one plain dict: the report shows it, as HTML or Markdown.

Numbers stay numbers, and what nobody can know is `None`.
"""

import csv
import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anyclass.errors import RequestError
from anyclass.files import csv_text, read_json
from anyclass.report.gallery import (
    GALLERY,
    LISTED,
    Draw,
    Json,
    chosen,
    descriptions,
    gallery,
    images,
    lines,
    plain,
    thumbnail,
)

SCORES = {
    "zero_shot": "Zero-shot",
    "zero_shot_ensemble": "Zero-shot, many templates",
    "adapted": "Adapted",
}
"""Scores in `metrics.json`, in the order of the story -> what they are called."""
CONTROLS = {
    "text": "Control, class texts as features",
    "none": "Control, names alone",
    "kmeans": "k-means",
    "kmeans_with_labels": "k-means with labels",
}
"""Classifiers that the result has to beat -> what they are called."""
ENDS = ("zero_shot", "adapted")
"""Keys of the scores before and after."""
DRAWN = 24
"""Most classes whose confusions are drawn as a table."""
NEAR, DOUBTFUL = 9, 6
"""Most typical and most doubtful images of a discovered class."""
BARS = 48
"""Most bars in the drawing of a training curve."""


def summarise(run: Path, thumbnails: bool = True) -> Json:
    """Everything the report says about the run folder `run`; without `thumbnails` no images.

    Raises:
        RequestError: `run` is not the folder of a finished run.
        AnyclassError: a file in it is damaged.
    """
    needed = ("config.json", "environment.json", "classes.json", "metrics.json")
    for name in (*needed, "predictions.parquet"):
        if not (run / name).is_file():
            raise RequestError(
                f"{run} is not the folder of a finished run: {name} is missing.\n"
                "Next: give the same `anyclass fit` again, it goes on where it stopped."
            )
    config, environment, classes, metrics = (read_json(run / name) for name in needed)
    draw = partial(thumbnail, Path(config["images"])) if thumbnails else lambda _: None
    table = pq.read_table(run / "predictions.parquet").filter(pc.field("status") == "ok")
    moved = table.filter(pc.field("label") != pc.field("zero_shot_label"))
    labels = _labels(classes["names"], table)
    rows = _classes(labels, classes, metrics, table)
    naming = read_json(run / "naming.json") if (run / "naming.json").is_file() else None
    found = [row for row in naming["classes"] if row["kind"] == "unknown"] if naming else []
    features = [label for label in labels if label not in {row["name"] for row in found}]
    return {
        "name": plain(Path(config["images"]).name),
        "method": plain(config["method"]),
        "why": [plain(text, 400) for text in (*config["why"], *_counted(metrics))],
        "started": plain(environment["started"]),
        "seconds": metrics["seconds"]["total"],
        "images": metrics["n"],
        "kinds": Counter(row["kind"] for row in rows),
        "warnings": [plain(text, 400) for text in metrics["warnings"]],
        "scores": _scores(metrics),
        "halves": _halves(rows, metrics, table),
        "why_null": plain(metrics["why_null"] or "No image has a label to compare with.", 400),
        "facts": [(plain(name), value) for name, value in metrics["facts"].items()],
        "classes": rows,
        "confusion": _confusion([row["name"] for row in rows], metrics["confusion"]),
        "discovered": _discovered(found, rows, draw),
        "naming": {key: value for key, value in (naming or {}).items() if key != "classes"},
        "gallery": _gallery(features, rows, gallery(features, table, draw)),
        "unsure": images(table.sort_by("margin"), draw),
        "moved": images(moved.sort_by([("score", "descending")]), draw),
        "moves": {"share": metrics["changed"], **_moves(moved)},
        "descriptions": descriptions(run / "descriptions.jsonl", classes["names"], draw),
        "curves": _curves(run / "log.jsonl"),
        "rejected": _rejected(run / "rejected.csv"),
        "asked": _pairs(config, ("images", "classes", "labels", "unknown", "model", "asked")),
        "settings": _pairs({**config, **config["fields"]}, ("template", "seed", *config["fields"])),
        "environment": _pairs(environment, environment),
        "next": _next(run, config, scored=metrics["adapted"] is not None, discovered=bool(found)),
    }


def _labels(names: Sequence[str], table: pa.Table) -> list[str]:
    """Class names in the user's order, then the discovered classes by size."""
    found = Counter(table["label"].to_pylist())
    return [*names, *(label for label, _ in found.most_common() if label not in set(names))]


def _classes(labels: Sequence[str], classes: Json, metrics: Json, table: pa.Table) -> list[Json]:
    """One row for each label: kind, count of images given to it, mean score, accuracies."""
    kinds = dict(zip(classes["names"], classes["kinds"], strict=True))
    groups = table.group_by("label").aggregate([("score", "mean"), ("score", "count")])
    given = {row["label"]: row for row in groups.to_pylist()}
    empty = {"score_mean": None, "score_count": 0, "accuracy": None, "n": 0}
    before, after = (
        {row["name"]: row for row in (metrics[key] or {"per_class": []})["per_class"]}
        for key in ("zero_shot", "adapted")
    )
    return [
        {
            "name": plain(label, 80),
            "kind": kinds.get(label, "unknown"),
            "count": given.get(label, empty)["score_count"],
            "score": given.get(label, empty)["score_mean"],
            "n": after.get(label, empty)["n"],
            "zero_shot": before.get(label, empty)["accuracy"],
            "adapted": after.get(label, empty)["accuracy"],
        }
        for label in labels
    ]


def _gallery(
    labels: Sequence[str], rows: Sequence[Json], features: Iterable[list[Json]]
) -> list[tuple[Json, list[Json]]]:
    """The row of each label with its images, as far as there are any."""
    row_of = {row["name"]: row for row in rows}
    return [(row_of[plain(label, 80)], some) for label, some in zip(labels, features, strict=False)]


def _discovered(found: Sequence[Json], rows: Sequence[Json], draw: Draw) -> list[Json]:
    """Discovered classes: their row, what they may be called, typical and doubtful images."""
    row_of, most = {row["name"]: row for row in rows}, GALLERY // max(1, len(found))
    typical, doubtful = min(NEAR, max(1, most * 3 // 5)), min(DOUBTFUL, most * 2 // 5)
    return [
        row_of[plain(one["name"], 80)]
        | {
            "suggested": plain(one["suggested"] or "", 80),
            "runners_up": [plain(word, 80) for word in one["runners_up"]],
            "confidence": plain(one["confidence"] or ""),
            "typical": chosen(one["typical"], typical, draw),
            "doubtful": chosen(one["borderline"], doubtful, draw),
        }
        for one in found[:GALLERY]
    ]


def _scores(metrics: Json) -> list[Json]:
    """The scores that are known: key, name, accuracy, mean_per_class, n, gain over zero-shot."""
    base, controls = metrics["zero_shot"], metrics.get("controls", {})
    *first, last = SCORES.items()
    known = [(key, name, metrics[key]) for key, name in first]
    known += [("control", CONTROLS.get(key, plain(key)), row) for key, row in controls.items()]
    return [
        {
            "key": key,
            "name": name,
            **{field: row[field] for field in ("accuracy", "mean_per_class", "n")},
            "gain": row["accuracy"] - base["accuracy"] if base else None,
        }
        for key, name, row in [*known, (*last, metrics[last[0]])]
        if row
    ]


def _halves(rows: Sequence[Json], metrics: Json, table: pa.Table) -> list[Json]:
    """Labelled and named classes apart, where there are both: counts of images, accuracies.

    `within`: against the classes of its own half; `among_all`: against all of them.
    """
    given = Counter(table["zero_shot_label"].to_pylist())
    halves = []
    for kind, half in (("labelled", "base"), ("named", "new")):
        members = [row for row in rows if row["kind"] == kind]
        scores = {
            space: [((metrics[key] or {}).get(name) or {}).get(half) for key in ENDS]
            for space, name in (("within", "sliced"), ("among_all", "mixed"))
        }
        counts = {
            "classes": len(members),
            "before": sum(given[row["name"]] for row in members),
            "after": sum(row["count"] for row in members),
        }
        halves.append({"kind": kind, **counts, **scores})
    return halves if all(half["classes"] for half in halves) else []


def _confusion(names: Sequence[str], counts: list[list[int]] | None) -> Json:
    """For few classes rows of (true class, [(count, share of that class), ...]); mistakes."""
    table = np.array(counts or np.zeros((0, 0)), dtype=np.int64)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    names = [*names, *(f"unknown {i + 1}" for i in range(len(table) - len(names)))]
    wrong = [(names[t], names[p], int(table[t, p])) for t, p in np.argwhere(table) if t != p]
    rows = [
        (name, list(zip(row.tolist(), share.tolist(), strict=True)))
        for name, row, share in zip(names, table, shares, strict=False)
    ]
    return {
        "rows": rows if len(rows) <= DRAWN else [],
        "mistakes": sorted(wrong, key=lambda pair: -pair[2])[:8],
    }


def _moves(moved: pa.Table) -> dict[str, int]:
    """Of the labels that differ from zero-shot: count, how many are right now, and were before."""
    truth = moved["true_label"]
    right, wrong = (pc.sum(pc.equal(moved[key], truth)) for key in ("label", "zero_shot_label"))
    return {
        "count": len(moved),
        "known": len(moved) - truth.null_count,
        "right": right.as_py() or 0,
        "wrong": wrong.as_py() or 0,
    }


def _curves(path: Path) -> list[Json]:
    """Each number that training logged at least twice: name, first, last, bars from 0 to 1."""
    series: dict[str, list[float]] = {}
    for line in lines(path):
        for key, value in line.items():
            number = isinstance(value, int | float) and math.isfinite(value)
            if number and key not in ("step", "epoch", "done", "total", "failed"):
                series.setdefault(f"{key} ({line.get('stage', 'training')})", []).append(value)
    return [
        {"name": plain(name), "first": values[0], "last": values[-1], "bars": _bars(values)}
        for name, values in series.items()
        if len(values) > 1
    ]


def _bars(values: Sequence[float]) -> list[float]:
    """Means of at most `BARS` stretches of a curve, scaled to 0 ... 1."""
    means = np.array([part.mean() for part in np.array_split(values, min(BARS, len(values)))])
    scaled: list[float] = ((means - means.min()) / (np.ptp(means) or 1)).tolist()
    return scaled


def _rejected(path: Path) -> Json:
    """Images that could not be used: count, reasons by number, the first rows."""
    rows = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{k: plain(csv_text(v)) for k, v in row.items()} for row in csv.DictReader(file)]
    reasons = Counter(row["reason"] for row in rows).most_common()
    return {"count": len(rows), "reasons": reasons, "rows": rows[:LISTED]}


def _next(run: Path, config: Json, scored: bool, discovered: bool) -> list[tuple[str, str]]:
    """What to try now: a sentence and the command, quoted for a shell."""
    here = ["anyclass", "predict", "--run", str(run)]
    names = config["classes"] if isinstance(config["classes"], str) else "names.txt"
    classes = ["--classes", names] if config["classes"] else []
    fit = ["anyclass", "fit", "auto", "--images", config["images"], *classes]
    again = ["--out", f"{run}-2"]
    steps = [("Label other images.", [*here, "--images", "NEW", "--out", "new.csv"])]
    if discovered:
        said = f"Name what was discovered: write into the column name of {run / 'classes.csv'}."
        steps += [(plain(said, 400), ["anyclass", "rename", "--run", str(run)])]
    if not scored:
        said = "Measure it on images that lie in one folder for each class."
        steps += [(said, ["anyclass", "evaluate", "--run", str(run), "--images", "LABELLED"])]
    if not config["labels"]:
        said = "Label a few of the least certain images in a table file_name,label; fit again."
        steps += [(said, [*fit, "--labels", "labels.csv", *again])]
    if config["model"] == "starter":
        said = "Use a larger model: the starter is a small one."
        steps += [(said, [*fit, "--model", "ViT-B-32/laion2b_s34b_b79k", *again])]
    return [(said, plain(shlex.join(command), 2000)) for said, command in steps]


def _counted(metrics: Json) -> list[str]:
    """What is to be said of an estimated number of classes, where there is one."""
    found = metrics.get("classes_estimated")
    return [found["why"]] if found else []


def _pairs(values: Json, keys: Iterable[str]) -> list[tuple[str, str]]:
    """(name, text) of the values at `keys`, for a table."""
    return [(plain(key), plain(_say(values[key]), 4000)) for key in keys if key in values]


def _say(value: object) -> str:
    """A JSON value for people: `a 1, b 2` for an object, a command line for a list of words."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_say(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return shlex.join(_say(inner) for inner in value)
    if isinstance(value, str):
        return value
    return "–" if value is None else json.dumps(value)
