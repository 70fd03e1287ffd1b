"""Samples of the images and texts of a run for its report."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from anyclass.files import Json
from anyclass.report.thumbnails import Thumbnail
from anyclass.report.words import plain
from anyclass.run.content import lines

GALLERY = 200
"""Maximum number of images in the gallery; with more classes than that, one image for each of the
first ones."""
PER_CLASS = 10
"""Maximum number of images of one class in the gallery."""
COMPACT = 2
"""Images per class up to which classes share a line of the gallery."""
LISTED = 24
"""Maximum number of images or texts in any other list."""
SHOWN = 2
"""Maximum number of images of a described group."""
INSTRUCTION = re.compile(
    r"\b(ignore|disregard|forget|override)\b.{0,60}\b(previous|prior|above|instructions?|rules)\b"
    r"|\b(system prompt|as an ai|you are an? (ai|assistant))\b"
    r"|\b(answer|reply|respond)\s+(only|just|with|that)\b",
    re.IGNORECASE | re.DOTALL,
)
"""A description that reads like an instruction, which may have been written into an image."""


def gallery(rows: Sequence[Json], table: pa.Table, thumbnail_of: Thumbnail) -> list[Json]:
    """The classes with images, each with a sample from the highest to the lowest score.

    Args:
        rows: rows of the classes, with their `label` in the table.
        table: predictions.
        thumbnail_of: makes thumbnails.
    """
    present = set(table["label"].to_pylist())
    shown = [row for row in rows if row["label"] in present][:GALLERY]
    each = min(PER_CLASS, max(1, GALLERY // max(1, len(shown))))
    found = []
    for row in shown:
        some = table.filter(pc.field("label") == row["label"]).sort_by([("score", "descending")])
        sample = image_tiles(some.take(evenly_spaced(len(some), each)), thumbnail_of)
        found.append({"row": row, "images": sample, "compact": each <= COMPACT})
    return found


def tiles(files: Sequence[str], most: int, thumbnail_of: Thumbnail) -> list[Json]:
    """The first `most` images, each as `file_name` and thumbnail `src`."""
    return [{"file_name": plain(file), "src": thumbnail_of(file)} for file in files[:most]]


def image_tiles(table: pa.Table, thumbnail_of: Thumbnail) -> list[Json]:
    """The first rows of a prediction table as dicts, each with its thumbnail `src`."""
    rows = []
    for row in table.slice(0, LISTED).to_pylist():
        cells = {key: plain(cell) if isinstance(cell, str) else cell for key, cell in row.items()}
        rows.append(cells | {"src": thumbnail_of(row["file_name"])})
    return rows


def descriptions(path: Path, names: Sequence[str], thumbnail_of: Thumbnail) -> list[Json]:
    """Summarise each kind in `descriptions.jsonl`: count, instructions, weights, a sample.

    `weight` is the mean weight of a kind, and `most` the largest weight of a text of any kind;
    both are None where the texts have no weight.
    """
    kinds: dict[str, list[Json]] = {}
    for line in lines(path):
        if line["text"]:
            kinds.setdefault(line["kind"], []).append(line)
    most = max((weight for texts in kinds.values() for weight in _weights(texts)), default=None)
    found = []
    for kind, texts in sorted(kinds.items(), key=lambda row: row[0] == "class"):
        instructions: list[Json] = []
        others: list[Json] = []
        for line in texts:
            (instructions if INSTRUCTION.search(line["text"]) else others).append(line)
        sample = _sample(instructions, others)
        row = {
            "kind": plain(kind),
            "count": len(texts),
            "instructions": len(instructions),
            "weight": _mean(_weights(texts)),
            "most": most,
            "lines": [_description(line, names, thumbnail_of) for line in sample],
        }
        found.append(row)
    return found


def _weights(texts: Sequence[Json]) -> list[float]:
    """Weights of the texts that have one."""
    return [line["weight"] for line in texts if "weight" in line]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _sample(instructions: Sequence[Json], others: Sequence[Json]) -> list[Json]:
    """At most `LISTED` descriptions: some that read like instructions, and others by weight."""
    first = instructions[: LISTED // 4]
    others = sorted(others, key=lambda line: -line.get("weight", 0.0))
    return [*first, *(others[i] for i in evenly_spaced(len(others), LISTED - len(first)))]


def evenly_spaced(count: int, most: int) -> Int64[np.ndarray, " n"]:
    """At most `most` of the indices 0 ... count - 1, evenly spaced, both ends included."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def _description(line: Json, names: Sequence[str], thumbnail_of: Thumbnail) -> Json:
    """One description: its subject, text, thumbnails and remarks."""
    text = line["text"]
    files = line.get("files") or [line[key] for key in ("file_name",) if key in line]
    remarks = []
    if INSTRUCTION.search(text):
        remarks.append("reads like an instruction")
    if files and not any(name.casefold() in text.casefold() for name in names):
        remarks.append("names no class")
    return {
        "of": plain(str(line.get("class") or line.get("file_name") or ""), 80),
        "text": plain(text, 400),
        "weight": line.get("weight"),
        "images": [thumbnail_of(file) for file in files[:SHOWN]],
        "odd": remarks,
    }
