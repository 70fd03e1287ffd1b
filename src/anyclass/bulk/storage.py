"""Folders of this machine and of object storage, by a path or an address such as s3://bucket/photos.

PyArrow opens what it knows (s3, gs, abfs, hdfs, file), fsspec all others. Keys come from the
environment of the process and never from an address, which is written into manifests.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from anyclass.data.image import Limits
from anyclass.errors import ImageError, RequestError
from anyclass.files import atomic_write

T = TypeVar("T")

AT_ONCE = 16
"""Files that are read at once from object storage."""


class File(NamedTuple):
    """A file below a folder."""

    name: str
    """POSIX path below the folder."""
    stamp: str
    """What changes when the file does: its size and time."""


def is_address(place: Path | str) -> bool:
    """Whether a place is an address and no path."""
    return "://" in str(place)


@cache
def opened(place: str) -> tuple[fs.FileSystem, str]:
    """File system and path of a place.

    Raises:
        RequestError: no library opens it, or keys stand in it.
    """
    if not is_address(place):
        return fs.LocalFileSystem(), str(Path(place).absolute())
    address = urlsplit(place)
    if "@" in address.netloc or "::" in place or address.query:
        raise RequestError(
            f"{address.scheme}://... may hold neither keys nor options: it is written into files. "
            "Give keys to the environment, as the storage's own tools read them"
        )
    try:
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(place)
        return found
    except pa.ArrowInvalid:  # PyArrow does not know it
        return _by_fsspec(place)


def _by_fsspec(place: str) -> tuple[fs.FileSystem, str]:
    """File system and path by fsspec."""
    try:
        from fsspec.core import url_to_fs

        filesystem, path = url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise RequestError(f"{place} cannot be opened: {error}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path


def listing(place: str) -> list[File]:
    """All files of a folder and its subfolders, sorted by name; of a file itself, that one.

    Raises:
        RequestError: there is neither.
    """
    filesystem, path = opened(place)
    try:
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.File:
            return [_file(info, str(PurePosixPath(path).parent))]
        if isinstance(filesystem, fs.LocalFileSystem):
            return sorted(_walk(Path(path)))
        found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    except OSError as error:
        raise RequestError(f"{place} cannot be listed: {_line(error)}") from error
    return sorted(_file(info, path) for info in found if info.type == fs.FileType.File)


def _walk(root: Path) -> Iterator[File]:
    """Files of a folder on this machine; links to folders are not followed."""
    if not root.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder")
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            with suppress(OSError):  # a link that leads nowhere is found when it is read
                yield File(path.relative_to(root).as_posix(), _stamp(path))


def stamped(root: Path, names: Sequence[str]) -> list[File]:
    """Files below a folder on this machine that were listed by somebody else."""
    files = []
    for name in names:
        try:
            files.append(File(name, _stamp(root / name)))
        except OSError:  # gone since, or a link that leads nowhere
            files.append(File(name, ""))
    return files


def _stamp(path: Path) -> str:
    """Size and time of a file on this machine."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def folder_of(place: str) -> str:
    """The folder that names of `listing` are below: the place, or the parent of a file."""
    filesystem, path = opened(place)
    if filesystem.get_file_info(path).type != fs.FileType.File:
        return place
    return place.rstrip("/").rpartition("/")[0] if is_address(place) else str(Path(path).parent)


def read_all(
    place: str, names: Sequence[str], limits: Limits = Limits()
) -> list[bytes | ImageError]:
    """Content of several files below a folder, or why there is none.

    Raises:
        OSError: the storage cannot be reached, which says nothing of the file.
    """
    filesystem, root = opened(place)

    def content(name: str) -> bytes | ImageError:
        try:
            with filesystem.open_input_stream(f"{root}/{name}", compression=None) as stream:
                data: bytes = stream.read(limits.bytes + 1)
        except FileNotFoundError:
            return ImageError("missing")
        except PermissionError as error:
            return ImageError("unreadable", _line(error))
        if len(data) > limits.bytes:
            return ImageError("too many bytes", f"more than {limits.bytes}")
        return data

    return in_threads(content, names)


def write(place: str, name: str, data: bytes) -> None:
    """Write a file below a folder, whole or not at all.

    On this machine it is renamed when it is complete; object storage shows an object only then.
    """
    filesystem, root = opened(place)
    if isinstance(filesystem, fs.LocalFileSystem):
        with atomic_write(Path(root) / name) as draft:
            draft.write_bytes(data)
        return
    filesystem.create_dir(root, recursive=True)
    with filesystem.open_output_stream(f"{root}/{name}") as stream:
        stream.write(data)


def read(place: str, name: str) -> bytes | None:
    """Content of a file that this package wrote; None: there is none."""
    filesystem, root = opened(place)
    try:
        with filesystem.open_input_stream(f"{root}/{name}", compression=None) as stream:
            data: bytes = stream.read()
            return data
    except FileNotFoundError:
        return None


def remove(place: str, names: list[str]) -> None:
    """Remove files below a folder."""
    filesystem, root = opened(place)
    for name in names:
        filesystem.delete_file(f"{root}/{name}")


def local(place: str) -> Path | None:
    """The path of a place on this machine; None: it is elsewhere."""
    filesystem, path = opened(place)
    return Path(path) if isinstance(filesystem, fs.LocalFileSystem) else None


def in_threads(function: Callable[[str], T], names: Sequence[str]) -> list[T]:
    """Apply a function to several names at once; results in their order."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(function, names))


def _file(info: fs.FileInfo, root: str) -> File:
    """A file below a folder."""
    name = info.path[len(root) :].lstrip("/")
    return File(name, f"{info.size} {info.mtime_ns}")


def _line(error: OSError) -> str:
    """What the system or the storage says, in one line."""
    return " ".join(f"{error.strerror or error}".split())[:200]
