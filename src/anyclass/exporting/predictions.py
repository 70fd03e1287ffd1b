"""Predictions of a run, with the images they belong to: what other tools are handed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyclass.data.classes import plural
from anyclass.data.label_tables import GIVEN
from anyclass.errors import RequestError
from anyclass.files import csv_text
from anyclass.run.content import read_rows

NUMBERS = (
    "score",
    "rank",
    "margin",
    "familiarity",
    "zero_shot_score",
    "opinion_score",
    "label_quality",
)
"""Columns of numbers; all others are text."""

Row = dict[str, Any]
"""A row of a table of predictions; None where a cell is empty."""


@dataclass(frozen=True)
class LabelledPredictions:
    """Rows of images that have a label and exist."""

    root: Path
    """Folder of the images, absolute and without links."""
    rows: list[Row]
    """Rows of a table of predictions, in its order."""
    unlabelled: int
    """Rows without a label, rejected or unsure, that are left out."""
    missing: int
    """Rows without an image in `root`, that are left out."""

    @classmethod
    def read(cls, table: Path, images: Path | None) -> "LabelledPredictions":
        """Read a table of predictions.

        Args:
            table: written by `fit` or `predict`, Parquet or CSV.
            images: the folder that its file names are relative to.

        Raises:
            RequestError: the table or the folder cannot be read, or they do not belong together.
        """
        if images is None or not images.is_dir():
            where = "it was fitted on features" if images is None else f"{images} is no folder"
            raise RequestError(f"where are the images of {table}? {where}: give --images DIR")
        root = images.resolve()
        rows = _rows(table)
        labelled = [row for row in rows if row.get("label")]
        found = [row for row in labelled if _is_inside(root, row["file_name"])]
        if not found:
            example = f", such as {labelled[0]['file_name']!r}" if labelled else ""
            raise RequestError(
                f"{table} has no labelled image in {images}{example}: give the folder that its "
                "file names are relative to (--images DIR)"
            )
        return cls(root, found, len(rows) - len(labelled), len(labelled) - len(found))

    def path(self, row: Row) -> Path:
        """Absolute path of an image."""
        return self.root / str(row["file_name"])

    def left_out(self) -> list[str]:
        """What is not handed over, a sentence each."""
        reasons = {"without a label": self.unlabelled, "without an image": self.missing}
        return [f"left out {plural(n, 'row')} {why}" for why, n in reasons.items() if n]


def is_given(row: Row) -> bool:
    """Whether the label comes from a person, not from the model."""
    return row.get("status") == GIVEN


def prediction(row: Row) -> tuple[str | None, float | None]:
    """Predicted class and its probability.

    For a label that was given this is what the model says without it, if the method tells.
    """
    if is_given(row):
        return row.get("opinion"), row.get("opinion_score")
    return row["label"], row["score"]


def _rows(table: Path) -> list[Row]:
    """All rows of a table, with None in empty cells."""
    if not table.is_file():
        raise RequestError(f"{table} does not exist: give a table of `anyclass predict`")
    if table.suffix == ".parquet":
        from pyarrow import ArrowException, parquet

        try:
            rows: list[Row] = parquet.read_table(table).to_pylist()
        except ArrowException as error:
            raise RequestError(f"{table} cannot be read as Parquet: {error!s:.100}") from error
    else:
        rows = [_typed(row, f"{table}, row {n}") for n, row in enumerate(read_rows(table, ()), 1)]
    if rows and not {"file_name", "label", "score"} <= set(rows[0]):
        raise RequestError(f"{table} is no table of predictions: it has no file_name, label, score")
    return rows


def _typed(row: dict[str, str], place: str) -> Row:
    """Cells of a CSV with their types; `place` names the row in messages."""
    cells: Row = {}
    for name, cell in row.items():
        text = csv_text(cell)
        value = _number(text, f"{place}: {name}") if name in NUMBERS else text
        cells[name] = value if text else None
    return cells


def _number(text: str, place: str) -> float:
    """A number, also with the comma that some spreadsheets write; 0 for an empty cell."""
    try:
        return float(text.replace(",", ".") or 0)
    except ValueError as error:
        raise RequestError(f"{place} is {text!r:.40}, which is no number") from error


def _is_inside(root: Path, name: str | None) -> bool:
    """Whether a file name leads to a regular file below `root`."""
    try:
        path = (root / (name or "")).resolve()
        return path.is_relative_to(root) and path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, a NUL in the name
        return False
