"""What a worker of bulk work computes for `predict`, `embed` and `describe`."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from anyclass.backbone import Backbone, EngineName
from anyclass.backbone.device import torch_device
from anyclass.backbone.engine import engine
from anyclass.bulk.chunks import Chunk
from anyclass.bulk.results import Tally
from anyclass.bulk.worker import ChunkResult
from anyclass.captioning import AnyCaptioner, CaptionContext, CaptionRequest
from anyclass.commands.predict import load_classifier
from anyclass.data import ImageDataset, Rejection
from anyclass.data.image import Decoding
from anyclass.features.domains import domain as domain_of
from anyclass.features.stream import StreamResources, stream
from anyclass.run.columns import PREDICTION, REJECTED
from anyclass.run.tables import Row, prediction_rows, rejected_row

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

    def open(self, cpus: int, say: Say) -> Callable[[Chunk], ChunkResult]:
        """Load the classifier of the run."""
        torch.set_num_threads(cpus)
        classifier = load_classifier(
            self.run, self.device, self.allow_pickle, self.engine, model=self.model
        )
        resources = classifier.stream_resources(readers(cpus))

        def compute(chunk: Chunk) -> ChunkResult:
            found: dict[str, Row] = {}
            files = chunk.dataset.files
            for part in classifier.stream(chunk.dataset, resources):
                found |= prediction_rows(part, files, classifier.classes, self.min_score)
            rows = [found[file] | {"file_name": name} for file, name in named(chunk)]
            return counted(rows)

        return compute


@dataclass(frozen=True)
class EmbedJob:
    """The features of each image; fields as of `embed`."""

    model: str
    device: str
    allow_pickle: bool
    engine: EngineName
    decoding: Decoding
    extra: bool
    half: bool

    def open(self, cpus: int, say: Say) -> Callable[[Chunk], ChunkResult]:
        """Load the model."""
        clip, resources = _opened(self, cpus, self.decoding)
        width = clip.fingerprint().shape[1]
        number = np.float16 if self.half else np.float32

        def features(hidden: Shaped[Tensor, "b H"]) -> Float[Tensor, "b E"]:
            x = clip.tail(hidden, "head")
            return torch.cat([x, clip.pooled(hidden, "head")], dim=1) if self.extra else x

        with torch.no_grad():
            columns_of_rows = features(clip.trunk(clip.synthetic(), "head")).shape[1]

        def compute(chunk: Chunk) -> ChunkResult:
            read, rows, bad = _streamed(clip, chunk.dataset, features, resources)
            rows = rows.reshape(len(read), columns_of_rows)
            there = np.zeros(len(chunk.names), bool)
            there[read] = True
            columns: dict[str, Any] = {"file_name": pa.array(chunk.names, pa.string())}
            columns["features"] = _vectors(rows[:, :width].astype(number), there)
            if self.extra:
                columns["extra"] = _vectors(rows[:, width:].astype(number), there)
            for name in ("status", "reason"):
                marks = [row[name] for row in _marks(chunk, bad)]
                columns[name] = pa.array(marks, pa.string())
            return ChunkResult(pa.table(columns), Tally(len(there), Counter(rejected=len(bad))))

        return compute


DESCRIPTION = pa.schema(
    [
        (name, pa.string())
        for name in ("file_name", "text", "captioner", "model", "question", "status", "reason")
    ]
)
"""Columns of descriptions: those of `describe`, and why there is none."""


@dataclass(frozen=True)
class DescribeJob:
    """The text of each image; fields as of `describe`."""

    captioner: AnyCaptioner
    domain: str
    plural: str
    model: str
    device: str
    allow_pickle: bool
    engine: EngineName

    def open(self, cpus: int, say: Say) -> Callable[[Chunk], ChunkResult]:
        """Load the model."""
        clip, resources = _opened(self, cpus)
        phrases = domain_of(self.domain, self.plural)
        question = phrases.ask_image()
        width = clip.fingerprint().shape[1]

        def log(**numbers: Any) -> None:
            if "warning" in numbers:
                say(f"warning: {numbers['warning']}")

        def compute(chunk: Chunk) -> ChunkResult:
            read, rows, bad = _streamed(
                clip, chunk.dataset, lambda hidden: clip.tail(hidden, "head"), resources
            )
            readable = chunk.dataset[read]
            rows = rows.reshape(len(read), width)
            requests = [CaptionRequest((i,), question, phrases.noun) for i in range(len(read))]
            context = CaptionContext(readable, clip, torch.from_numpy(rows))
            texts = self.captioner.describe(requests, context, log)
            author = self.captioner.answered_by or None
            about = {"captioner": self.captioner.kind, "model": author, "question": question}
            found = _marks(chunk, bad)
            for i, text in zip(read, texts, strict=True):
                found[i] |= {"text": text, **about}
            counts = Counter(rejected=len(bad), without_text=texts.count(None))
            table = pa.Table.from_pylist(found, schema=DESCRIPTION)
            return ChunkResult(table, Tally(len(found), counts))

        return compute


def _opened(
    job: EmbedJob | DescribeJob, cpus: int, decoding: Decoding = "full"
) -> tuple[Backbone, StreamResources]:
    """The model of a job, and what its calls of `stream` share."""
    torch.set_num_threads(cpus)
    device = torch_device(job.device)
    clip = Backbone.load(job.model, device, job.allow_pickle, job.engine, decoding=decoding)
    return clip, StreamResources(readers(cpus), engine(clip, "head"))


@torch.no_grad()
def _streamed(
    clip: Backbone,
    dataset: ImageDataset,
    features: Callable[[Tensor], Tensor],
    resources: StreamResources,
) -> tuple[list[int], Float[np.ndarray, "n E"], dict[str, Rejection]]:
    """Indices of the readable images, their features, and the rejections by name."""
    read: list[int] = []
    parts: list[Tensor] = []
    bad: dict[str, Rejection] = {}
    for index, rows, rejections in stream(clip, dataset, "head", features, resources):
        read += index
        if index:
            parts.append(rows)
        bad |= {row.file_name: row for row in rejections}
    return read, torch.cat(parts or [torch.empty(0, 0)]).numpy(), bad


def _marks(chunk: Chunk, bad: Mapping[str, Rejection]) -> list[Row]:
    """Name, status and reason of each image."""
    rows: list[Row] = []
    for file, name in named(chunk):
        row = rejected_row(bad[file]) if file in bad else {"status": "ok", "reason": None}
        rows.append(row | {"file_name": name})
    return rows


def _vectors(rows: Float[np.ndarray, "n D"], there: Bool[np.ndarray, " N"]) -> pa.Array:
    """A column of vectors, null where there is none."""
    matrix = np.zeros((len(there), rows.shape[1]), rows.dtype)
    matrix[there] = rows
    flat = pa.array(matrix.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1], mask=pa.array(~there))


def readers(cpus: int) -> int:
    """Processes that decode images beside a worker: none where it has one core."""
    return 0 if cpus == 1 else cpus


def named(chunk: Chunk) -> Iterator[tuple[str, str]]:
    """Name of each image in the data set, and in the result."""
    return zip(chunk.dataset.files, chunk.names, strict=True)


def counted(rows: Sequence[Row]) -> ChunkResult:
    """Rows of predictions as a table, counted as `predict` counts."""
    read = [row for row in rows if row["status"] != REJECTED]
    classes = Counter(row["label"] for row in read if row["label"] is not None)
    rejected = len(rows) - len(read)
    counts = Counter({"rejected": rejected, "unsure": len(read) - classes.total()})
    table = pa.Table.from_pylist(rows, schema=PREDICTION)
    return ChunkResult(table, Tally(len(rows), counts, classes))
