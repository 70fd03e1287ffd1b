"""Summary of a run folder as one plain dict, which the report renders as HTML or Markdown.

Numbers stay numbers; unknown values are `None`.
"""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anyclass.data.label_tables import GIVEN
from anyclass.errors import RequestError
from anyclass.files import csv_text, read_json
from anyclass.report.calibration import calibration, expected, expected_of_discovery
from anyclass.report.class_table import class_rows, folded, ordered
from anyclass.report.confusions import confusion, moves, pairs_of_classes
from anyclass.report.discovered import discovered
from anyclass.report.embedding_map import embedding_map
from anyclass.report.gallery import LISTED, descriptions, gallery, image_rows
from anyclass.report.labels import suspicious
from anyclass.report.next_steps import next_steps
from anyclass.report.scored import Scored, scored_labels
from anyclass.report.scores import halves, headline, score_rows
from anyclass.report.thumbnails import no_image, thumbnails_of
from anyclass.report.words import SHARES, Json, figure, plain, setting, title
from anyclass.run.columns import TRAINING, TRAINING_CAVEAT
from anyclass.run.content import lines, read_parquet, read_rows
from anyclass.run.embedding_map import read_map
from anyclass.run.progress import STAGES
from anyclass.run.sentences import decision, rounds

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
LARGEST = 1e30
"""Numbers in the log that are larger are not drawn."""
BARS = 48
"""Maximum number of bars of a training curve."""


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
    everything = read_parquet(run / "predictions.parquet")
    if "zero_shot_label" not in everything.column_names:  # of an earlier version
        nothing = pa.nulls(len(everything), pa.string())
        everything = everything.append_column("zero_shot_label", nothing)
    table = everything.filter((pc.field("status") == "ok") & pc.field("label").is_valid())
    moved = table.filter(pc.field("label") != pc.field("zero_shot_label"))
    rows = class_rows(classes, metrics, everything)
    naming = read_json(run / "naming.json") if (run / "naming.json").is_file() else {"classes": []}
    found = discovered(naming, rows, thumbnail_of)
    apart = {row["label"] for row in found}
    shown = [row for row in ordered(rows) if row["label"] not in apart]
    scored = scored_labels(everything, metrics)
    curves = _curves(run / "log.jsonl")
    kinds = {row["label"]: row["kind"] for row in rows}
    return {
        "name": plain(Path(images or config["features"] or run.resolve()).name),
        "features": not images,
        "method": plain(config["method"]),
        "why": [plain(text, 400) for text in _reasons(config, metrics)],
        "started": plain(environment["started"]),
        "seconds": metrics["seconds"]["total"],
        "images": metrics["n"],
        "kinds": Counter(row["known"] for row in rows),
        "warnings": [_sentence(text) for text in metrics["warnings"] if text != TRAINING_CAVEAT],
        "scores": score_rows(metrics),
        "headline": headline(metrics, scored),
        "unknown": _what_is_not_known(metrics, found),
        "calibration": calibration(scored),
        "expected": _expected(scored, table, metrics, found),
        "rounds": [_sentence(text) for text in rounds(metrics)],
        "halves": halves(rows, metrics, table),
        "facts": _facts(metrics["facts"], curves),
        "classes": rows,
        "table": folded(rows),
        "map": embedding_map(read_map(run), everything, kinds),
        "confusion": confusion(
            [row["name"] for row in rows],
            {} if metrics.get("scored_on") == TRAINING else metrics,
        ),
        "pairs": pairs_of_classes(scored, thumbnail_of),
        "discovered": found,
        "naming": {key: value for key, value in naming.items() if key != "classes"},
        "suspicious": suspicious(run / "suspicious.csv", thumbnail_of),
        "gallery": gallery(shown, _shown(everything, table), thumbnail_of),
        "unsure": image_rows(table.sort_by("margin"), thumbnail_of),
        "moved": image_rows(moved.sort_by([("score", "descending")]), thumbnail_of),
        "moves": {"share": metrics["changed"], **moves(moved)},
        "descriptions": descriptions(run / "descriptions.jsonl", classes["names"], thumbnail_of),
        "curves": curves,
        "rejected": _rejected(run / "rejected.csv"),
        "asked": _pairs({k: v for k, v in config.items() if v or k not in SOURCES}, REQUEST),
        "settings": _pairs(
            {**config, **config["fields"]},
            {key: setting(key) for key in ("template", "seed", *config["fields"])},
        ),
        "environment": _pairs(environment, {key: title(key) for key in environment}),
        "next": next_steps(run, config, metrics, discovered=bool(found)),
    }


def _shown(everything: pa.Table, predicted: pa.Table) -> pa.Table:
    """Predicted images; of classes without any, those whose label was given."""
    some = pa.array(set(predicted["label"].to_pylist()), pa.string())
    given = pc.field("status") == GIVEN
    return everything.filter((pc.field("status") == "ok") | (given & ~pc.field("label").isin(some)))


