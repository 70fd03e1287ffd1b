"""Images of bulk work: a folder of files, Parquet with a column of bytes, or WebDataset archives.

They are divided into parts before anything is computed, the same parts each time: part i becomes
file i of the result.

    images       about `part_size` files, in the order of their names
    parquet      whole row groups of a file, about `part_size` rows
    webdataset   one archive
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from pyarrow import parquet

from anyclass.bulk import storage
from anyclass.bulk.archives import is_image
from anyclass.bulk.tables import check_columns
from anyclass.data.listing import OTHER, Listing, walk
from anyclass.errors import RequestError

Kind = Literal["images", "parquet", "webdataset"]
"""How images are stored."""

ARCHIVES = (".tar", ".tar.gz", ".tgz")
"""Endings of WebDataset archives."""


class Part(NamedTuple):
    """Images that become one file of the result."""

    number: int
    """Number of the part."""
    files: tuple[str, ...]
    """Images; or one table; or one archive."""
    groups: tuple[int, ...] = ()
    """Row groups of the table."""

    @classmethod
    def of(cls, text: str) -> "Part":
        """Read a part that `json.dumps` wrote."""
        number, files, groups = json.loads(text)
        return cls(number, tuple(files), tuple(groups))

    @property
    def images(self) -> str:
        """The first and the last of its images, for messages."""
        ends = self.files[0] if len(self.files) == 1 else f"{self.files[0]} ... {self.files[-1]}"
        return f"{ends}, row groups {self.groups}" if self.groups else ends


class Source(NamedTuple):
    """All images, in parts."""

    place: str
    """Folder or address that all names are below."""
    kind: Kind
    """How they are stored."""
    parts: Sequence[Part]
    """The parts, in order."""
    checksum: str
    """Changes when a name, a size or a time does."""
    total: int | None
    """Number of images; None: archives do not tell."""
    messages: tuple[str, ...] = ()
    """What is left out, one sentence each."""


def read_source(images: Path | str, part_size: int, image_column: str | None = None) -> Source:
    """List images and divide them into parts.

    Args:
        images: folder or address of images, of Parquet files, or of archives; or one such file.
        part_size: images of a part, about.
        image_column: column of Parquet files that holds the images.

    Raises:
        RequestError: there are none.
    """
    here = storage.local(str(images))
    place = str(images) if here is None else str(here.resolve())
    listed = walk(Path(place)) if here is not None and here.is_dir() else None
    if listed is not None and any(map(is_image, listed.files)):  # as every other command lists them
        return _of_files(place, _stamped(place, listed), part_size, listed.skipped)
    files = [file for file in storage.listing(place) if not _hidden(file.name)]
    place = storage.folder_of(place)
    tables = [file for file in files if file.name.endswith(".parquet")]
    archives = [file for file in files if file.name.endswith(ARCHIVES)]
    has_images = listed is None and any(is_image(file.name) for file in files)
    if archives and not has_images:
        parts = [Part(i, (file.name,)) for i, file in enumerate(archives)]
        return Source(place, "webdataset", parts, checksum(archives), None)
    if tables and not has_images:
        return _of_tables(place, tables, part_size, image_column)
    if listed is not None:
        return _of_files(place, _stamped(place, listed), part_size, listed.skipped)
    files = [file for file in files if PurePosixPath(file.name).suffix.lower() not in OTHER]
    return _of_files(place, files, part_size)


def _stamped(root: str, listed: Listing) -> list[storage.File]:
    """Images of a folder on this machine, with size and time."""
    return storage.stamped(Path(root), listed.files)


def _of_files(
    place: str, files: Sequence[storage.File], part_size: int, messages: tuple[str, ...] = ()
) -> Source:
    """Images as files."""
    if not files:
        raise RequestError(f"there is no image in {place}. {' '.join(messages)}".rstrip())
    names = [file.name for file in files]
    starts = range(0, len(names), part_size)
    parts = [Part(i, tuple(names[at : at + part_size])) for i, at in enumerate(starts)]
    return Source(place, "images", parts, checksum(files), len(names), messages)


def _of_tables(
    place: str, files: Sequence[storage.File], part_size: int, image_column: str | None
) -> Source:
    """Row groups of Parquet files; those of no rows are left out."""

    def groups(name: str) -> list[int]:
        filesystem, root = storage.opened(place)
        with parquet.ParquetFile(f"{root}/{name}", filesystem=filesystem) as table:
            check_columns(table.schema_arrow, name, image_column)
            meta = table.metadata
            return [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]

    names = [file.name for file in files]
    sizes = storage.in_threads(groups, names)
    parts: list[Part] = []
    for name, rows in zip(names, sizes, strict=True):
        for some in _joined(rows, part_size):
            parts.append(Part(len(parts), (name,), some))
    total = sum(chain.from_iterable(sizes))
    if not total:
        raise RequestError(f"the Parquet files in {place} have no rows")
    return Source(place, "parquet", parts, checksum(files), total)


def _joined(rows: Sequence[int], part_size: int) -> Iterator[tuple[int, ...]]:
    """Consecutive row groups that have `part_size` rows together, or are the last."""
    some: list[int] = []
    count = 0
    for group, size in enumerate(rows):
        if size:
            some.append(group)
            count += size
        if count >= part_size:
            yield tuple(some)
            some = []
            count = 0
    if some:
        yield tuple(some)


def _hidden(name: str) -> bool:
    """Whether a file or a folder above it is hidden."""
    return any(part.startswith(".") for part in name.split("/"))


def checksum(files: Sequence[storage.File]) -> str:
    """Checksum of names, sizes and times."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(json.dumps(list(file)).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
