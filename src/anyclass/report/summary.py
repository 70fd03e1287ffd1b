"""Summary of a run folder as one plain dict, which the report renders as HTML or Markdown.

Numbers stay numbers; unknown values are `None`.
"""

import csv
import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anyclass.data.label_tables import GIVEN
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
    no_image,
    plain,
    thumbnails_of,
    tiles,
    title,
)
from anyclass.report.labels import label_counts, suspicious
from anyclass.report.next_steps import next_steps
from anyclass.report.scores import confusion, halves, moves, score_rows
from anyclass.run.label_scores import TRAINING
from anyclass.run.progress import STAGES
from anyclass.run.sentences import basis, decision, rounds

REQUEST = {
    "images": "images",
    "features": "features",
    "class_text": "class texts",
    "classes": "class names",
    "labels": "labels",
    "unknown": "unknown classes",
    "model": "model",
    "asked": "requested method",
}
"""Keys of the request in `config.json` -> their titles."""
SOURCES = ("images", "features", "class_text", "model")
"""Those that are listed only where they were given."""
TYPICAL, DOUBTFUL = 9, 6
"""Most typical and least certain images of a discovered class."""
BARS = 48
"""Most bars of a training curve."""


def summarise(run: Path, thumbnails: bool = True, memory: Mapping[str, Any] | None = None) -> Json:
    """Collect everything for the report of `run`; without `thumbnails`, no image is read.

    Args:
        run: a run folder.
        thumbnails: whether images are shown.
        memory: images by name, if they are in memory.

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
    images = config["images"]
    thumbnail_of = thumbnails_of(images, memory) if thumbnails else no_image
    everything = pq.read_table(run / "predictions.parquet")
    table = everything.filter(pc.field("status") == "ok")
    shown = _shown(everything, table)
    moved = table.filter(pc.field("label") != pc.field("zero_shot_label"))
    labels = _labels(classes["names"], shown)
    rows = _classes(labels, classes, metrics, everything)
    naming = read_json(run / "naming.json") if (run / "naming.json").is_file() else None
    found = [row for row in naming["classes"] if row["kind"] == "unknown"] if naming else []
    discovered = {row["name"] for row in found}
    others = [label for label in labels if label not in discovered]
    return {
        "name": plain(Path(images or config["features"]).name),
        "features": not images,
        "method": plain(config["method"]),
        "why": [plain(text, 400) for text in _reasons(config, metrics)],
        "started": plain(environment["started"]),
        "seconds": metrics["seconds"]["total"],
        "images": metrics["n"],
        "kinds": Counter(row["kind"] for row in rows),
        "warnings": [plain(text, 400) for text in metrics["warnings"]],
        "scores": score_rows(metrics),
        "headline": metrics.get("scored_on") != TRAINING,
        "basis": plain(basis(metrics)),
        "rounds": [plain(sentence, 400) for sentence in rounds(metrics)],
        "halves": halves(rows, metrics, table),
        "why_null": plain(metrics["why_null"] or "No image has a label to compare with.", 400),
        "facts": [(title(name), value) for name, value in metrics["facts"].items()],
        "classes": rows,
        "confusion": confusion([row["name"] for row in rows], metrics["confusion"]),
        "discovered": _discovered(found, rows, thumbnail_of),
        "naming": {key: value for key, value in (naming or {}).items() if key != "classes"},
        "suspicious": suspicious(run / "suspicious.csv", thumbnail_of),
        "gallery": _gallery(others, rows, gallery(others, shown, thumbnail_of)),
        "unsure": image_rows(table.sort_by("margin"), thumbnail_of),
        "moved": image_rows(moved.sort_by([("score", "descending")]), thumbnail_of),
        "moves": {"share": metrics["changed"], **moves(moved)},
        "descriptions": descriptions(run / "descriptions.jsonl", classes["names"], thumbnail_of),
        "curves": _curves(run / "log.jsonl"),
        "rejected": _rejected(run / "rejected.csv"),
        "asked": _pairs({k: v for k, v in config.items() if v or k not in SOURCES}, REQUEST),
        "settings": _pairs(
            {**config, **config["fields"]}, _titles(("template", "seed", *config["fields"]))
        ),
        "environment": _pairs(environment, _titles(environment)),
        "next": next_steps(run, config, metrics, discovered=bool(found)),
    }


def _shown(everything: pa.Table, predicted: pa.Table) -> pa.Table:
    """Predicted images; of classes without any, those whose label was given."""
    some = pa.array(set(predicted["label"].to_pylist()), pa.string())
    given = pc.field("status") == GIVEN
    return everything.filter((pc.field("status") == "ok") | (given & ~pc.field("label").isin(some)))


def _reasons(config: Json, metrics: Json) -> list[str]:
    """Why this method, how many classes, and what the decision rests on."""
    reasons = list(config["why"])
    if found := metrics.get("classes_estimated"):
        reasons.append(found["why"])
    if words := decision(metrics):
        reasons.append(f"It decides by {words}.")
    return reasons


def _labels(names: Sequence[str], table: pa.Table) -> list[str]:
    """Class names in the user's order, followed by the discovered classes by size."""
    found = Counter(table["label"].to_pylist())
    return [*names, *(label for label, _ in found.most_common() if label not in set(names))]


def _classes(labels: Sequence[str], classes: Json, metrics: Json, table: pa.Table) -> list[Json]:
    """One row per class: what is known, number of images, mean score, accuracies."""
    kinds = dict(zip(classes["names"], classes["kinds"], strict=True))
    given = label_counts(table)
    kept = Counter(table.filter(pc.field("status") == GIVEN)["label"].to_pylist())
    table = table.filter(pc.field("status") == "ok")
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
            "labels": given[label],
            "count": predicted.get(label, empty)["score_count"] + kept[label],
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
        {"name": title(name), "first": values[0], "last": values[-1], "bars": _bars(values)}
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


def _pairs(values: Json, titles: Mapping[str, str]) -> list[tuple[str, str]]:
    """Title and text of the values at the keys of `titles`, for a table."""
    present = [(key, title) for key, title in titles.items() if key in values]
    return [(title, plain(_text(values[key]), 4000)) for key, title in present]


def _titles(keys: Iterable[str]) -> dict[str, str]:
    return {key: title(key) for key in keys}


def _text(value: object) -> str:
    """A JSON value for people: `a 1, b 2` for an object, a command line for a list of words."""
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return shlex.join(_text(item) for item in value)
    if isinstance(value, str):
        return value
    return "–" if value is None else json.dumps(value)
