"""Label tables: CSV, Excel, Parquet or JSONL, one row per image, for any subset of the images.

JSON is an export of Label Studio.

A table of predictions is a label table as well, but what a run predicted is no label: only rows
that a person changed or confirmed, and labels that the run was given, are labels.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anyclass.data.classes import listed, normal
from anyclass.data.image_names import ImageNames
from anyclass.data.label_columns import LabelColumns, choose_columns
from anyclass.data.table_files import Table, read_table
from anyclass.errors import RequestError

PREDICTED = "predicted_label"
"""Column of a table of predictions: the label that the run predicted, empty if it was given."""

CONFIRMED = "confirmed"
"""Column of a table of predictions: yes where a person confirms the label."""

GIVEN = "given"
"""Status of a row whose label the run was given."""

_PREDICTIONS = {"score", "runner_up", "margin", "status"}
"""Columns that only a table of predictions has."""

_YES = {"1", "1.0", "ok", "t", "true", "x", "y", "yes", "✓", "ja", "wahr", "oui", "vrai"}
_NO = {"", "0", "0.0", "f", "false", "n", "no", "nein", "falsch", "non", "faux"}

Row = Mapping[str, Any]


class KnownLabels(NamedTuple):
    """What an earlier run knew and predicted, by file name."""

    labels: Mapping[str, str]
    """Labels that it was given, held out or not."""
    predicted: Mapping[str, str]
    """Labels that it predicted for the other images."""


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
    source: Path | Table,
    root: Path | None,
    files: Collection[str],
    columns: tuple[str, str],
    known: KnownLabels | None = None,
) -> TableLabels:
    """Read the label of each labelled file, and messages about what was taken and skipped.

    Args:
        source: a table in a file or in memory; its paths are relative to its own folder (in memory:
            the current one) or to `root`.
        root: the folder of the images, without links; every path must be inside it. None: the
            table has the names of `files` as they are.
        files: the existing images, relative to `root`.
        columns: names of the columns of paths and labels; an empty label is no label.
        known: what an earlier run predicted, for a table of its predictions.

    Raises:
        RequestError: the table is damaged, has paths outside of `root`, contradicts itself, labels
            no image at all, or has predictions that cannot be told from labels.
    """
    table = Path("labels") if isinstance(source, Table) else source
    content = source if isinstance(source, Table) else _table(source, columns)
    images = ImageNames(table, root, files)
    chosen = choose_columns(content, str(table), columns, images)
    rows = chosen.rows
    predictions = _is_predictions(table, rows, (chosen.file, chosen.label), known)
    label_of: dict[str, str] = {}
    given = set()
    absent = []
    filled = 0
    for row in _filled_rows(table, chosen):
        filled += 1
        file = _image(row.place, row.file, images)
        if file is None:
            absent.append(row.file)
            continue
        if predictions and _text(row.cells.get("status")) == GIVEN:
            given.add(file)
        if predictions and not _is_label(row, _predicted(row.cells, file, known)):
            continue
        if row.label and label_of.setdefault(file, row.label) != row.label:
            both = listed([label_of[file], row.label])
            raise RequestError(f"{row.place}: {row.file!r} has two labels, {both}. Keep one.")
    if absent and not label_of and (not predictions or len(absent) == filled):
        raise RequestError(_no_image(table, root, absent, images.example))
    messages = [*content.messages, *chosen.messages, *images.messages()]
    messages += [_taken(table, label_of, given, filled)] if predictions else []
    if absent:
        message = f"skipped rows of {table.name} without an image ({len(absent)}): "
        messages.append(f"{message}{listed(absent, 3)}.")
    return TableLabels(label_of, frozenset(given - set(label_of)), tuple(messages))


class _FilledRow(NamedTuple):
    """A row of a table that is not blank."""

    place: str
    """Where it is, for messages."""
    file: str
    """Its path, as it stands there."""
    label: str
    """Its label, normalised; empty if there is none."""
    cells: Row
    """All its cells."""


def _filled_rows(table: Path, chosen: LabelColumns) -> Iterator[_FilledRow]:
    """The rows of a table that are not blank."""
    labels = _without_decimals([_text(row.get(chosen.label)) for row in chosen.rows])
    for number, (cells, cell) in enumerate(zip(chosen.rows, labels, strict=True), start=1):
        file = _text(cells.get(chosen.file))
        label = normal(cell)
        if file.strip() or label:
            yield _FilledRow(f"{table}, row {number}", file, label, cells)


def _no_image(table: Path, root: Path | None, absent: Sequence[str], example: str) -> str:
    """Message on a table none of whose rows has an image."""
    where = f"image in {root}" if root else "row of the features"
    return (
        f"{table} labels no {where}; it lists {listed(absent, 3)}, and here an image is "
        f"called {example!r}."
    )


def _image(place: str, cell: str, images: ImageNames) -> str | None:
    """Name of the image in a row, its path below the root; None if there is no such image.

    Raises:
        RequestError: it lies outside of the root; the message names the row.
    """
    try:
        return images.find(cell)
    except RequestError as error:
        raise RequestError(f"{place}: {error}") from error


def is_yes(cell: str) -> bool:
    """Whether a cell of the column `confirmed` says yes."""
    return cell.strip().casefold() in _YES


def _is_predictions(
    table: Path, rows: Sequence[Row], columns: tuple[str, str], known: KnownLabels | None
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


def _is_label(row: _FilledRow, predicted: str) -> bool:
    """Whether the label in a table of predictions comes from a person.

    Raises:
        RequestError: `confirmed` is neither yes nor no.
    """
    confirmed = _text(row.cells.get(CONFIRMED)).strip().casefold()
    if confirmed not in _YES | _NO:
        raise RequestError(
            f"{row.place}: {CONFIRMED} is {confirmed!r:.40}; write yes, or leave it empty."
        )
    given = _text(row.cells.get("status")) == GIVEN
    return confirmed in _YES or given or row.label != predicted


def _taken(table: Path, label_of: Mapping[str, str], given: Collection[str], rows: int) -> str:
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


def _table(table: Path, columns: tuple[str, str]) -> Table:
    """Content of a table."""
    check_table(table)
    return read_table(table, {*columns, "image_path"})


def check_table(table: Path) -> None:
    """Refuse a table that is not there.

    Raises:
        RequestError: with what may be given instead.
    """
    if not table.exists():
        raise RequestError(
            f"{table} cannot be read: it does not exist. Give `folders` or an existing table."
        )


def _without_decimals(labels: list[str]) -> list[str]:
    """Numbers without `.0`, which pandas adds where cells of a column of numbers are empty."""
    filled = [label for label in labels if label.strip()]
    if len(filled) < len(labels) and all(re.fullmatch(r"\s*-?\d+\.0\s*", one) for one in filled):
        return [label.strip().removesuffix(".0") for label in labels]
    return labels


def _text(value: Any) -> str:
    """A cell as text, empty for null and NaN."""
    if isinstance(value, list | dict):
        raise RequestError(f"a path or a label must be text or a number, not {value!r:.80}.")
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None or value != value else str(value)
