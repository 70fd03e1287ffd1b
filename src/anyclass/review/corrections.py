"""Corrections of a run in an SQLite file: written at once, with a history for undo.

corrections   file_name -> label; an empty label takes a given label back
steps         what a person did, in order; `undone` is 1 after undo
changes       step, file_name, label before and after; NULL is no correction
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import NamedTuple

from anyclass.data.label_tables import GIVEN, PREDICTED
from anyclass.errors import AnyclassError, StorageError
from anyclass.files import atomic_write, csv_cell
from anyclass.files.shared import journal_mode

SCHEMA = """
CREATE TABLE IF NOT EXISTS corrections (file_name TEXT PRIMARY KEY, label TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS steps (
    step INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, of_classes INTEGER NOT NULL,
    undone INTEGER NOT NULL DEFAULT 0, time TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS changes (
    step INTEGER NOT NULL, file_name TEXT NOT NULL, before TEXT, after TEXT,
    PRIMARY KEY (step, file_name)
);
"""


class CorrectionStep(NamedTuple):
    """Something that a person did and may undo."""

    number: int
    """Number of the step."""
    title: str
    """What was done, for people."""
    of_classes: bool
    """Whether the classes of the run were edited."""


class Corrections:
    """Labels that a person gave to images of a run; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it.

        Raises:
            AnyclassError: the file is damaged.
            StorageError: the folder cannot be written to.
        """
        self.path = path
        self._lock = RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{path.parent} cannot be written: {error.strerror}") from error
        with self._errors():
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._database.execute(f"PRAGMA journal_mode = {journal_mode(path)}")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(SCHEMA)
        self._version = -1
        self._closed = False
        self._labels: dict[str, str] = {}

    def close(self) -> None:
        """Close the file; the write-ahead log is merged into it. The labels can still be read."""
        with self._lock:
            if not self._closed:
                self._current()
                self._closed = True
                self._database.close()

    @property
    def labels(self) -> Mapping[str, str]:
        """File name -> corrected label, empty where a given label was taken back."""
        return dict(self._current())

    def get(self, file: str) -> str | None:
        """Corrected label of one image; None: it is not corrected."""
        return self._current().get(file)

    def __len__(self) -> int:
        """Number of corrected images."""
        return len(self._current())

    def _current(self) -> dict[str, str]:
        """The labels, read again if another process has written some."""
        with self._lock, self._errors():
            if self._closed:
                return self._labels
            version = int(self._database.execute("PRAGMA data_version").fetchone()[0])
            if version != self._version:
                rows = self._database.execute("SELECT file_name, label FROM corrections")
                self._labels = dict(rows.fetchall())
                self._version = version
            return self._labels

    def record(self, after: Mapping[str, str | None], title: str, of_classes: bool = False) -> None:
        """Write one step: new label of each file; None removes its correction.

        Raises:
            StorageError: the disk is full.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._transaction() as database:
            before = self._current()
            cursor = database.execute(
                "INSERT INTO steps (title, of_classes, time) VALUES (?, ?, ?)",
                (title, of_classes, now),
            )
            number = int(cursor.lastrowid or 0)
            changes = [(number, file, before.get(file), label) for file, label in after.items()]
            database.executemany("INSERT INTO changes VALUES (?, ?, ?, ?)", changes)
            self._write(database, after)
        self._take(after)

    def last(self) -> CorrectionStep | None:
        """The step that undo takes back next."""
        with self._lock, self._errors():
            row = self._database.execute(
                "SELECT step, title, of_classes FROM steps WHERE undone = 0 "
                "ORDER BY step DESC LIMIT 1"
            ).fetchone()
        return CorrectionStep(row[0], row[1], bool(row[2])) if row else None

    def undo(self, step: CorrectionStep) -> Sequence[str]:
        """Take the last step back; returns its files."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT file_name, before FROM changes WHERE step = ?", (step.number,)
            ).fetchall()
            before: dict[str, str | None] = dict(rows)
            self._write(database, before)
            database.execute("UPDATE steps SET undone = 1 WHERE step = ?", (step.number,))
        self._take(before)
        return list(before)

    def _write(self, database: sqlite3.Connection, labels: Mapping[str, str | None]) -> None:
        removed = [(file,) for file, label in labels.items() if label is None]
        database.executemany("DELETE FROM corrections WHERE file_name = ?", removed)
        written = [(file, label) for file, label in labels.items() if label is not None]
        database.executemany("INSERT OR REPLACE INTO corrections VALUES (?, ?)", written)

    def _take(self, labels: Mapping[str, str | None]) -> None:
        """Repeat in memory what was written."""
        with self._lock:
            for file, label in labels.items():
                if label is None:
                    self._labels.pop(file, None)
                else:
                    self._labels[file] = label

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of the database into ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StorageError(f"{self.path} cannot be written: {error}") from error
        except sqlite3.DatabaseError as error:
            raise AnyclassError(
                f"{self.path} is damaged ({error}): move it away to begin without corrections"
            ) from error


def table_of(corrections: Mapping[str, str]) -> str:
    """Corrections as the CSV that `fit --labels` takes.

    Where a given label was taken back, the table has the columns of a table of predictions, whose
    rows of status `given` without a label say so.
    """
    import csv
    from io import StringIO

    taken_back = "" in corrections.values()
    columns = ["file_name", "label", *([PREDICTED, "status"] if taken_back else [])]
    text = StringIO(newline="")
    table = csv.writer(text)
    table.writerow(columns)
    for file, label in sorted(corrections.items()):
        more = ["", "ok" if label else GIVEN] if taken_back else []
        table.writerow([csv_cell(file), csv_cell(label), *more])
    return text.getvalue()


def write_corrections(path: Path, corrections: Mapping[str, str]) -> None:
    """Write `table_of` corrections atomically."""
    with atomic_write(path) as draft:
        draft.write_text(table_of(corrections), encoding="utf-8", newline="")
