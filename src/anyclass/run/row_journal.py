"""Rows of a table that is not finished, so that `predict` continues after a kill.

A file beside the table, named like a temporary file of this process: a line per batch, with the
state of its images. The next process with the same request takes it over. It is removed when the
table is written, and by whoever writes into the folder a week after it was left.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, TextIO

from anyclass.files import CONTINUED, orphans, storage, temporary_name
from anyclass.run.tables import Row


class RowJournal(AbstractContextManager["RowJournal"]):
    """Finished rows of one table."""

    def __init__(
        self, out: Path, request: str, files: Sequence[str], stamp: Callable[[int], Any]
    ) -> None:
        """Take over the journal of a killed process with this request, or begin one.

        Args:
            out: the table.
            request: checksum of everything that the rows depend on besides the images.
            files: names of the images, a row each.
            stamp: what changes when the image with an index changes.
        """
        self._files = files
        self._stamp = stamp
        self._path = temporary_name(out, CONTINUED)
        self._head = json.dumps({"out": str(out.absolute()), "request": request}) + "\n"
        with storage(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            for old in orphans(out.parent, CONTINUED):
                self._take_over(old, out)
            if not self._path.exists():
                self._begin()
            self.done, end = self._valid()
            """Number of finished rows."""
            self._file = self._open_at(end)

    def continued(self, batches: Callable[[int], Iterator[list[Row]]]) -> Iterator[Row]:
        """All rows in order: those of the earlier process, then those that are computed now.

        Args:
            batches: rows of the images from an index on, batch by batch.
        """
        yield from self.finished()
        for rows in batches(self.done):
            self._add(rows)
            yield from rows

    def finished(self) -> Iterator[Row]:
        """The finished rows, in order."""
        left = self.done
        with self._path.open(encoding="utf-8") as file:
            next(file)
            while left:
                rows = json.loads(next(file))["rows"]
                left -= len(rows)
                yield from rows

    def _add(self, rows: Sequence[Row]) -> None:
        """Keep the rows of the next images."""
        line = {"stamps": self._stamps(self.done, len(rows)), "rows": list(rows)}
        with storage(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        self.done += len(rows)

    def __exit__(self, *_: object) -> None:
        """Close the file, and leave it for the next process."""
        with suppress(OSError):  # what could not be written has been said
            self._file.close()

    def remove(self) -> None:
        """Remove the file: the table is written."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _begin(self) -> None:
        """Write a journal without rows."""
        try:
            self._path.write_text(self._head, encoding="utf-8")
        except BaseException:
            self._path.unlink(missing_ok=True)
            raise

    def _take_over(self, old: Path, out: Path) -> None:
        """Use the journal of a killed process, or remove it if it is of another request."""
        with suppress(OSError, ValueError):  # another process was faster, or it is damaged
            with old.open(encoding="utf-8") as file:
                head = file.readline()
            whole = head.endswith("\n")  # a full disk may have cut it off
            if head == self._head and not self._path.exists():
                old.rename(self._path)
            elif not whole or head == self._head or json.loads(head)["out"] == str(out.absolute()):
                old.unlink()

    def _valid(self) -> tuple[int, int]:
        """Number of rows whose images have not changed since, and where their lines end."""
        done = 0
        with self._path.open("rb") as file:
            end = len(file.readline())
            for line in file:
                try:
                    batch = json.loads(line)
                    n = len(batch["rows"])
                    if not n or not line.endswith(b"\n"):
                        break
                    if batch["stamps"] != self._stamps(done, n):
                        break
                except (ValueError, LookupError, TypeError):  # cut off by the kill
                    break
                done += n
                end += len(line)
        return done, end

    def _stamps(self, start: int, n: int) -> str:
        """Checksum of the names and states of `n` images."""
        about = [[self._files[i], self._stamp(i)] for i in range(start, start + n)]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]

    def _open_at(self, end: int) -> TextIO:
        with self._path.open("r+b") as file:
            file.truncate(end)
        return self._path.open("a", encoding="utf-8")
