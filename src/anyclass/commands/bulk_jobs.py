"""What a worker of bulk work computes for `predict`, `embed` and `describe`."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from anyclass.backbone import EngineName
from anyclass.bulk.chunks import Chunk
from anyclass.bulk.results import Tally
from anyclass.bulk.worker import Answer
from anyclass.commands.predict import load
from anyclass.run.tables import PREDICTION, Row, prediction_rows

Say = Callable[[str], None]
"""Takes warnings."""


@dataclass(frozen=True)
class PredictJob:
    """A row of a prediction table per image; fields as of `predict`."""

    run: Path
    device: str
    allow_pickle: bool
    engine: EngineName
    min_score: float
    model: str | None

    def open(self, cpus: int, say: Say) -> Callable[[Chunk], Answer]:
        """Load the classifier of the run."""
        torch.set_num_threads(cpus)
        classifier = load(self.run, self.device, self.allow_pickle, self.engine, model=self.model)
        loading = classifier.loading(readers(cpus))

        def compute(chunk: Chunk) -> Answer:
            found: dict[str, Row] = {}
            files = chunk.dataset.files
            for part in classifier.stream(chunk.dataset, loading):
                found |= prediction_rows(part, files, classifier.classes, self.min_score)
            rows = [found[file] | {"file_name": name} for file, name in named(chunk)]
            return answer(rows, PREDICTION, labels=True)

        return compute


def readers(cpus: int) -> int:
    """Processes that decode images beside a worker: none where it has one core."""
    return 0 if cpus == 1 else cpus


def named(chunk: Chunk) -> Iterator[tuple[str, str]]:
    """Name of each image in the data set, and in the result."""
    return zip(chunk.dataset.files, chunk.names, strict=True)


def answer(rows: Sequence[Row], schema: pa.Schema, labels: bool = False) -> Answer:
    """Rows as a table, counted as `predict` counts.

    Args:
        rows: the rows.
        schema: columns of the table.
        labels: whether an image without a label is unsure.
    """
    read = [row for row in rows if row["status"] != "rejected"]
    classes = Counter(row["label"] for row in read if labels and row["label"] is not None)
    counts = Counter({"rejected": len(rows) - len(read)})
    if labels:
        counts["unsure"] = len(read) - classes.total()
    table = pa.Table.from_pylist(rows, schema=schema)
    return Answer(table, Tally(len(rows), counts, classes))
