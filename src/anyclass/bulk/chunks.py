"""The images of a part, a few at a time, as data sets that every model reads."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from anyclass.bulk import archives, storage, tables
from anyclass.bulk.sources import Part, Source
from anyclass.bulk.tables import Item
from anyclass.data import Classes, ImageDataset
from anyclass.errors import ImageError

T = TypeVar("T")

CHUNK = 256
"""Maximum number of images whose files are in memory at once."""


class Chunk(NamedTuple):
    """Some images of a part."""

    names: tuple[str, ...]
    """Their names in the result; two may be the same."""
    dataset: ImageDataset
    """The images, in this order; its own names are all different."""


class _Files(dict[str, bytes | ImageError]):
    """Image files by name; asking for one that could not be read raises its error."""

    def __getitem__(self, name: str) -> bytes:
        value = super().__getitem__(name)
        if isinstance(value, ImageError):
            raise value
        return value


def chunks(source: Source, part: Part, image_column: str | None = None) -> Iterator[Chunk]:
    """The images of a part, in order; one chunk at least.

    Args:
        source: where they are.
        part: the part.
        image_column: column of Parquet files that holds the images, if it was named.

    Raises:
        OSError: the storage cannot be reached, which says nothing of the images.
    """
    root = storage.local(source.place)
    if source.kind == "images" and root is not None:
        labels = np.full(len(part.files), -1)
        yield Chunk(part.files, ImageDataset(root, part.files, labels, Classes.of([])))
        return
    empty = True
    for items in _items(source, part, image_column):
        empty = False
        yield _chunk(items)
    if empty:  # an archive without images
        yield _chunk([])


def _items(source: Source, part: Part, image_column: str | None) -> Iterator[list[Item]]:
    """Names and files of images, some at a time."""
    filesystem, folder = storage.opened(source.place)
    file = part.files[0]
    path = f"{folder}/{file}"
    if source.kind == "parquet":
        yield from tables.items(filesystem, path, file, part.groups, image_column, CHUNK)
    elif source.kind == "webdataset":
        with filesystem.open_input_stream(path, compression=None) as stream:
            yield from _some(archives.items(stream, file))
    else:
        for names in _some(part.files):
            yield list(zip(names, storage.read_all(source.place, names), strict=True))


def _some(values: Iterable[T]) -> Iterator[list[T]]:
    """A few values at a time."""
    waiting = iter(values)
    while some := list(islice(waiting, CHUNK)):
        yield some


def _chunk(items: list[Item]) -> Chunk:
    """Images in memory; their names in the data set are numbers, since names may occur twice."""
    files = tuple(str(i) for i in range(len(items)))
    memory = _Files(zip(files, (content for _, content in items), strict=True))
    labels = np.full(len(items), -1)
    dataset = ImageDataset(Path(), files, labels, Classes.of([]), memory=memory)
    return Chunk(tuple(name for name, _ in items), dataset)
