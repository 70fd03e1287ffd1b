"""The result of bulk work: a folder of Parquet files, one per part, and a manifest.

    _manifest.json          what was asked for, written first; `result`, written last
    part-0000012.parquet    rows of part 12, written whole; counts in its metadata

A part that is there is complete. What is missing is computed when the same command runs again.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pyarrow as pa
from pyarrow import fs, parquet

from anyclass.bulk import storage
from anyclass.errors import FileError, RequestError
from anyclass.files import Json

MANIFEST = "_manifest.json"
"""Name of the manifest; what reads a folder of Parquet files passes over names with `_`."""

ROWS = 10_000
"""Rows of a Parquet group."""

_COUNTS = b"anyclass"
"""Key of the counts in the metadata of a file."""


@dataclass(frozen=True)
class Tally:
    """What is in one part, or in several."""

    rows: int = 0
    """Number of images."""
    counts: Counter[str] = field(default_factory=Counter)
    """How many of them were rejected, and the like."""
    labels: Counter[str] = field(default_factory=Counter)
    """Number of images of each class."""

    def __add__(self, other: "Tally") -> "Tally":
        """Counts of two disjoint sets of images together."""
        both = Tally(self.rows + other.rows, self.counts.copy(), self.labels.copy())
        both.counts.update(other.counts)  # `+` of counters drops what is 0
        both.labels.update(other.labels)
        return both

    def text(self) -> str:
        """Write the counts as JSON."""
        return json.dumps({"rows": self.rows, "counts": self.counts, "labels": self.labels})

    @classmethod
    def of(cls, text: str | bytes) -> "Tally":
        """Read what `text` wrote."""
        value = json.loads(text)
        return cls(value["rows"], Counter(value["counts"]), Counter(value["labels"]))


def part_name(number: int) -> str:
    """Name of the file of a part."""
    return f"part-{number:07}.parquet"


def checksum(request: Mapping[str, Any]) -> str:
    """Checksum of a request."""
    return sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def begin(out: str, request: Json, overwrite: bool) -> None:
    """Take a new folder, or one that was begun with the same request.

    Args:
        out: folder or address.
        request: what the rows depend on.
        overwrite: remove the parts of another request; other files stay.

    Raises:
        RequestError: it holds something else.
    """
    there = _names(out)
    text = storage.read(out, MANIFEST) if MANIFEST in there else None
    if text is None and there:
        raise RequestError(
            f"{out} exists already and is no result of this command: choose another --out"
        )
    if text is not None:
        before = _request(out, text)
        different = sorted(k for k in {*before, *request} if before.get(k) != request.get(k))
        if not different and not overwrite:
            return
        if not overwrite:
            raise RequestError(_otherwise(out, before, request, different))
        storage.remove(out, [MANIFEST, *(name for name in there if name.startswith("part-"))])
    _write_manifest(out, request, None)


def known(out: str, request: Json, parts: int) -> dict[int, Tally]:
    """The parts that are there, with what is in them; damaged files do not count."""
    names = set(_names(out))
    indices = [i for i in range(parts) if part_name(i) in names]
    found = storage.in_threads(
        lambda name: _tally(out, name, checksum(request)), [part_name(i) for i in indices]
    )
    return {i: tally for i, tally in zip(indices, found, strict=True) if tally is not None}


def write_part(
    out: str, request: str, number: int, tables: Sequence[pa.Table], tally: Tally
) -> None:
    """Write the rows of a part, whole or not at all.

    Args:
        out: folder or address.
        request: checksum of the request.
        number: number of the part.
        tables: its rows.
        tally: what is in it.
    """
    rows = pa.concat_tables(tables)
    about = {_COUNTS: json.dumps({"request": request, "tally": tally.text()})}
    sink = pa.BufferOutputStream()
    parquet.write_table(rows.replace_schema_metadata(about), sink, row_group_size=ROWS)
    storage.write(out, part_name(number), sink.getvalue().to_pybytes())


def read_part(out: str, number: int) -> pa.Table:
    """Rows of a part that is there."""
    filesystem, root = storage.opened(out)
    return parquet.read_table(f"{root}/{part_name(number)}", filesystem=filesystem)


def finish(out: str, request: Json, result: Json) -> None:
    """Note that all parts are there."""
    _write_manifest(out, request, result)


def is_there(out: str) -> bool:
    """Whether this machine sees a folder that was begun."""
    return storage.read(out, MANIFEST) is not None


def _write_manifest(out: str, request: Json, result: Json | None) -> None:
    content = {"request": request, "result": result}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write(out, MANIFEST, text.encode("utf-8", "backslashreplace"))


def _request(out: str, text: bytes) -> Json:
    """What a folder was begun with."""
    try:
        request: Json = json.loads(text)["request"]
        request.keys()
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise FileError(f"{out}/{MANIFEST} is damaged, or of another program") from error
    return request


def _otherwise(out: str, before: Json, request: Json, different: Sequence[str]) -> str:
    """What to say where a folder was begun with another request."""
    named = [key for key in different if not key.endswith("_checksum")]
    if named:
        name = named[0]
        what = f"{name.replace('_', '-')} was {before.get(name)}, now {request.get(name)}"
    else:
        of = different[0].removesuffix("_checksum")
        what = f"the files of the {of} have changed"
    return (
        f"{out} was begun with another request ({what}): repeat that one, choose another --out, "
        "or add --overwrite"
    )


def _tally(out: str, name: str, request: str) -> Tally | None:
    """What is in a part; None: it is damaged, or of another request."""
    filesystem, root = storage.opened(out)
    try:
        with parquet.ParquetFile(f"{root}/{name}", filesystem=filesystem) as file:
            about = json.loads((file.metadata.metadata or {})[_COUNTS])
            rows = file.metadata.num_rows
        tally = Tally.of(about["tally"])
    except (pa.ArrowInvalid, ValueError, LookupError, TypeError):
        return None
    return tally if about["request"] == request and tally.rows == rows else None


def _names(out: str) -> list[str]:
    """Names in a folder, but those of locks and temporary files."""
    filesystem, root = storage.opened(out)
    if filesystem.get_file_info(root).type == fs.FileType.File:
        raise RequestError(f"--out {out}: is a file; with --on ray it must be a folder")
    found = filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True))
    return [info.base_name for info in found if not info.base_name.startswith(".anyclass")]
