"""Tables of predictions and of rejected images, as Parquet (exact) and CSV (for people)."""

import csv
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from anyclass.data import Classes, ImageDataset, Rejection
from anyclass.files import atomic_write, csv_cell
from anyclass.run.columns import REJECTED
from anyclass.run.opinions import Opinions
from anyclass.run.predictions import AllPredictions, confidence

if TYPE_CHECKING:
    import anyclass.classifier.classifier

Row = dict[str, Any]

UNSURE = {"label": None, "kind": None, "predicted_label": None, "status": "unsure"}
"""Cells of an image that gets no label."""

PREDICTED = ("ok", UNSURE["status"])
"""Status of the images that were predicted."""

ROWS = 10_000
"""Rows of a Parquet group, which are held in memory while a table is written."""


def prediction_row(
    file: str,
    probabilities: Float[np.ndarray, " C"],
    classes: Classes,
    least: float = 0.0,
    familiarity: float | None = None,
) -> Row:
    """Label, score, runner-up and margin of one image; no label if its confidence is below `least`.

    There is no label either if its class was rejected. The reason then names the class. As a label
    table, such a row is unlabelled.
    """
    best = int(probabilities.argmax())
    second = _second(probabilities, best)
    row = {
        "file_name": file,
        "label": classes.names[best],
        "score": float(probabilities[best]),
        "runner_up": None if second is None else classes.names[second],
        "margin": 1.0 if second is None else float(probabilities[best] - probabilities[second]),
        "kind": classes.kind(best),
        "status": "ok",
        "reason": None,
        "familiarity": familiarity,
        "predicted_label": classes.names[best],
    }
    if classes.label(best) is None:
        return row | UNSURE | {"reason": f"like {classes.names[best]}, which was rejected"}
    if _trusted(float(probabilities[best]), familiarity) >= least:
        return row
    why = f"below --min-score {least:g}"
    if probabilities[best] >= least:
        why = "unlike the training images"
    return row | UNSURE | {"reason": f"{why}; most likely {classes.names[best]}"}


def _second(probabilities: Float[np.ndarray, " C"], best: int) -> int | None:
    """The most probable class but `best`, the first of equals; None if there is no other."""
    if len(probabilities) == 1:
        return None
    others = probabilities.copy()
    others[best] = -np.inf
    return int(others.argmax())


def prediction_rows(
    part: "anyclass.classifier.classifier.Prediction",
    files: Sequence[str],
    classes: Classes,
    least: float = 0.0,
    start: int = 0,
) -> dict[str, Row]:
    """Rows of a batch of images by their names.

    Args:
        part: probabilities and rejections of the batch.
        files: names of all images.
        classes: the classes.
        least: as of `prediction_row`.
        start: image that the rows of `part` count from.
    """
    rows = {row.file_name: rejected_row(row) for row in part.rejections}
    usual = [None] * len(part.rows) if part.familiarity is None else part.familiarity.tolist()
    for index, p, familiarity in zip(part.rows, part.probabilities.numpy(), usual, strict=True):
        name = files[start + index]
        rows[name] = prediction_row(name, p, classes, least, familiarity)
    return rows


def _trusted(probability: float, familiarity: float | None) -> float:
    """Confidence in one image; arguments as of `confidence`."""
    usual = None if familiarity is None else np.array([familiarity])
    return float(confidence(np.array([probability]), usual)[0])


def confidences(rows: Iterable[Row]) -> Float[np.ndarray, " N"]:
    """Confidence in each prediction, NaN where there is none: the label was given, or rejected."""
    found = array("d")
    for row in rows:
        predicted = row["status"] in PREDICTED
        found.append(_trusted(row["score"], row["familiarity"]) if predicted else np.nan)
    return np.array(found)


def ranked(rows: Iterable[Row], confidence: Float[np.ndarray, " N"] | None = None) -> Iterator[Row]:
    """Rows with their `rank`: 1 for the prediction with the least confidence, equals in order.

    Args:
        rows: N rows.
        confidence: their `confidences`; None: of the rows, which must be a sequence.
    """
    if confidence is None:
        confidence = confidences(rows)
    order = np.argsort(confidence, kind="stable")  # NaN last
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(1, len(order) + 1, dtype=np.int32)
    for row, value, place in zip(rows, confidence, rank, strict=True):
        yield row | {"rank": None if np.isnan(value) else int(place)}


def given_row(row: Row, name: str, kind: str) -> Row:
    """Row of an image whose label was trained on: it keeps this label, whatever is predicted."""
    kept = {"label": name, "kind": kind, "status": "given", "predicted_label": None}
    return row | kept | {"score": 1.0, "runner_up": None, "margin": 1.0}


