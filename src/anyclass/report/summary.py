"""Summary of a run folder as one plain dict, which the report renders as HTML or Markdown.

Numbers stay numbers; unknown values are `None`.
"""

import csv
import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
    Json,
    Thumbnail,
    descriptions,
    gallery,
    image_rows,
    lines,
    plain,
    thumbnail,
    tiles,
)
from anyclass.run.progress import STAGES

SCORES = {
    "zero_shot": "Zero-shot",
    "zero_shot_ensemble": "Zero-shot, many templates",
    "adapted": "Adapted",
}
"""Keys of the scores in `metrics.json`, in the order of the report -> their titles."""
CONTROLS = {
    "text": "Control: class prompts as features",
    "none": "Control: class names only",
    "kmeans": "k-means",
    "kmeans_with_labels": "k-means with labels",
}
"""Keys of the baselines -> their titles."""
ENDS = ("zero_shot", "adapted")
"""Keys of the scores before and after adaptation."""
REQUEST = {
    "images": "images",
    "classes": "class names",
    "labels": "labels",
    "unknown": "unknown classes",
    "model": "model",
    "asked": "requested method",
}
"""Keys of the request in `config.json` -> their titles."""
MATRIX = 24
"""Most classes of a confusion matrix that is shown in full."""
TYPICAL, DOUBTFUL = 9, 6
"""Most typical and least certain images of a discovered class."""
BARS = 48
"""Most bars of a training curve."""


def summarise(run: Path, thumbnails: bool = True) -> Json:
    """Collect everything for the report of `run`; without `thumbnails`, no image is read.

    Raises:
        RequestError: `run` is not the folder of a finished run.
        AnyclassError: a file in it is damaged.
    """
    needed = ("config.json", "environment.json", "classes.json", "metrics.json")
    for name in (*needed, "predictions.parquet"):
        if not (run / name).is_file():
            raise RequestError(
                f"{run} is not the folder of a finished run: {name} is missing.\n"
                "Next: run the same `anyclass fit` again; it continues where it stopped."
            )
    config, environment, classes, metrics = (read_json(run / name) for name in needed)
    root = Path(config["images"])
    thumbnail_of = partial(thumbnail, root) if thumbnails else lambda _: None
    table = pq.read_table(run / "predictions.parquet").filter(pc.field("status") == "ok")
    moved = table.filter(pc.field("label") != pc.field("zero_shot_label"))
    labels = _labels(classes["names"], table)
    rows = _classes(labels, classes, metrics, table)
    naming = read_json(run / "naming.json") if (run / "naming.json").is_file() else None
    found = [row for row in naming["classes"] if row["kind"] == "unknown"] if naming else []
    discovered = {row["name"] for row in found}
    others = [label for label in labels if label not in discovered]
    return {
        "name": plain(Path(config["images"]).name),
        "method": plain(config["method"]),
        "why": [plain(text, 400) for text in (*config["why"], *_estimate(metrics))],
        "started": plain(environment["started"]),
        "seconds": metrics["seconds"]["total"],
        "images": metrics["n"],
        "kinds": Counter(row["kind"] for row in rows),
        "warnings": [plain(text, 400) for text in metrics["warnings"]],
        "scores": _scores(metrics),
        "halves": _halves(rows, metrics, table),
        "why_null": plain(metrics["why_null"] or "No image has a label to compare with.", 400),
        "facts": [(_title(name), value) for name, value in metrics["facts"].items()],
        "classes": rows,
        "confusion": _confusion([row["name"] for row in rows], metrics["confusion"]),
        "discovered": _discovered(found, rows, thumbnail_of),
        "naming": {key: value for key, value in (naming or {}).items() if key != "classes"},
        "gallery": _gallery(others, rows, gallery(others, table, thumbnail_of)),
        "unsure": image_rows(table.sort_by("margin"), thumbnail_of),
        "moved": image_rows(moved.sort_by([("score", "descending")]), thumbnail_of),
        "moves": {"share": metrics["changed"], **_moves(moved)},
        "descriptions": descriptions(run / "descriptions.jsonl", classes["names"], thumbnail_of),
        "curves": _curves(run / "log.jsonl"),
        "rejected": _rejected(run / "rejected.csv"),
        "asked": _pairs(config, REQUEST),
        "settings": _pairs(
            {**config, **config["fields"]}, _titles(("template", "seed", *config["fields"]))
        ),
        "environment": _pairs(environment, _titles(environment)),
        "next": _next(run, config, scored=metrics["adapted"] is not None, discovered=bool(found)),
    }


