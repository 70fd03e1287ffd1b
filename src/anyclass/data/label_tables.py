"""Label tables: CSV, Parquet or JSONL, one row per image, for any subset of the images.

A table of predictions is a label table as well, but what a run predicted is no label: only rows
that a person changed or confirmed, and labels that the run was given, are labels.
"""

import csv
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anyclass.data.classes import listed, normal
from anyclass.errors import RequestError
from anyclass.files import csv_text

PREDICTED = "predicted_label"
"""Column of a table of predictions: the label that the run predicted, empty if it was given."""

CONFIRMED = "confirmed"
"""Column of a table of predictions: yes where a person confirms the label."""

GIVEN = "given"
"""Status of a row whose label the run was given."""

_PREDICTIONS = {"score", "runner_up", "margin", "status"}
"""Columns that only a table of predictions has."""

_YES = {"1", "1.0", "ok", "t", "true", "x", "y", "yes", "✓"}
_NO = {"", "0", "0.0", "f", "false", "n", "no"}

Row = Mapping[str, Any]


class KnownLabels(NamedTuple):
    """What an earlier run knew and predicted, by file name."""

    labels: Mapping[str, str]
    """Labels that it was given, held out or not."""
    predicted: Mapping[str, str]
    """Labels that it predicted for the other images."""


class LabelRows(NamedTuple):
    """A label table in memory, in the place of a file."""

    name: str
    """What to call it in messages."""
    rows: Sequence[Row]
    """Its rows; every one has all columns."""

    @property
    def parent(self) -> Path:
        """Folder that its paths are relative to: the current one."""
        return Path()

    def __str__(self) -> str:
        """What to call it in messages."""
        return self.name


