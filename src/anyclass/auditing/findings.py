"""`Audit`: what was found, in words and as a table."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.files import check_may_write, csv_cell, write_json, write_text

Row = dict[str, Any]

COLUMNS = ("issue", "file_name", "label", "value", "group", "other", "detail")
"""Columns of `audit.csv`.

`value` is what a threshold applies to; files with the same `group` belong together; `other` is the
file, class or label to compare with."""

FILES = ("audit.csv", "audit.json")
"""Files of a written audit."""

SHOWN = 3
"""Files or classes that the screen shows of a finding; the tables hold all."""


@dataclass(frozen=True)
class Finding:
    """One kind of issue, with all files or classes that it concerns."""

    issue: str
    """Its name, as in the column `issue`."""
    summary: str
    """What was found, with counts, in a sentence."""
    advice: str
    """What to do next."""
    rows: list[Row]
    """One row per file, or class without labelled files; keys are `COLUMNS` without `issue`."""
    criterion: str = ""
    """When something counts as this issue, with thresholds."""
    of_classes: bool = False
    """Whether it is about classes; the rows are their labelled files."""

    @property
    def first(self) -> str:
        """The first few files or classes, in words."""
        about = "label" if self.of_classes else "file_name"
        found = list(dict.fromkeys(_pair(row, about) for row in self.rows))
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return ", ".join(found[:SHOWN]) + more

    @property
    def lines(self) -> list[str]:
        """Lines for the screen."""
        return [self.summary, *filter(None, [self.first]), self.advice]

    def to_json(self) -> dict[str, Any]:
        """The finding as JSON values."""
        return {
            "issue": self.issue,
            "count": len(self.rows),
            "summary": self.summary,
            "advice": self.advice,
            "criterion": self.criterion,
            "lines": self.lines,
            "rows": self.rows,
        }


@dataclass(frozen=True)
class Audit:
    """Findings about images, labels and class names."""

    findings: list[Finding] = field(default_factory=list)
    """What was found, the most severe first."""
    checked: list[str] = field(default_factory=list)
    """What was looked at."""

    @property
    def rows(self) -> list[Row]:
        """One row per issue and file, with all `COLUMNS`."""
        return list(self._rows())

    def __getitem__(self, issue: str) -> list[Row]:
        """Rows of one issue; empty if there is none."""
        return [row for row in self._rows() if row["issue"] == issue]

    def __str__(self) -> str:
        """The findings in words."""
        if not self.findings:
            return f"nothing found ({', '.join(self.checked)})"
        return "\n".join(line for finding in self.findings for line in _indented(finding.lines))

    def to_pandas(self) -> Any:
        """The rows as a pandas DataFrame."""
        return self.to_arrow().to_pandas()

    def to_arrow(self) -> Any:
        """The rows as a pyarrow Table."""
        import pyarrow as pa

        kinds = {"value": pa.float64(), "group": pa.int64()}
        schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
        return pa.Table.from_pylist(self.rows, schema=schema)

    def to_json(self) -> dict[str, Any]:
        """The audit as JSON values."""
        return {
            "checked": self.checked,
            "findings": [finding.to_json() for finding in self.findings],
        }

    def write(self, folder: Path) -> None:
        """Write `audit.csv` and `audit.json`.

        Raises:
            StorageError: the folder cannot be written to.
        """
        text = StringIO(newline="")
        table = csv.DictWriter(text, COLUMNS)  # its \r\n makes it quote a \r in a name
        table.writeheader()
        for row in self._rows():
            table.writerow({key: _cell(value) for key, value in row.items()})
        write_text(folder / "audit.csv", text.getvalue())
        write_json(folder / "audit.json", self.to_json())

    def _rows(self) -> Iterator[Row]:
        empty = dict.fromkeys(COLUMNS)
        for finding in self.findings:
            for row in finding.rows:
                yield empty | {"issue": finding.issue} | row


def check_writable(folder: Path, overwrite: bool) -> None:
    """Refuse to replace the files of an earlier audit without being asked to.

    Raises:
        RequestError: there is one, or `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; give a folder for the audit (--audit DIR)")
    existing = [name for name in FILES if (folder / name).exists()]
    if existing and not overwrite:
        raise RequestError(
            f"{folder / existing[0]} exists: choose another folder, or replace it (--overwrite)"
        )
    check_may_write(folder / FILES[0])


def groups_of(pairs: Iterable[Sequence[int]], size: int) -> list[list[int]]:
    """Indices that pairs join, directly or through others; two or more each, in order."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    joined = [tuple(pair) for pair in pairs]
    if not joined:
        return []
    first, second = zip(*joined, strict=True)
    graph = coo_array(([1] * len(joined), (first, second)), shape=(size, size))
    _, group = connected_components(graph, directed=False)
    members: dict[int, list[int]] = {}
    for index in sorted({*first, *second}):
        members.setdefault(int(group[index]), []).append(index)
    return list(members.values())


def rows_of_class(dataset: ImageDataset, c: int, row: Row) -> list[Row]:
    """The row of class c, for each of its labelled files; alone if there is none."""
    files = [dataset.files[i] for i in np.flatnonzero(dataset.labels == c)]
    return [{"file_name": file} | row for file in files] or [row]


def _pair(row: Row, about: str) -> str:
    """What a row is about, in a few words."""
    subject = row.get(about) or row.get("label") or ""
    other = row.get("other")
    return f"{subject} ({other})" if other else str(subject)


def _indented(lines: list[str]) -> list[str]:
    return [lines[0], *(f"  {line}" for line in lines[1:])]


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.4g}"
    return csv_cell(value) if isinstance(value, str) else value
