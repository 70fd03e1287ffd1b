"""Label tables: CSV, Parquet or JSONL, one row per image, for any subset of the images."""

import csv
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from anyclass.data.classes import listed, normal
from anyclass.errors import RequestError
from anyclass.files import csv_text


def read_labels(
    table: Path, root: Path, files: Collection[str], columns: tuple[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Read the label of each labelled file, and messages about rows without an image.

    Args:
        table: the table; its paths are relative to its own folder or to `root`.
        root: the folder of the images, without links; every path must be inside it.
        files: the existing images, relative to `root`.
        columns: names of the columns of paths and labels; an empty label is no label.

    Raises:
        RequestError: the table is damaged, has paths outside of `root`, contradicts itself or
            labels no image at all.
    """
    label_of: dict[str, str] = {}
    absent = []
    files = set(files)
    bases = (table.parent.resolve(), root)
    for number, cell, label in _cells(table, columns):
        candidates = [_inside(root, base, cell) for base in bases]
        file = next((candidate for candidate in candidates if candidate in files), None)
        if file is None and not any(candidates):
            raise RequestError(f"{table}, row {number}: {cell!r} is outside of {root}.")
        if file is None:
            absent.append(cell)
        elif label and label_of.setdefault(file, label) != label:
            both = listed([label_of[file], label])
            raise RequestError(f"{table}, row {number}: {cell!r} has two labels, {both}.")
    if absent and not label_of:
        raise RequestError(f"{table} labels no image in {root}; it lists {listed(absent, 3)}.")
    message = f"skipped rows of {table.name} without an image ({len(absent)}): "
    return label_of, (f"{message}{listed(absent, 3)}.",) if absent else ()


def _inside(root: Path, base: Path, cell: str) -> str | None:
    """Path of `cell`, given relative to `base`, below `root`; None if outside. No disk access."""
    path = os.path.normpath(os.path.join(base, cell))  # noqa: PTH118
    prefix = os.path.join(root, "")  # noqa: PTH118
    return path[len(prefix) :].replace(os.sep, "/") if path.startswith(prefix) else None


def _cells(table: Path, columns: tuple[str, str]) -> Iterator[tuple[int, str, str]]:
    """Row number, path and label (empty if missing) of each row of a table."""
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
    file_column, label_column = columns
    present = sorted({str(key) for row in rows for key in row})
    if file_column == "file_name" and file_column not in present and "image_path" in present:
        file_column = "image_path"
    for column, flag in ((file_column, "--file-column"), (label_column, "--label-column")):
        if column not in present:
            found = listed(present) or "none"
            raise RequestError(f"{table} has no column {column!r}, see {flag}; found: {found}.")
    for number, row in enumerate(rows, start=1):
        yield number, _text(row.get(file_column)), normal(_text(row.get(label_column)))


def _rows(table: Path, columns: tuple[str, str]) -> Iterator[Mapping[str, Any]]:
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

            wanted = {*columns, "image_path"} & set(parquet.read_schema(table).names)
            yield from parquet.read_table(table, columns=sorted(wanted)).to_pylist()
        case ending:
            raise ValueError(f"its ending is {ending!r}, not .csv, .parquet or .jsonl")


def _text(value: Any) -> str:
    """A cell as text, empty for null and NaN."""
    if isinstance(value, list | dict):
        raise RequestError(f"a path or a label must be text or a number, not {value!r:.80}.")
    return "" if value is None or value != value else str(value)
