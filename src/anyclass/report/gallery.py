"""Samples of the images and texts of a run for its report, small and safe.

Control and bidi characters are removed from every text, and long texts are cut; escaping is left to
the caller. Every image is decoded and encoded again.
"""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from anyclass.data import Limits
from anyclass.data.memory import read_item
from anyclass.errors import AnyclassError, ImageError

Json = dict[str, Any]
"""A JSON object: the content of a file of the run, or a part of the summary."""
Thumbnail = Callable[[str], str | None]
"""File name of an image -> its thumbnail as a data URI, or `None`."""

SIDE = 112
"""Longer side of a thumbnail, in pixels."""
GALLERY = 200
"""Most images in the gallery; with more classes than that, one image for each of the first ones."""
PER_CLASS = 10
"""Most images of one class in the gallery."""
LISTED = 24
"""Most images or texts in any other list."""
INSTRUCTION = re.compile(
    r"\b(ignore|disregard|forget|override)\b.{0,60}\b(previous|prior|above|instructions?|rules)\b"
    r"|\b(system prompt|as an ai|you are an? (ai|assistant))\b",
    re.IGNORECASE | re.DOTALL,
)
"""A description that reads like an instruction, which may have been written into an image."""


def plain(text: object, limit: int = 160) -> str:
    """Convert to one line of at most `limit` characters, without control and bidi characters."""
    kept = "".join(c if c.isprintable() or c in "\u200c\u200d" else " " for c in str(text))
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def title(key: str) -> str:
    """Words of a key."""
    return plain(key.replace("_", " "))


def thumbnail(root: Path, file_name: str) -> str | None:
    """Encode an image as a small JPEG in a data URI; `None` if it can no longer be read."""
    return item_thumbnail(root / file_name, root)


def item_thumbnail(item: Any, root: Path | None = None) -> str | None:
    """Encode an image as a small JPEG in a data URI; `None` if it cannot be read.

    Args:
        item: a path, or an image in memory.
        root: folder that a file must be inside of; None: anywhere.
    """
    try:
        image = read_item(item, root, Limits())[1]
    except ImageError:
        return None
    image.thumbnail((SIDE, SIDE))
    with BytesIO() as jpeg:
        image.save(jpeg, "JPEG", quality=75)
        return "data:image/jpeg;base64," + b64encode(jpeg.getvalue()).decode("ascii")


def no_image(file_name: str) -> None:
    """No thumbnail: for reports without images."""


def thumbnails_of(images: str | None, memory: Mapping[str, Any] | None = None) -> Thumbnail:
    """Thumbnails of images in a folder or in memory; none where there are only features."""
    if memory is not None:
        return lambda file: item_thumbnail(memory.get(file))
    return partial(thumbnail, Path(images)) if images else no_image


def gallery(labels: Sequence[str], table: pa.Table, thumbnail_of: Thumbnail) -> list[list[Json]]:
    """Sample images of each predicted label, evenly from the highest to the lowest score."""
    each = min(PER_CLASS, max(1, GALLERY // max(1, len(labels))))
    samples = []
    for label in labels[:GALLERY]:
        predicted = table.filter(pc.field("label") == label).sort_by([("score", "descending")])
        rows = predicted.take(_evenly_spaced(len(predicted), each))
        samples.append(image_rows(rows, thumbnail_of))
    return samples


def tiles(files: Sequence[str], most: int, thumbnail_of: Thumbnail) -> list[Json]:
    """The first `most` images, each as `file_name` and thumbnail `src`."""
    return [{"file_name": plain(file), "src": thumbnail_of(file)} for file in files[:most]]


def image_rows(table: pa.Table, thumbnail_of: Thumbnail) -> list[Json]:
    """The first rows of a prediction table as dicts, each with its thumbnail `src`."""
    rows = []
    for row in table.slice(0, LISTED).to_pylist():
        cells = {key: plain(cell) if isinstance(cell, str) else cell for key, cell in row.items()}
        rows.append(cells | {"src": thumbnail_of(row["file_name"])})
    return rows


def descriptions(path: Path, names: Sequence[str], thumbnail_of: Thumbnail) -> list[Json]:
    """Summarise each kind in `descriptions.jsonl`: count, suspicious ones, and a sample."""
    kinds: dict[str, list[Json]] = {}
    for line in lines(path):
        kinds.setdefault(line["kind"], []).append(line)
    return [
        {
            "kind": plain(kind),
            "count": len(texts),
            "instructions": sum(bool(INSTRUCTION.search(line["text"])) for line in texts),
            "lines": [_description(line, names, thumbnail_of) for line in _sample(texts)],
        }
        for kind, texts in kinds.items()
    ]


def lines(path: Path) -> Iterator[Json]:
    """Read the objects of a JSON Lines file; none if the file does not exist.

    Raises:
        AnyclassError: a line is damaged; the message names it.
    """
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise AnyclassError(f"{path} is damaged in line {number}: {error}") from error


def _sample(texts: Sequence[Json]) -> list[Json]:
    """At most `LISTED` descriptions: some that read like instructions, and some of the others."""
    instructions = [line for line in texts if INSTRUCTION.search(line["text"])]
    others = [line for line in texts if not INSTRUCTION.search(line["text"])]
    first = instructions[: LISTED // 4]
    return [*first, *(others[i] for i in _evenly_spaced(len(others), LISTED - len(first)))]


def _evenly_spaced(count: int, most: int) -> Int64[np.ndarray, " n"]:
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
        "of": plain(line.get("class") or line.get("file_name"), 80),
        "text": plain(text, 400),
        "images": [thumbnail_of(file) for file in files[:3]],
        "odd": remarks,
    }
