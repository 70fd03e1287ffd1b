"""What the files of a finished run must hold, checked once at the door.

A run may come from somebody else. Each command that reads one calls `check_content` first, so
that the code behind it may rely on names and types. Further keys are allowed.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from anyclass.data import Classes
from anyclass.errors import AnyclassError, FileError, RequestError
from anyclass.files import Json, read_json
from anyclass.run.schemas import FORMERLY, SCHEMAS, Description, Schema

INTERRUPTED = "unfinished/ready.json"
"""File of an edit that was interrupted: until it is completed, files may disagree."""

OPTIONAL = {"naming.json", "images.parquet", "map.parquet"}
"""Files that some runs do not have."""

TABLES = {
    "predictions.parquet": {
        "file_name": pa.string(),
        "label": pa.string(),
        "score": pa.float32(),
        "margin": pa.float32(),
        "status": pa.string(),
        "zero_shot_label": pa.string(),
        "true_label": pa.string(),
    },
    "images.parquet": {"file_name": pa.string(), "sha256": pa.binary(32)},
    "map.parquet": {"file_name": pa.string(), "x": pa.float32(), "y": pa.float32()},
}
"""Table of a run -> the columns that are needed."""

LATER = ("zero_shot_label",)
"""Columns that runs of earlier versions may lack."""

FILLED = ("file_name", "status", "sha256", "x", "y")
"""Columns without empty cells."""


def check_content(run: Path) -> None:
    """Check the files of a finished run that commands read, each and together.

    Raises:
        FileError: one is missing, damaged, or does not belong to the others; the message names
            it.
    """
    check_files(run)
    if not (run / INTERRUPTED).is_file():
        check_together(run)


def check_files(run: Path) -> None:
    """Check each file of a finished run that commands read.

    Raises:
        FileError: one is missing or damaged; the message names it.
    """
    for name in SCHEMAS:
        if name not in OPTIONAL or (run / name).is_file():
            read_checked(run, name)
    read_classes(run)
    for name in TABLES:
        if name not in OPTIONAL or (run / name).is_file():
            _check_columns(run / name, pq_schema(run / name))
    for line in lines(run / "descriptions.jsonl"):
        _validated(run / "descriptions.jsonl", Description, line)


def read_checked(run: Path, name: str) -> Json:
    """The content of a JSON file of a run, checked.

    Raises:
        FileError: it is missing or damaged.
    """
    content = read_json(run / name)
    _validated(run / name, SCHEMAS[name], content)
    return dict(content)


def read_naming(run: Path) -> Json:
    """The content of `naming.json`, checked.

    Raises:
        FileError: it is missing or damaged.
    """
    content = read_checked(run, "naming.json")
    rows = [dict(row) for row in content["classes"]]
    for row in rows:
        if FORMERLY in row:
            row["images"] = row.pop(FORMERLY)
    return content | {"classes": rows}


def read_classes(run: Path) -> Classes:
    """The classes of a run.

    Raises:
        FileError: `classes.json` is missing or damaged.
    """
    path = run / "classes.json"
    try:
        return Classes.from_json(read_json(path))
    except AnyclassError as error:
        problem = str(error)
        raise FileError(
            problem if str(path) in problem else f"{path} is damaged: {problem}"
        ) from error


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A Parquet table of a run, checked.

    Raises:
        FileError: it is missing or damaged.
    """
    _check_columns(path, pq_schema(path))
    try:
        table = pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise FileError(f"{path} is damaged: {_short(error)}") from error
    for name in FILLED:
        if name in table.column_names and table[name].null_count:
            raise FileError(f"{path} is damaged: there are empty cells in column {name}")
    return table


def pq_schema(path: Path) -> pa.Schema:
    """Columns of a Parquet table.

    Raises:
        FileError: it is missing or damaged.
    """
    try:
        return pq.read_schema(path)
    except (OSError, ValueError, pa.ArrowException) as error:  # names may be no UTF-8
        raise FileError(f"{path} is missing or damaged: {_short(error)}") from error


def lines(path: Path) -> Iterator[Json]:
    """Read the objects of a JSON Lines file; none if the file does not exist.

    Raises:
        FileError: a line is damaged; the message names it.
    """
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="backslashreplace") as file:
        for number, line in enumerate(file, 1):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FileError(f"{path} is damaged in line {number}: {error}") from error
            if not isinstance(found, dict):
                raise FileError(f"{path} is damaged in line {number}: it is no object")
            yield found


def _check_columns(path: Path, found: pa.Schema) -> None:
    """Compare the columns of a table with those that are needed."""
    for name, kind in TABLES[path.name].items():
        if name not in found.names and name in LATER:
            continue
        if name not in found.names:
            raise FileError(f"{path} is damaged: it has no column {name}")
        given = found.field(name).type
        both_floating = pa.types.is_floating(given) and pa.types.is_floating(kind)
        if given != kind and not both_floating:
            raise FileError(f"{path} is damaged: column {name} is not of type {kind}")


def check_together(run: Path) -> None:
    """Compare files that must belong to the same classes; each of them was checked alone.

    Raises:
        FileError: they do not.
    """
    classes = read_classes(run)
    _check_confusion(run / "metrics.json", len(classes) + classes.unknown)
    if not (run / "naming.json").is_file():
        return
    rows = read_json(run / "naming.json")["classes"]
    if [(row["index"], row["name"]) for row in rows] != list(enumerate(classes.names)):
        raise FileError(
            f"{run / 'naming.json'} is damaged: its classes are not those of classes.json"
        )


def _check_confusion(path: Path, size: int) -> None:
    """Compare the confusion matrix of a run with its number of classes.

    Raises:
        FileError: it has other classes.
    """
    metrics = read_json(path)
    matrix = metrics["confusion"]
    if matrix is not None and not (len(matrix) == size and all(len(r) == size for r in matrix)):
        raise FileError(
            f"{path} is damaged: confusion is not {size} x {size}, one row and one column for each "
            "class of classes.json"
        )
    counts = metrics.get("confusion_counts")
    if counts is None:
        return
    if len({len(counts[key]) for key in ("true", "predicted", "count")}) > 1:
        raise FileError(f"{path} is damaged: the lists of confusion_counts differ in length")
    if any(c >= size for key in ("true", "predicted") for c in counts[key]):
        raise FileError(f"{path} is damaged: confusion_counts has more than {size} classes")


def _validated(path: Path, schema: type[Schema], content: Any) -> None:
    """Check the content of a file.

    Raises:
        FileError: it is damaged; the message names the first place.
    """
    try:
        schema.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise FileError(f"{path} is damaged: {place}: {first['msg']}") from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def read_rows(path: Path, required: Sequence[str]) -> Iterator[dict[str, str]]:
    """Read a CSV with a header; a byte order mark, semicolons and tabs are accepted.

    Raises:
        RequestError: it cannot be read, or a required column is missing.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8: save it again as CSV UTF-8") from error
    head = text.split("\n", 1)[0]
    separator = max(",;\t", key=head.count)
    try:
        table = csv.DictReader(StringIO(text, newline=""), delimiter=separator, strict=True)
        columns = table.fieldnames or ()
        missing = [name for name in required if name not in columns]
        if missing:
            raise RequestError(f"{path} has no column {' and no column '.join(missing)}")
        for row in table:
            yield {name: row[name] or "" for name in columns}
    except csv.Error as error:
        raise RequestError(f"{path} is not a CSV table: {error}") from error