def _sentence(text: str) -> str:
    """A remark as a sentence."""
    text = plain(text, 400).replace("`", "")
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '…')) else '.'}"


def _reasons(config: Json, metrics: Json) -> list[str]:
    """Why this method, how many classes, and what the decision rests on."""
    known = ". ".join(config["why"])
    reasons = [_sentence(known)]
    if config["asked"] == "auto":
        reasons = [
            f"What is known: {known}.",
            f"auto takes {config['method']} for any mix of labels, class names and unknown "
            "classes: it learns from all of them and from the unlabelled images together. "
            "The model is not trained, so a fit takes seconds.",
        ]
    if found := metrics.get("classes_estimated"):
        reasons.append(found["why"])
    if words := decision(metrics):
        words = words.replace(" %", "\u00a0%")
        reasons.append(f"Share of each source in the decision: {words}.")
    return reasons


def _what_is_not_known(metrics: Json, found: Sequence[Json]) -> list[str]:
    """What no number in this run can say, one sentence each."""
    sentences = []
    if metrics["adapted"] is None:
        sentences.append("Nobody can say how often these labels are right: no image has a label.")
    elif metrics.get("scored_on") == TRAINING:
        sentences.append(
            "Nobody can say how good it is on other images: every label was trained on."
        )
    if found and metrics["adapted"]:
        sentences.append(
            "The score covers the classes with labels only: whether the discovered classes are "
            "right is not known."
        )
    return sentences


def _expected(scored: Scored, table: pa.Table, metrics: Json, found: Sequence[Json]) -> Json | None:
    """Expected accuracy on the images without a label, where the scores are calibrated.

    With discovered classes it is that of the metrics, if they tell: labels alone say nothing of the
    scores of these.
    """
    if found:
        return expected_of_discovery(metrics.get("expected"))
    rows = table.filter(pc.field("true_label").is_null())
    return expected(calibration(scored), pc.mean(rows["score"]).as_py(), len(rows))


def _facts(facts: Json, curves: Sequence[Json]) -> list[tuple[str, bool, int | float]]:
    """Figures of the method that are no curve: words, whether it is a share, and value."""
    drawn = {curve["name"] for curve in curves}
    return [
        (figure(key), key in SHARES, value)
        for key, value in facts.items()
        if figure(key) not in drawn
    ]


def _curves(path: Path) -> list[Json]:
    """Each number that was logged at least twice: name, first, last, bars from 0 to 1."""
    series: dict[tuple[str, str], list[float]] = {}
    for line in lines(path):
        stage = str(line.get("stage", "fit"))
        for key, value in line.items():
            number = isinstance(value, int | float) and abs(value) < LARGEST
            if number and key not in ("step", "epoch", "done", "total", "failed"):
                series.setdefault((stage, key), []).append(value)
    return [
        {"name": _curve_name(*name), "first": values[0], "last": values[-1], "bars": _bars(values)}
        for name, values in series.items()
        if len(values) > 1
    ]


def _curve_name(stage: str, key: str) -> str:
    """Name of a curve; the stage is left out where it is training."""
    words = figure(key)
    of_training = stage == "fit" or stage not in STAGES
    return words if of_training else f"{words}, {STAGES[stage]}"


def _bars(values: Sequence[float]) -> list[float]:
    """Means of at most `BARS` sections of a curve, scaled to 0 ... 1."""
    means = np.array([part.mean() for part in np.array_split(values, min(BARS, len(values)))])
    scaled: list[float] = ((means - means.min()) / (np.ptp(means) or 1)).tolist()
    return scaled


def _rejected(path: Path) -> Json:
    """Rejected images: count, reasons by frequency, the first rows."""
    rows = []
    if path.is_file():
        found = read_rows(path, ("file_name", "reason"))
        rows = [{k: plain(csv_text(v)) for k, v in row.items()} for row in found]
    reasons = Counter(row["reason"] for row in rows).most_common()
    return {"count": len(rows), "reasons": reasons, "rows": rows[:LISTED]}


def _pairs(values: Json, titles: Mapping[str, str]) -> list[tuple[str, str]]:
    """Title and text of the values at the keys of `titles`, for a table."""
    present = [(key, title) for key, title in titles.items() if key in values]
    return [(title, plain(_text(values[key]), 4000)) for key, title in present]


def _text(value: object) -> str:
    """A JSON value for people: `a 1, b 2` for an object, a command line for a list of words."""
    if isinstance(value, dict):
        return ", ".join(f"{setting(key)} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return shlex.join(_text(item) for item in value)
    if isinstance(value, str):
        return value
    return "–" if value is None else json.dumps(value)
