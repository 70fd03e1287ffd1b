"""Files with the same content, found without reading all of them."""

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from anyclass.data.content_hash import content_hash
from anyclass.data.dataset import ImageDataset
from anyclass.errors import ImageError

HEAD = 4096
"""Bytes that are compared before whole files are."""
THREADS = 8
"""Files that are read at a time."""


class Place(NamedTuple):
    """A file, and the folder that it must be inside of."""

    path: Path
    root: Path


def places(dataset: ImageDataset) -> list[Place]:
    """Places of all images."""
    return [Place(dataset.path(i), dataset.root) for i in range(len(dataset))]


class Copies(NamedTuple):
    """Files with the same content."""

    groups: list[list[int]]
    """Indices of files with one content, two or more each, in order."""
    linked: frozenset[int]
    """Indices of files that are links to one file, or hard links of one."""


def same_content(files: Sequence[Place]) -> Copies:
    """Group files by content.

    Files of one size are compared by their first bytes, and those that agree by SHA-256. Links to
    one file are read once. Files that cannot be read are left out.

    Args:
        files: the files.
    """
    status = {index: _status(place.path) for index, place in enumerate(files)}
    same_file = _grouped(range(len(files)), lambda i: _identity(status[i]), least=1)
    alike = _grouped([indices[0] for indices in same_file], lambda i: _size(status[i]))
    for key in (_head, _content):
        alike = _refined(alike, files, key)
    partners = {group[0]: group for group in alike}
    others = {index for group in alike for index in group[1:]}
    members = {indices[0]: indices for indices in same_file}
    found = []
    for first in members:
        if first not in others:
            joined = partners.get(first, [first])
            found.append(sorted(index for one in joined for index in members[one]))
    linked = frozenset(index for group in same_file if len(group) > 1 for index in group)
    return Copies(sorted(group for group in found if len(group) > 1), linked)


def linked_files(paths: Mapping[int, Path]) -> frozenset[int]:
    """Keys of the paths that lead to one file with another path."""
    status = {key: _status(path) for key, path in paths.items()}
    groups = _grouped(list(paths), lambda key: _identity(status[key]))
    return frozenset(key for group in groups for key in group)


def _refined(
    groups: Sequence[Sequence[int]],
    files: Sequence[Place],
    key: Callable[[Place], Hashable],
) -> list[list[int]]:
    """The groups, split by a key of their files, which are read in parallel."""
    indices = [index for group in groups for index in group]
    with ThreadPoolExecutor(THREADS) as threads:
        keys = threads.map(key, [files[index] for index in indices])
        key_of = dict(zip(indices, keys, strict=True))
    return [part for group in groups for part in _grouped(group, lambda i: key_of[i])]


def _identity(status: os.stat_result | None) -> Hashable:
    """What links to one file share; None for what is no file."""
    return None if status is None else (status.st_dev, status.st_ino)


def _size(status: os.stat_result | None) -> Hashable:
    """Size of a file; None for what is no file."""
    return None if status is None else status.st_size


def _status(path: Path) -> os.stat_result | None:
    """Status of a regular file; None for anything else."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _grouped(
    indices: Sequence[int], key: Callable[[int], Hashable], least: int = 2
) -> list[list[int]]:
    """Groups of `least` or more indices with the same key; the key None is left out."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index in indices:
        groups[key(index)].append(index)
    return [group for value, group in groups.items() if value is not None and len(group) >= least]


def _head(place: Place) -> bytes | None:
    """The first bytes of a file; None if it cannot be read."""
    try:
        with place.path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return None


def _content(place: Place) -> str | None:
    """SHA-256 of a file; None if it cannot be read."""
    try:
        return content_hash(*place)
    except ImageError:
        return None
