"""Files with the same content, found without reading all of them."""

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from anyclass.data.dataset import ImageDataset
from anyclass.data.loader import content_hash
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
    """Those of them that are links to one file, or hard links of one."""


def same_content(files: Sequence[Place]) -> Copies:
    """Group files by content.

    Files of one size are compared by their first bytes, and those that agree by SHA-256. Links to
    one file are read once. Files that cannot be read are left out.

    Args:
        files: the files.
    """
    status = [_status(place.path) for place in files]
    by_inode: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, found in enumerate(status):
        if found is not None:
            by_inode[found.st_dev, found.st_ino].append(index)
    first = [indices[0] for indices in by_inode.values()]
    sizes = [found.st_size if found else 0 for found in status]
    alike = _grouped(first, lambda i: sizes[i])
    with ThreadPoolExecutor(THREADS) as threads:
        for key in (_head, _content):
            candidates = [index for group in alike for index in group]
            keys = threads.map(key, [files[index] for index in candidates])
            known = dict(zip(candidates, keys, strict=True))
            alike = [
                group for some in alike for group in _grouped(some, lambda i, k=known: k[i])
            ]
    joined = {index: group for group in alike for index in group}
    groups: dict[int, list[int]] = {}
    for indices in by_inode.values():
        group = joined.get(indices[0], [indices[0]])
        groups.setdefault(group[0], []).extend(indices)
    linked = (index for indices in by_inode.values() if len(indices) > 1 for index in indices)
    found = [sorted(group) for group in groups.values() if len(group) > 1]
    return Copies(sorted(found), frozenset(linked))


def _status(path: Path) -> os.stat_result | None:
    """Status of a regular file; None for anything else."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _grouped(indices: Sequence[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    """Groups of two or more indices with the same key; the key None is left out."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index in indices:
        groups[key(index)].append(index)
    return [group for value, group in groups.items() if value is not None and len(group) > 1]


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
