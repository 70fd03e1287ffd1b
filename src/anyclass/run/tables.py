"""Tables of predictions and of rejected images, as Parquet (exact) and CSV (for people)."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from anyclass.data import Classes, ImageDataset, Rejection
from anyclass.files import atomic_write, csv_cell
from anyclass.run.scoring import Predictions

Row = dict[str, Any]

PREDICTION = pa.schema(
    [
        ("file_name", pa.string()),
        ("label", pa.string()),
        ("score", pa.float32()),
        ("runner_up", pa.string()),
        ("margin", pa.float32()),
        ("kind", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
"""Columns of every prediction table; one row per image, including rejected ones."""

COMPARED = pa.schema(
    [
        *PREDICTION,
        ("zero_shot_label", pa.string()),
        ("zero_shot_score", pa.float32()),
        ("true_label", pa.string()),
    ]
)
"""Columns of a fitted run: with the zero-shot prediction and the true label, if known."""

ROWS = 10_000
"""Rows of a Parquet group, which are held in memory while a table is written."""


def prediction_row(
    file: str, probabilities: Float[np.ndarray, " C"], classes: Classes, least: float = 0.0
) -> Row:
    """Label, score, runner-up and margin of one image; no label if its score is below `least`.

    The reason then names the most likely class. As a label table, such a row is unlabelled.
    """
    order = np.argsort(-probabilities, kind="stable")
    best = order[0]
    second = order[min(1, len(order) - 1)]
    row = {
        "file_name": file,
        "label": classes.names[best],
        "score": float(probabilities[best]),
        "runner_up": classes.names[second] if len(order) > 1 else None,
        "margin": float(probabilities[best] - probabilities[second]) if len(order) > 1 else 1.0,
        "kind": classes.kind(int(best)),
        "status": "ok",
        "reason": None,
    }
    if probabilities[best] >= least:
        return row
    reason = f"below --min-score {least:g}; most likely {classes.names[best]}"
    return row | {"label": None, "kind": None, "status": "unsure", "reason": reason}


def rejected_row(rejection: Rejection) -> Row:
    """Row of an image that could not be used."""
    reason = f"{rejection.reason}: {rejection.detail}" if rejection.detail else rejection.reason
    return {"file_name": rejection.file_name, "status": "rejected", "reason": reason}


def compared_rows(
    dataset: ImageDataset, seen: Predictions, rejections: Sequence[Rejection]
) -> list[Row]:
    """One row per image, in order, with the adapted and the zero-shot prediction.

    Args:
        dataset: all images, including rejected ones.
        seen: predictions for the other images, in their order.
        rejections: the rejected images.
    """
    rejection_of = {rejection.file_name: rejection for rejection in rejections}
    names = dataset.classes.names
    rows = []
    i = 0
    for file, label in zip(dataset.files, dataset.labels.tolist(), strict=True):
        if file in rejection_of:
            row = rejected_row(rejection_of[file])
        else:
            best = int(seen.zero_shot[i].argmax())
            row = prediction_row(file, seen.adapted[i], dataset.classes)
            score = float(seen.zero_shot[i, best])
            if score:  # all scores are 0 if no class has a name
                row |= {"zero_shot_label": names[best], "zero_shot_score": score}
            i += 1
        rows.append(row | {"true_label": names[label] if label >= 0 else None})
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
            table.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def write_rejected(path: Path, rejections: Sequence[Rejection]) -> None:
    """Write `rejected.csv`: file_name, reason, detail."""
    schema = pa.schema([(name, pa.string()) for name in Rejection._fields])
    write_table(path, (row._asdict() for row in rejections), schema)


def _cell(value: Any) -> Any:
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
