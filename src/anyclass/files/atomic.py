"""Atomic writes, and the JSON files of a run.

Readers see the old file or the new one, never a mix: `atomic_write` writes a temporary file next to
the target, flushes it to disk and renames it.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anyclass.errors import FileError
from anyclass.files.storage import storage
from anyclass.files.temporary import sweep_once, temporary_name

Json = dict[str, Any]
"""A JSON object: the content of a file of a run, a part of it, or the result of a command."""


@contextmanager
def atomic_write(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary path next to `path` and rename it to `path` when the block succeeds.

    The block may write to it, replace it or pass it to a library. Afterwards file and folder are
    flushed to disk, and the mode follows the umask. When the block fails, the file is removed.
    The first write into a folder removes the temporary files that killed processes left there.

    Args:
        path: the file.
        size: number of bytes it will have, if known, for the message when the disk is full.

    Raises:
        StorageError: the disk is full or the folder cannot be written to.
    """
    temporary = temporary_name(path, path.suffix)
    with storage(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep_once(path.parent)
        try:
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode
            yield temporary
            temporary.chmod(mode)
            _to_disk(temporary, os.O_RDWR)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if os.name != "nt":
            with suppress(OSError):  # some network disks cannot flush a folder
                _to_disk(path.parent, os.O_RDONLY)


def write_text(path: Path, text: str) -> None:
    r"""Write UTF-8 atomically; lone surrogates are escaped, as in `\udc80`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically. NaN and infinity raise `ValueError`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileError: the file is missing, damaged or not a regular one; the message names it.
    """
    try:
        with open(path, encoding="utf-8", opener=regular) as file:  # noqa: PTH123 (has no opener)
            return json.load(file, parse_constant=_no_number)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is damaged: {error}") from error


def regular(path: str, flags: int) -> int:
    """Opener of `open` that refuses pipes and devices, which could keep it waiting for ever.

    Raises:
        OSError: it is not a regular file.
    """
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, "it is not a regular file", path)


def _no_number(text: str) -> float:
    """Refuse NaN and infinity, which `write_json` never writes and JSON does not know."""
    raise ValueError(f"{text} is no number")


def _to_disk(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
