"""Tables of a run after its classes were merged, split, rejected or renamed.

Letters: N images in the tables, M of them readable, C classes before, C' after.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from anyclass.classifier.class_edits import EditedClasses
from anyclass.data.label_tables import CONFIRMED, GIVEN, is_yes
from anyclass.files import atomic_write, csv_cell, csv_text
from anyclass.run.columns import REJECTED
from anyclass.run.content import read_rows
from anyclass.run.tables import Row, prediction_row, ranked, text_cell

NAME_COLUMNS = ("label", "runner_up", "predicted_label", "opinion", "true_label", "zero_shot_label")
"""Columns of tables that contain class names."""


@dataclass(frozen=True)
class EditedRun:
    """Predictions of a run before and after an edit."""

    before: EditedClasses
    """The C classes before."""
    after: EditedClasses
    """The C' classes now."""
    exact: pa.Table
    """The exact table of predictions before."""
    files: tuple[str, ...]
    """The M readable images."""
    probabilities: Float[np.ndarray, "M K"] | None
    """Their probabilities now; None: only names change."""

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Index of each readable image."""
        return {file: i for i, file in enumerate(self.files)}

    @cached_property
    def successors(self) -> dict[str, list[int]]:
        """Name of each class before -> classes that have parts of it now."""
        now = _parts(self.after, self.before)
        then = _parts(self.before, self.after)
        names = self.before.classes.names
        found = {}
        for name, of_class in zip(names, then, strict=True):
            found[name] = [c for c, parts in enumerate(now) if parts & of_class]
        return found

    def follow(self, old: str, file: str) -> str | None:
        """What the label of an image is called now; None if its class is rejected.

        Where a class was divided, the half that is more probable.
        """
        now = self.successors.get(old)
        if not now:
            return old
        best = now[0]
        i = self.row_of.get(file)
        if len(now) > 1 and self.probabilities is not None and i is not None:
            best = now[int(self.probabilities[i, now].argmax())]
        return self.after.classes.label(best)

    @cached_property
    def renamed(self) -> dict[str, str]:
        """Old name -> new name of each class that is still one class."""
        names = self.after.classes.names
        return {old: names[now[0]] for old, now in self.successors.items() if len(now) == 1}

    @cached_property
    def written(self) -> dict[str, str | None]:
        """Label that the run wrote for each of the N images."""
        columns = (self.exact[name].to_pylist() for name in ("file_name", "label"))
        return dict(zip(*columns, strict=True))

    @cached_property
    def cells(self) -> dict[str, Row]:
        """New cells of the predicted images in a table of predictions, by file name."""
        probabilities = self.probabilities
        if probabilities is None:
            return {}
        status = self.exact["status"].to_pylist()
        files = self.exact["file_name"].to_pylist()
        familiarities = dict.fromkeys(files)
        if "familiarity" in self.exact.column_names:
            familiarities = dict(zip(files, self.exact["familiarity"].to_pylist(), strict=True))
        rows = [
            prediction_row(
                file,
                probabilities[self.row_of[file]],
                self.after.classes,
                familiarity=familiarities[file],
            )
            for file, state in zip(files, status, strict=True)
            if state not in (GIVEN, REJECTED)
        ]
        return {row["file_name"]: row for row in ranked(rows)}


def _parts(of: EditedClasses, other: EditedClasses) -> list[set[int]]:
    """Parts of each class, divided by the splits of both; one has made all splits of the other."""
    found = [set(members) for members in of.edits.members]
    first_new = of.edits.fitted
    for s in range(len(of.edits.divided), len(other.edits.divided)):
        for parts in found:
            if other.edits.divided[s][0] in parts:
                parts.add(first_new + s)
    return found


def edited_table(run: EditedRun) -> pa.Table:
    """The exact table of predictions with the classes as they are now."""
    rows = []
    for row in run.exact.to_pylist():
        new = run.cells.get(row["file_name"], {})
        names = {key: row[key] for key in NAME_COLUMNS if row.get(key)}
        row |= {key: run.renamed.get(name, name) for key, name in names.items()}
        rows.append(row | {key: value for key, value in new.items() if key in row})
    return pa.Table.from_pylist(rows, schema=run.exact.schema)


def edited_csv(run: EditedRun, source: Path, remembered: Mapping[str, str]) -> Iterator[Row]:
    """Rows of a CSV table of predictions with the classes as they are now.

    A label that a person changed or confirmed stays, under the name that its class has now.

    Args:
        run: the edit.
        source: the table.
        remembered: labels that persons gave before an edit that is taken back, by file name.
    """
    for file, row in _rows_by_file(source):
        new = dict(run.cells.get(file, {}))
        names = {key: csv_text(row[key]) for key in NAME_COLUMNS if row.get(key)}
        renamed = {key: run.renamed.get(name, name) for key, name in names.items()}
        if _is_by_person(row, run.written.get(file)):
            label = run.follow(csv_text(row["label"]), file) or ""
            before = remembered.get(file)
            if before is not None and run.after.classes.names.count(before):
                label = before
            renamed["label"] = label
            new.pop("label", None)
        cells_now = {key: text_cell(value) for key, value in new.items() if key in row}
        yield row | {key: csv_cell(name) for key, name in renamed.items()} | cells_now


def followed_csv(run: EditedRun, source: Path) -> Iterator[Row]:
    """Rows of a CSV table of labels, whose classes are called what they are called now."""
    for file, row in _rows_by_file(source):
        names = {key: csv_text(row[key]) for key in NAME_COLUMNS if row.get(key)}
        now = {key: run.follow(name, file) or "" for key, name in names.items()}
        yield row | {key: csv_cell(name) for key, name in now.items()}


def labels_by_person(run: EditedRun, source: Path) -> dict[str, str]:
    """Labels that a person changed or confirmed in a CSV table of predictions, by file name."""
    if not source.is_file():
        return {}
    return {
        file: csv_text(row["label"])
        for file, row in _rows_by_file(source)
        if _is_by_person(row, run.written.get(file))
    }


def _rows_by_file(source: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """File name and cells of each row of a CSV table of labels."""
    for row in read_rows(source, ("label",)):
        yield csv_text(row.get("file_name", "")), row


def _is_by_person(row: Mapping[str, str], written: str | None) -> bool:
    """Whether a person changed or confirmed a label that the run wrote as `written`."""
    return csv_text(row["label"]) != (written or "") or is_yes(row.get(CONFIRMED, ""))


def write_csv(path: Path, rows: Iterator[Row]) -> None:
    """Write rows of text cells, atomically; no file without rows."""
    first = next(rows, None)
    if first is None:
        return
    with atomic_write(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, first.keys())
        writer.writeheader()
        writer.writerow(first)
        writer.writerows(rows)
