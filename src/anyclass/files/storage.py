"""Full disks and folders that cannot be written to, as one error that says what to do."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anyclass.errors import AnyclassError, StorageError

_NO_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def storage(path: Path, size: int | None = None) -> Iterator[None]:
    """Turn a full disk or a read-only folder into a `StorageError` that names `path`.

    Rust writers (safetensors) raise their own errors, with the error number only in the text.

    Args:
        path: what is written.
        size: number of bytes it will have, if known.
    """
    try:
        yield
    except AnyclassError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            number = int(found[1])
        if number not in _NO_STORAGE:
            raise
        raise StorageError(
            f"{path} cannot be written: {os.strerror(number)}{_needed(path, number, size)}. "
            f"{_ADVICE.get(number, 'Choose another folder, or give yourself the right to write')} "
            "and run the same command again: what was computed so far is kept."
        ) from error


def check_may_write(path: Path) -> None:
    """Refuse a file in a folder that cannot be written to, before anything is computed.

    Raises:
        StorageError: the folder, or the one that it is to be made in, is read-only.
    """
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    with storage(path):
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def check_space(folder: Path, size: int) -> None:
    """Refuse what does not fit on the disk of a folder, before more of it is computed.

    Args:
        folder: where it is written.
        size: number of bytes it will have.

    Raises:
        StorageError: fewer bytes are free.
    """
    with storage(folder, size):
        if size > shutil.disk_usage(folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


_ADVICE = {
    errno.ENOSPC: "Free some space, or choose another folder,",
    errno.EDQUOT: "Free some space, or choose another folder,",
    errno.EFBIG: "Choose a folder on another disk,",
}
"""What to do about an error number."""


def _needed(path: Path, number: int, size: int | None) -> str:
    """Bytes that are needed and free, for a full disk."""
    if number not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    free = f"{shutil.disk_usage(folder).free:,} bytes are free"
    return f" ({free}, more are needed)" if size is None else f" ({size:,} are needed, {free})"