def rejected_row(rejection: Rejection) -> Row:
    """Row of an image that could not be used."""
    reason = f"{rejection.reason}: {rejection.detail}" if rejection.detail else rejection.reason
    return {"file_name": rejection.file_name, "status": REJECTED, "reason": reason}


def compared_rows(
    dataset: ImageDataset,
    predictions: AllPredictions,
    rejections: Sequence[Rejection],
    trained_on: Bool[np.ndarray, " M"] | None = None,
    opinions: Opinions | None = None,
) -> list[Row]:
    """One row per image, in order, with the adapted and the zero-shot prediction.

    Args:
        dataset: all images, including rejected ones.
        predictions: predictions for the M other images, in their order.
        rejections: the rejected images.
        trained_on: whether the label of each of these M images was trained on; None: no label was.
        opinions: what the other images say of these labels, if the method tells.
    """
    rejection_of = {rejection.file_name: rejection for rejection in rejections}
    names = dataset.classes.names
    rows = []
    i = 0
    for file, label in zip(dataset.files, dataset.labels.tolist(), strict=True):
        if file in rejection_of:
            row = rejected_row(rejection_of[file])
        else:
            row = _compared_row(file, i, predictions, dataset.classes)
            if trained_on is not None and trained_on[i]:
                row = given_row(row, names[label], dataset.classes.kind(label))
                row |= opinion_cells(i, opinions, names)
            i += 1
        rows.append(row | {"true_label": names[label] if label >= 0 else None})
    return list(ranked(rows))


def _compared_row(file: str, i: int, predictions: AllPredictions, classes: Classes) -> Row:
    """Adapted and zero-shot prediction of image i."""
    familiarity = None if predictions.familiarity is None else float(predictions.familiarity[i])
    row = prediction_row(file, np.exp(predictions.log_adapted[i]), classes, familiarity=familiarity)
    zero_shot = np.exp(predictions.log_zero_shot[i])
    best = int(zero_shot.argmax())
    score = float(zero_shot[best])
    if not score:  # all scores are 0 if no class has a name
        return row
    return row | {"zero_shot_label": classes.names[best], "zero_shot_score": score}


def opinion_cells(i: int, opinions: Opinions | None, names: Sequence[str]) -> Row:
    """What the other images say of label i; nothing if the method does not tell."""
    if opinions is None or opinions.classes[i] < 0:
        return {}
    return {
        "opinion": names[opinions.classes[i]],
        "opinion_score": float(opinions.scores[i]),
        "label_quality": float(opinions.quality[i]),
    }


def suspicious_rows(dataset: ImageDataset, opinions: Opinions) -> list[Row]:
    """Rows of `suspicious.csv`: labels that the other images contradict, the clearest first.

    Args:
        dataset: the readable images.
        opinions: what the other images say of their labels.
    """
    names = dataset.classes.names
    rows = []
    for i in opinions.suspicious.tolist():
        row = {"file_name": dataset.files[i], "label": names[dataset.labels[i]]}
        rows.append(row | opinion_cells(i, opinions, names))
    return rows


def write_table(path: Path, rows: Iterable[Row], schema: pa.Schema) -> None:
    """Write rows as Parquet or CSV (by the ending), atomically and in chunks.

    Text cells that a spreadsheet would run as a formula get a leading apostrophe in a CSV.
    """
    with atomic_write(path) as draft:
        if path.suffix == ".parquet":
            with draft.open("wb") as binary, pq.ParquetWriter(binary, schema) as writer:
                for some in _chunks(rows):
                    writer.write_table(pa.Table.from_pylist(some, schema=schema))
            return
        with draft.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            table = csv.DictWriter(file, schema.names)
            table.writeheader()
            for row in rows:
                table.writerow({key: text_cell(value) for key, value in row.items()})


def write_rejected(path: Path, rejections: Sequence[Rejection]) -> None:
    """Write `rejected.csv`: file_name, reason, detail."""
    schema = pa.schema([(name, pa.string()) for name in Rejection._fields])
    write_table(path, (row._asdict() for row in rejections), schema)


def text_cell(value: Any) -> Any:
    """A value for a CSV; text that a spreadsheet would run is quoted."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return csv_cell(value) if isinstance(value, str) else value


def _chunks(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    some: list[Mapping[str, Any]] = []
    for row in rows:
        some.append(row)
        if len(some) == ROWS:
            yield some
            some = []
    yield some
