"""What a report shows of the images and texts of a run: samples, made small and safe.

Every text that comes out of here has lost its control and bidi characters and is cut to length;
escaping it is left to whoever writes it down. Every image is decoded and encoded again.
"""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from anyclass.data import open_image
from anyclass.errors import AnyclassError, ImageError

Json = dict[str, Any]
"""A JSON object: what a file of the run holds, or a part of the summary."""
Draw = Callable[[str], str | None]
"""File name of an image -> its thumbnail as a data URI, or `None`."""

SIDE = 112
"""Longer side of a thumbnail, in pixels."""
GALLERY = 200
"""Most images in the gallery; with more classes than that, the first ones show one each."""
PER_CLASS = 10
"""Most images of one class in the gallery."""
LISTED = 24
"""Most images or texts in any other list."""
ORDER = re.compile(
    r"\b(ignore|disregard|forget|override)\b.{0,60}\b(previous|prior|above|instructions?|rules)\b"
    r"|\b(system prompt|as an ai|you are an? (ai|assistant))\b",
    re.IGNORECASE | re.DOTALL,
)
"""A description that reads like an instruction: somebody may have written it into an image."""


def plain(text: object, limit: int = 160) -> str:
    """`text` in one line of at most `limit` characters, without control and bidi characters."""
    kept = "".join(c if c.isprintable() or c in "\u200c\u200d" else " " for c in str(text))
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def thumbnail(root: Path, file_name: str) -> str | None:
    """The image as a small JPEG in a data URI; `None` when it cannot be used any more."""
    try:
        image = open_image(root / file_name, root)
    except ImageError:
        return None
    image.thumbnail((SIDE, SIDE))
    with BytesIO() as jpeg:
        image.save(jpeg, "JPEG", quality=75)
        return "data:image/jpeg;base64," + b64encode(jpeg.getvalue()).decode("ascii")


def gallery(labels: Sequence[str], table: pa.Table, draw: Draw) -> list[list[Json]]:
    """For each label images that got it, evenly spread from the surest to the least sure."""
    each = min(PER_CLASS, max(1, GALLERY // max(1, len(labels))))
    features = []
    for label in labels[:GALLERY]:
        mine = table.filter(pc.field("label") == label).sort_by([("score", "descending")])
        features.append(images(mine.take(_spread(len(mine), each)), draw))
    return features


def chosen(files: Sequence[str], most: int, draw: Draw) -> list[Json]:
    """The first of some images, each with its name and `src`, its thumbnail."""
    return [{"file_name": plain(file), "src": draw(file)} for file in files[:most]]


def images(table: pa.Table, draw: Draw) -> list[Json]:
    """The first rows of a table of predictions as dicts, each with `src`, its thumbnail."""
    return [
        {key: plain(value) if isinstance(value, str) else value for key, value in row.items()}
        | {"src": draw(row["file_name"])}
        for row in table.slice(0, LISTED).to_pylist()
    ]


def descriptions(path: Path, names: Sequence[str], draw: Draw) -> list[Json]:
    """For each kind in `descriptions.jsonl`: count, how many are suspicious, and a sample."""
    kinds: dict[str, list[Json]] = {}
    for line in lines(path):
        kinds.setdefault(line["kind"], []).append(line)
    return [
        {
            "kind": plain(kind),
            "count": len(told),
            "orders": sum(bool(ORDER.search(line["text"])) for line in told),
            "lines": [_description(line, names, draw) for line in _sample(told)],
        }
        for kind, told in kinds.items()
    ]


def lines(path: Path) -> Iterator[Json]:
    """The objects of a JSON Lines file; none if there is no such file.

    Raises:
        AnyclassError: a line is damaged; the message says which.
    """
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise AnyclassError(f"{path} is damaged in line {number}: {error}") from error


def _sample(told: Sequence[Json]) -> list[Json]:
    """At most `LISTED` descriptions: some that read like instructions, the others evenly spread."""
    orders = [line for line in told if ORDER.search(line["text"])]
    others = [line for line in told if not ORDER.search(line["text"])]
    features = orders[: LISTED // 4]
    return [*features, *(others[i] for i in _spread(len(others), LISTED - len(features)))]


def _spread(count: int, most: int) -> Int64[np.ndarray, " n"]:
    """At most `most` of the indices 0 ... count - 1, at even distances, both ends included."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def _description(line: Json, names: Sequence[str], draw: Draw) -> Json:
    """One description: of what, its text, thumbnails, and what is odd about it."""
    text = line["text"]
    files = line.get("files") or [line[key] for key in ("file_name",) if key in line]
    nameless = files and not any(name.casefold() in text.casefold() for name in names)
    return {
        "of": plain(line.get("class") or line.get("file_name"), 80),
        "text": plain(text, 400),
        "images": [draw(file) for file in files[:3]],
        "odd": ["reads like an instruction"] * bool(ORDER.search(text))
        + ["names no class"] * bool(nameless),
    }
