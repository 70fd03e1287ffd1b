"""The lock of a folder: one process at a time."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from anyclass.errors import AnyclassError, RequestError
from anyclass.files.atomic import read_json, write_json
from anyclass.files.shared import check_locks
from anyclass.files.storage import storage

_LOCK = ".anyclass.lock"
_OWNER = ".anyclass.lock.json"

LOCKS = (_LOCK, _OWNER)
"""Files of the lock of a folder."""


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock `folder` (created) for this process; the kernel releases it when the process dies.

    An empty `.anyclass.lock` stays behind: removing it could let two processes in.

    Raises:
        RequestError: another process holds the lock; the message names it and its start time. Or
            the folder is on a file system whose locks do not keep other machines out.
    """
    check_locks(folder)
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / _LOCK)
        try:
            held.acquire(timeout=0)
        except Timeout as error:
            raise RequestError(
                f"{folder} is in use{_owner(folder)}. Wait, or choose another folder."
            ) from error
    try:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(
            folder / _OWNER, {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
        )
        yield
    finally:
        (folder / _OWNER).unlink(missing_ok=True)
        held.release()


def _owner(folder: Path) -> str:
    """Description of the lock's owner, which may be starting or ending right now."""
    try:
        owner = read_json(folder / _OWNER)
        return f" by process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (AnyclassError, KeyError, TypeError):
        return " by another process"
