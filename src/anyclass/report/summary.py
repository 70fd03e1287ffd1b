"""Summary of a run folder as one plain dict, which the report renders as HTML or Markdown.

Numbers stay numbers; unknown values are `None`.
"""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from anyclass.data.label_tables import GIVEN
from anyclass.errors import RequestError
from anyclass.files import Json, csv_text, read_json
from anyclass.report.calibration import calibration, expected, expected_of_discovery
from anyclass.report.class_table import class_rows, class_table, ordered
from anyclass.report.confusions import confusion_table, moves, pairs_of_classes
from anyclass.report.curves import curves_of, method_metrics
from anyclass.report.discovered import discovered
from anyclass.report.embedding_map import embedding_map
from anyclass.report.gallery import LISTED, descriptions, gallery, image_tiles
from anyclass.report.labels import suspicious_table
from anyclass.report.next_steps import next_steps
from anyclass.report.scored import Scored, scored_labels
from anyclass.report.scores import halves, headline, score_rows
from anyclass.report.thumbnails import Thumbnail, no_image, thumbnails_of
from anyclass.report.words import plain, setting, title
from anyclass.run.columns import COMPARED, TRAINING, TRAINING_CAVEAT
from anyclass.run.content import read_parquet, read_rows
from anyclass.run.embedding_map import read_map
from anyclass.run.sentences import decision, order_only, rounds

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
"""Settings that are listed only where they were given."""


class _Contents(NamedTuple):
    """Content of a run folder, for the sections of the report."""

    folder: Path
    config: Json
    environment: Json
    metrics: Json
    naming: Json
    """Content of `naming.json`; without the file `{"classes": []}`."""
    names: list[str]
    """Class names in their order."""
    rows: list[Json]
    """Rows of the table of classes."""
    discovered: list[Json]
    """Discovered classes with their images."""
    everything: pa.Table
    """Predictions, also of images without a predicted label."""
    predicted: pa.Table
    """Predictions of the images that got a label."""
    scored: Scored
    """Labels that the metrics were computed on."""
    thumbnail_of: Thumbnail


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
    read = _read(run, thumbnails, memory)
    return {
        **_request(read),
        **_scores(read),
        **_training(read),
        **_classes(read),
        **_images(read),
        "next": next_steps(run, read.config, read.metrics, discovered=bool(read.discovered)),
    }


def _read(run: Path, thumbnails: bool, memory: Mapping[str, Any] | None) -> _Contents:
    """Read the files of a run; arguments and errors as for `summarise`."""
    needed = ("config.json", "environment.json", "classes.json", "metrics.json")
    for name in (*needed, "predictions.parquet"):
        if not (run / name).is_file():
            raise RequestError(
                f"{run} is not the folder of a finished run: {name} is missing.\n"
                "Next: run the same `anyclass fit` again; it continues where it stopped."
            )
    config, environment, classes, metrics = (read_json(run / name) for name in needed)
    naming = read_json(run / "naming.json") if (run / "naming.json").is_file() else {"classes": []}
    everything = read_parquet(run / "predictions.parquet")
    for name in ("zero_shot_label", "rank"):
        if name not in everything.column_names:  # of an earlier version
            nothing = pa.nulls(len(everything), COMPARED.field(name).type)
            everything = everything.append_column(name, nothing)
    rows = class_rows(classes, metrics, everything)
    thumbnail_of = thumbnails_of(config["images"], memory) if thumbnails else no_image
    return _Contents(
        folder=run,
        config=config,
        environment=environment,
        metrics=metrics,
        naming=naming,
        names=classes["names"],
        rows=rows,
        discovered=discovered(naming, rows, thumbnail_of),
        everything=everything,
        predicted=everything.filter((pc.field("status") == "ok") & pc.field("label").is_valid()),
        scored=scored_labels(everything, metrics),
        thumbnail_of=thumbnail_of,
    )


