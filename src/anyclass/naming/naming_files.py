"""`naming.json` and `classes.csv`: suggested names of discovered classes in a run folder.

`naming.json` contains all details for the report; users edit the column `name` of `classes.csv`.
"""

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa

from anyclass.files import Json, write_json
from anyclass.run.tables import write_table

NAMING = "naming.json"
"""Details of suggested names; only runs with discovered classes have it."""

TABLE = "classes.csv"
"""Table of class names to edit; only runs with discovered classes have it."""

TOP = 5
"""Words per class: the suggestion and the runners-up."""

TYPICAL = 9
"""Most typical example images of a class."""

BORDERLINE = 6
"""Most uncertain example images of a class."""

COLUMNS = pa.schema(
    [
        ("index", pa.int64()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("suggested", pa.string()),
        ("runner_up", pa.string()),
        ("confidence", pa.string()),
        ("images", pa.int64()),
        ("agreement", pa.float32()),
        ("nearest", pa.string()),
        ("hint", pa.string()),
        ("action", pa.string()),
        ("examples", pa.string()),
    ]
)
"""Columns of `classes.csv`; one row per class, including the labelled ones."""


def write_naming(run: Path, naming: Json, rejected: Collection[str] = ()) -> None:
    """Write `naming.json` and `classes.csv`; `rejected` are names of classes."""
    write_json(run / NAMING, naming)
    lines = (_line(row, row["name"] in rejected) for row in naming["classes"])
    write_table(run / TABLE, lines, COLUMNS)


def _line(row: Json, rejected: bool) -> Json:
    """Row of one class in `classes.csv`."""
    quality = row.get("quality") or {}
    known = row | quality
    cells = {key: known.get(key) for key in COLUMNS.names}
    return cells | {
        "action": "reject" if rejected else None,
        "runner_up": "; ".join(row["runners_up"]),
        "examples": "; ".join(row["typical"]),
    }