class TableLabels(NamedTuple):
    """What a table says."""

    labels: dict[str, str]
    """Label of each labelled file."""
    removed: frozenset[str]
    """Files of a table of predictions whose given label is emptied."""
    messages: tuple[str, ...]
    """What was taken and what was skipped, one sentence each."""

    def added_to(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Labels of files, with the changes of this table."""
        kept = {file: label for file, label in labels.items() if file not in self.removed}
        return kept | self.labels


def read_labels(
    table: Path | LabelRows,
    root: Path | None,
    files: Collection[str],
    columns: tuple[str, str],
    known: KnownLabels | None = None,
) -> TableLabels:
    """Read the label of each labelled file, and messages about what was taken and skipped.

    Args:
        table: a file, or rows; paths are relative to its own folder (rows: the current one) or to
            `root`.
        root: the folder of the images, without links; every path must be inside it. None: the
            table has the names of `files` as they are.
        files: the existing images, relative to `root`.
        columns: names of the columns of paths and labels; an empty label is no label.
        known: what an earlier run predicted, for a table of its predictions.

    Raises:
        RequestError: the table is damaged, has paths outside of `root`, contradicts itself, labels
            no image at all, or has predictions that cannot be told from labels.
    """
    rows, file_column = _table(table, columns)
    predictions = _is_predictions(table, rows, columns, known)
    label_of: dict[str, str] = {}
    given = set()
    absent = []
    existing = set(files)
    for number, row in enumerate(rows, start=1):
        place = f"{table}, row {number}"
        cell = _text(row.get(file_column))
        file = _image(place, cell, table, root, existing)
        label = normal(_text(row.get(columns[1])))
        if file is None:
            absent.append(cell)
            continue
        if predictions and _text(row.get("status")) == GIVEN:
            given.add(file)
        if predictions and not _is_label(place, row, label, _predicted(row, file, known)):
            continue
        if label and label_of.setdefault(file, label) != label:
            both = listed([label_of[file], label])
            raise RequestError(f"{place}: {cell!r} has two labels, {both}.")
    if absent and not label_of and (not predictions or len(absent) == len(rows)):
        where = (
            f"image in {root}" if root else f"row of the features, such as {next(iter(files))!r}"
        )
        raise RequestError(f"{table} labels no {where}; it lists {listed(absent, 3)}.")
    messages = [_taken(table, label_of, given, len(rows))] if predictions else []
    if absent:
        message = f"skipped rows of {table.name} without an image ({len(absent)}): "
        messages.append(f"{message}{listed(absent, 3)}.")
    return TableLabels(label_of, frozenset(given - set(label_of)), tuple(messages))


def _image(
    place: str, cell: str, table: Path | LabelRows, root: Path | None, existing: Collection[str]
) -> str | None:
    """Name of the image in a row, its path below `root`; None if there is no such image.

    Raises:
        RequestError: it lies outside of `root`.
    """
    if root is None:
        return cell if cell in existing else None
    candidates = [_inside(root, base, cell) for base in (table.parent.resolve(), root)]
    if not any(candidates):
        raise RequestError(f"{place}: {cell!r} is outside of {root}.")
    return next((candidate for candidate in candidates if candidate in existing), None)


def _is_predictions(
    table: Path | LabelRows,
    rows: Sequence[Row],
    columns: tuple[str, str],
    known: KnownLabels | None,
) -> bool:
    """Whether a table holds predictions of a run, in its column of labels.

    Raises:
        RequestError: it does, and nothing tells them from labels.
    """
    present = {str(key) for row in rows for key in row}
    if columns[1] != "label":
        return False
    if PREDICTED in present:
        return True
    if not present >= _PREDICTIONS:
        return False
    if known is None and CONFIRMED not in present:
        raise RequestError(
            f"{table} is a table of predictions without the column {PREDICTED!r}, so corrections "
            "cannot be told from predictions: name the run that wrote it (--from RUN), or keep "
            "only the columns file_name,label of the rows that you checked."
        )
    return True


def _predicted(row: Row, file: str, known: KnownLabels | None) -> str:
    """The label that a run predicted for the image of a row; empty if it predicted none."""
    if PREDICTED in row:
        return normal(_text(row[PREDICTED]))
    if known is not None:
        return known.predicted.get(file, "")
    return normal(_text(row.get("label")))


def _is_label(place: str, row: Row, label: str, predicted: str) -> bool:
    """Whether the label in a table of predictions comes from a person.

    Raises:
        RequestError: `confirmed` is neither yes nor no.
    """
    confirmed = _text(row.get(CONFIRMED)).strip().casefold()
    if confirmed not in _YES | _NO:
        raise RequestError(
            f"{place}: {CONFIRMED} is {confirmed!r:.40}; write yes, or leave it empty."
        )
    given = _text(row.get("status")) == GIVEN
    return confirmed in _YES or given or label != predicted


def _taken(
    table: Path | LabelRows, label_of: Mapping[str, str], given: Collection[str], rows: int
) -> str:
    """Message on the labels in a table of predictions."""
    taken = len(set(label_of) - set(given))
    kept = len(set(label_of) & set(given))
    also = f", {kept} given" if kept else ""
    sentence = (
        f"{taken} of {rows} rows of {table.name} were changed or confirmed{also}: these are labels"
    )
    if not label_of:
        sentence = (
            f"none of the {rows} rows of {table.name} was changed or confirmed, so it holds no "
            f"label: correct `label`, or write yes in `{CONFIRMED}`"
        )
    return f"{sentence}. Other rows are predictions."


def _inside(root: Path, base: Path, cell: str) -> str | None:
    """Path of `cell`, given relative to `base`, below `root`; None if outside. No disk access."""
    path = os.path.normpath(os.path.join(base, cell))  # noqa: PTH118
    prefix = os.path.join(root, "")  # noqa: PTH118
    return path[len(prefix) :].replace(os.sep, "/") if path.startswith(prefix) else None


def _table(table: Path | LabelRows, columns: tuple[str, str]) -> tuple[list[Row], str]:
    """Rows of a table, and the name of its column of paths."""
    if isinstance(table, LabelRows):
        return _with_columns(table, list(table.rows), columns)
    if not table.exists():
        raise RequestError(
            f"{table} cannot be read: it does not exist. Give `folders` or an existing table."
        )
    try:
        rows = list(_rows(table, columns))
    except OSError as error:
        raise RequestError(f"{table} cannot be read: {error.strerror or error}.") from error
    except (ValueError, LookupError, RecursionError, NotImplementedError, csv.Error) as error:
        raise RequestError(f"{table} is damaged: {error}.") from error
    return _with_columns(table, rows, columns)


def _with_columns(
    table: Path | LabelRows, rows: list[Row], columns: tuple[str, str]
) -> tuple[list[Row], str]:
    """Rows that have both columns, and the name of the column of paths."""
    file_column, label_column = columns
    present = sorted({str(key) for row in rows for key in row})
    if file_column == "file_name" and file_column not in present and "image_path" in present:
        file_column = "image_path"
    for column, flag in ((file_column, "--file-column"), (label_column, "--label-column")):
        if column not in present:
            found = listed(present) or "none"
            raise RequestError(f"{table} has no column {column!r}, see {flag}; found: {found}.")
    return rows, file_column


def _rows(table: Path, columns: tuple[str, str]) -> Iterator[Row]:
    """Read the rows of a table; the file's ending decides the format."""
    match table.suffix.lower():
        case ".csv":
            with table.open(encoding="utf-8-sig", newline="") as file:
                for row in csv.DictReader(file):
                    yield {key: csv_text(row[key] or "") for key in row if isinstance(key, str)}
        case ".jsonl":
            with table.open(encoding="utf-8-sig") as file:
                for row in map(json.loads, filter(str.strip, file)):
                    if not isinstance(row, dict):
                        raise ValueError("each line must be an object")
                    yield row
        case ".parquet":
            from pyarrow import parquet

            wanted = {*columns, "image_path", PREDICTED, CONFIRMED, *_PREDICTIONS}
            wanted &= set(parquet.read_schema(table).names)
            yield from parquet.read_table(table, columns=sorted(wanted)).to_pylist()
        case ending:
            raise ValueError(f"its ending is {ending!r}, not .csv, .parquet or .jsonl")


def _text(value: Any) -> str:
    """A cell as text, empty for null and NaN."""
    if isinstance(value, list | dict):
        raise RequestError(f"a path or a label must be text or a number, not {value!r:.80}.")
    return "" if value is None or value != value else str(value)