def _labels(names: Sequence[str], table: pa.Table) -> list[str]:
    """Class names in the user's order, followed by the discovered classes by size."""
    found = Counter(table["label"].to_pylist())
    return [*names, *(label for label, _ in found.most_common() if label not in set(names))]


def _classes(labels: Sequence[str], classes: Json, metrics: Json, table: pa.Table) -> list[Json]:
    """One row per label: kind, number of predicted images, mean score, accuracies."""
    kinds = dict(zip(classes["names"], classes["kinds"], strict=True))
    groups = table.group_by("label").aggregate([("score", "mean"), ("score", "count")])
    predicted = {row["label"]: row for row in groups.to_pylist()}
    empty = {"score_mean": None, "score_count": 0, "accuracy": None, "n": 0}
    before, after = (
        {row["name"]: row for row in (metrics[key] or {"per_class": []})["per_class"]}
        for key in ("zero_shot", "adapted")
    )
    return [
        {
            "name": plain(label, 80),
            "kind": kinds.get(label, "unknown"),
            "count": predicted.get(label, empty)["score_count"],
            "score": predicted.get(label, empty)["score_mean"],
            "n": after.get(label, empty)["n"],
            "zero_shot": before.get(label, empty)["accuracy"],
            "adapted": after.get(label, empty)["accuracy"],
        }
        for label in labels
    ]


def _gallery(
    labels: Sequence[str], rows: Sequence[Json], samples: Iterable[list[Json]]
) -> list[tuple[Json, list[Json]]]:
    """Pair the row of each label with its sample of images."""
    row_of = {row["name"]: row for row in rows}
    return [(row_of[plain(label, 80)], some) for label, some in zip(labels, samples, strict=False)]


