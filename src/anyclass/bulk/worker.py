"""A worker: holds the model, turns one part after the other into a Parquet file."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import pyarrow as pa

from anyclass.bulk import results, storage
from anyclass.bulk.chunks import Chunk, chunks
from anyclass.bulk.results import Tally
from anyclass.bulk.sources import Part, Source
from anyclass.data.image import one_line
from anyclass.errors import AnyclassError, RequestError

MOST = 4
"""Times that a part may be begun: what kills its worker each time is given up."""


class ChunkResult(NamedTuple):
    """Rows of some images."""

    rows: pa.Table
    """One per image, in order."""
    tally: Tally
    """What is in them."""


@runtime_checkable
class Job(Protocol):
    """What is computed of each image; must be picklable."""

    def open(self, cpus: int, say: Callable[[str], None]) -> Callable[[Chunk], ChunkResult]:
        """Load the model.

        Args:
            cpus: processor cores that may be used.
            say: takes warnings.
        """


@dataclass(frozen=True)
class Task:
    """What all workers know."""

    job: Job
    """What is computed."""
    source: Source
    """Where the images are; without the parts."""
    out: str
    """Folder of the result, or its address."""
    request: str
    """Checksum of the request."""
    cpus: int
    """Processor cores of a worker."""
    image_column: str | None
    """Column of Parquet files that holds the images."""
    folder: str
    """Folder that relative paths begin at."""


class Worker:
    """Computes parts. The model is loaded with the first."""

    def __init__(self, task: Task, begin: Callable[[int], int]) -> None:
        """Keep what is to be done.

        Args:
            task: what all workers know.
            begin: gets the number of a part, says how often it was begun.
        """
        self._task = task
        self._begin = begin
        self._said: list[str] = []
        self._compute: Callable[[Chunk], ChunkResult] | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Compute the parts in a batch of Ray Data: `part`, JSON of a `Part`.

        Returns a row for each: `part`, its number; `tally`; `error`, empty if there is none;
        `wrong`, whether the request is; `said`, warnings.
        """
        rows = [self._row(Part.of(text)) for text in batch["part"]]
        columns = {key: list[Any]() for key in rows[0]}
        for row in rows:
            for key, cell in row.items():
                columns[key].append(cell)
        return columns

    def _row(self, part: Part) -> dict[str, Any]:
        """Compute a part, and say how it went: errors travel as text, not as objects."""
        row = {"part": part.number, "tally": "", "error": "", "wrong": False}
        try:
            if self._begin(part.number) > MOST:
                raise AnyclassError(f"its worker was killed {MOST} times")
            row["tally"] = self.compute(part).text()
        except Exception as error:  # of any library, to be told where the command runs
            text = str(error) if isinstance(error, AnyclassError) else one_line(error)
            row |= {"error": text, "wrong": isinstance(error, RequestError)}
        said = json.dumps(self._said)
        self._said.clear()
        return row | {"said": said}

    def compute(self, part: Part) -> Tally:
        """Write the file of a part.

        Raises:
            RequestError: this machine does not see the folders.
        """
        if self._compute is None:
            self._compute = self._opened()
        task = self._task
        tables: list[pa.Table] = []
        tally = Tally()
        for chunk in chunks(task.source, part, task.image_column):
            result = self._compute(chunk)
            tables.append(result.rows)
            tally += result.tally
        results.write_part(task.out, task.request, part.number, tables, tally)
        return tally

    def _opened(self) -> Callable[[Chunk], ChunkResult]:
        """Look whether the folders are here, and load the model."""
        with suppress(OSError):  # only relative paths need it
            os.chdir(self._task.folder)
        if not results.is_there(self._task.out):
            raise RequestError(_unseen("--out", self._task.out))
        images = storage.local(self._task.source.place)
        if images is not None and not images.is_dir():
            raise RequestError(_unseen("--images", str(images)))
        return self._task.job.open(self._task.cpus, self._said.append)


def _unseen(flag: str, place: str) -> str:
    return (
        f"{flag} {place}: a machine of the cluster has no such folder; give one that all machines "
        "share, or an address of object storage"
    )