def _request(run: _Contents) -> Json:
    """What was asked for, with what, where and for how long."""
    config = run.config
    images = config["images"]
    name = Path(images or config["features"] or run.folder.resolve()).name
    asked = {key: value for key, value in config.items() if value or key not in SOURCES}
    settings = {key: setting(key) for key in ("template", "seed", *config["fields"])}
    versions = {key: title(key) for key in run.environment}
    return {
        "name": plain(name),
        "features": not images,
        "method": plain(config["method"]),
        "why": _reasons(config, run.metrics),
        "started": plain(run.environment["started"]),
        "seconds": run.metrics["seconds"]["total"],
        "images": run.metrics["n"],
        "asked": _pairs(asked, REQUEST),
        "settings": _pairs({**config, **config["fields"]}, settings),
        "environment": _pairs(run.environment, versions),
    }


def _scores(run: _Contents) -> Json:
    """How good the labels are, and what is not known of that."""
    metrics = run.metrics
    confused = {} if metrics.get("scored_on") == TRAINING else metrics
    names = [row["name"] for row in run.rows]
    warnings = [text for text in metrics["warnings"] if text != TRAINING_CAVEAT]
    found = calibration(run.scored)
    return {
        "warnings": list(map(_sentence, warnings)),
        "scores": score_rows(metrics),
        "headline": headline(metrics, run.scored),
        "unknown": _what_is_not_known(metrics, run.discovered),
        "calibration": found,
        "expected": _expected(run, found),
        "ranked": pc.max(run.everything["rank"]).as_py() or 0 if order_only(metrics) else 0,
        "rounds": list(map(_sentence, rounds(metrics))),
        "halves": halves(run.rows, metrics, run.predicted),
        "confusion": confusion_table(names, confused),
        "pairs": pairs_of_classes(run.scored, run.thumbnail_of),
    }


def _training(run: _Contents) -> Json:
    """Figures and curves of the method."""
    curves = curves_of(run.folder / "log.jsonl")
    return {"facts": method_metrics(run.metrics["facts"], curves), "curves": curves}


def _classes(run: _Contents) -> Json:
    """The classes: their table, their places on the map, and those that were discovered."""
    kinds = {row["label"]: row["kind"] for row in run.rows}
    known = [row["known"] for row in run.rows]
    return {
        "kinds": Counter(known),
        "classes": run.rows,
        "table": class_table(run.rows),
        "map": embedding_map(read_map(run.folder), run.everything, kinds),
        "discovered": run.discovered,
        "naming": {key: value for key, value in run.naming.items() if key != "classes"},
    }


def _images(run: _Contents) -> Json:
    """The images: a gallery, those to look at, their texts, and the rejected ones."""
    table = run.predicted
    moved = table.filter(pc.field("label") != pc.field("zero_shot_label"))
    apart = {row["label"] for row in run.discovered}
    shown = [row for row in ordered(run.rows) if row["label"] not in apart]
    texts = run.folder / "descriptions.jsonl"
    return {
        "gallery": gallery(shown, _shown(run.everything, table), run.thumbnail_of),
        "suspicious": suspicious_table(run.folder / "suspicious.csv", run.thumbnail_of),
        "unsure": image_tiles(table.sort_by("margin"), run.thumbnail_of),
        "moved": image_tiles(moved.sort_by([("score", "descending")]), run.thumbnail_of),
        "moves": {"share": run.metrics["changed"], **moves(moved)},
        "descriptions": descriptions(texts, run.names, run.thumbnail_of),
        "rejected": _rejected(run.folder / "rejected.csv"),
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
    return [plain(reason, 400) for reason in reasons]


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


def _expected(run: _Contents, found: Json | None) -> Json | None:
    """Expected accuracy on the images without a label, where the scores are calibrated (`found`).

    With discovered classes it is that of the metrics, if they tell: labels alone say nothing of the
    scores of these.
    """
    if run.discovered:
        return expected_of_discovery(run.metrics.get("expected"))
    rows = run.predicted.filter(pc.field("true_label").is_null())
    return expected(found, pc.mean(rows["score"]).as_py(), len(rows))


def _rejected(path: Path) -> Json:
    """Rejected images: count, reasons by frequency, the first rows."""
    rows = []
    if path.is_file():
        for row in read_rows(path, ("file_name", "reason")):
            rows.append({key: plain(csv_text(cell)) for key, cell in row.items()})
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