def _discovered(found: Sequence[Json], rows: Sequence[Json], thumbnail_of: Thumbnail) -> list[Json]:
    """Discovered classes: row, suggested names, typical and least certain images."""
    row_of = {row["name"]: row for row in rows}
    most = GALLERY // max(1, len(found))
    typical = min(TYPICAL, max(1, most * 3 // 5))
    doubtful = min(DOUBTFUL, most * 2 // 5)
    return [
        row_of[plain(one["name"], 80)]
        | {
            "suggested": plain(one["suggested"] or "", 80),
            "runners_up": [plain(word, 80) for word in one["runners_up"]],
            "confidence": plain(one["confidence"] or ""),
            "typical": tiles(one["typical"], typical, thumbnail_of),
            "doubtful": tiles(one["borderline"], doubtful, thumbnail_of),
        }
        for one in found[:GALLERY]
    ]


def _scores(metrics: Json) -> list[Json]:
    """Known scores: key, name, accuracy, mean_per_class, n, gain over zero-shot."""
    base = metrics["zero_shot"]
    controls = metrics.get("controls", {})
    *first, last = SCORES.items()
    known = [(key, name, metrics[key]) for key, name in first]
    known += [("control", CONTROLS.get(key, _title(key)), row) for key, row in controls.items()]
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
    """Image counts and accuracies of labelled and of named classes, if there are both.

    `within`: among the classes of the same kind; `among_all`: among all classes.
    """
    before = Counter(table["zero_shot_label"].to_pylist())
    halves = []
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
        halves.append({"kind": kind, **counts, **scores})
    return halves if all(half["classes"] for half in halves) else []


def _confusion(names: Sequence[str], counts: list[list[int]] | None) -> Json:
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


def _moves(moved: pa.Table) -> dict[str, int]:
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


def _curves(path: Path) -> list[Json]:
    """Each number that was logged at least twice: name, first, last, bars from 0 to 1."""
    series: dict[str, list[float]] = {}
    for line in lines(path):
        stage = line.get("stage", "fit")
        for key, value in line.items():
            number = isinstance(value, int | float) and math.isfinite(value)
            if number and key not in ("step", "epoch", "done", "total", "failed"):
                series.setdefault(f"{key} ({STAGES.get(stage, stage)})", []).append(value)
    return [
        {"name": _title(name), "first": values[0], "last": values[-1], "bars": _bars(values)}
        for name, values in series.items()
        if len(values) > 1
    ]


def _bars(values: Sequence[float]) -> list[float]:
    """Means of at most `BARS` sections of a curve, scaled to 0 ... 1."""
    means = np.array([part.mean() for part in np.array_split(values, min(BARS, len(values)))])
    scaled: list[float] = ((means - means.min()) / (np.ptp(means) or 1)).tolist()
    return scaled


def _rejected(path: Path) -> Json:
    """Rejected images: count, reasons by frequency, the first rows."""
    rows = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{k: plain(csv_text(v)) for k, v in row.items()} for row in csv.DictReader(file)]
    reasons = Counter(row["reason"] for row in rows).most_common()
    return {"count": len(rows), "reasons": reasons, "rows": rows[:LISTED]}


def _next(run: Path, config: Json, scored: bool, discovered: bool) -> list[tuple[str, str]]:
    """Suggested next steps: a sentence and a command, quoted for a shell."""
    here = ["anyclass", "predict", "--run", str(run)]
    names = config["classes"] if isinstance(config["classes"], str) else "names.txt"
    classes = ["--classes", names] if config["classes"] else []
    fit = ["anyclass", "fit", "auto", "--images", config["images"], *classes]
    again = ["--out", f"{run}-2"]
    steps = [("Label other images.", [*here, "--images", "NEW", "--out", "new.csv"])]
    if discovered:
        advice = f"Name the discovered classes in the column `name` of {run / 'classes.csv'}."
        steps += [(plain(advice, 400), ["anyclass", "rename", "--run", str(run)])]
    if not scored:
        advice = "Evaluate the classifier on labelled images, one folder per class."
        steps += [(advice, ["anyclass", "evaluate", "--run", str(run), "--images", "LABELLED"])]
    if not config["labels"]:
        advice = "Label some of the least certain images in a table file_name,label and fit again."
        steps += [(advice, [*fit, "--labels", "labels.csv", *again])]
    if config["model"] == "starter":
        advice = "Use a larger model: the starter model is small."
        steps += [(advice, [*fit, "--model", "ViT-B-32/laion2b_s34b_b79k", *again])]
    return [(advice, plain(shlex.join(command), 2000)) for advice, command in steps]


def _estimate(metrics: Json) -> list[str]:
    """The explanation of an estimated number of classes, if there is one."""
    found = metrics.get("classes_estimated")
    return [found["why"]] if found else []


def _pairs(values: Json, titles: Mapping[str, str]) -> list[tuple[str, str]]:
    """Title and text of the values at the keys of `titles`, for a table."""
    present = [(key, title) for key, title in titles.items() if key in values]
    return [(title, plain(_text(values[key]), 4000)) for key, title in present]


def _titles(keys: Iterable[str]) -> dict[str, str]:
    return {key: _title(key) for key in keys}


def _title(key: str) -> str:
    """A key as words."""
    return plain(key.replace("_", " "))


def _text(value: object) -> str:
    """A JSON value for people: `a 1, b 2` for an object, a command line for a list of words."""
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return shlex.join(_text(item) for item in value)
    if isinstance(value, str):
        return value
    return "–" if value is None else json.dumps(value)
