"""Temporary files, and the removal of those that killed processes left behind.

They are called `.anyclass-*.tmp*` and name the process that writes them.
"""

import glob
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from uuid import uuid4

from anyclass.files.names import digest

_TEMPORARY = re.compile(
    r"\.anyclass-(?P<host>[0-9a-f]{8})(?P<pid>[0-9a-f]{8})(?P<started>[0-9a-f]{8})[0-9a-f]{8}"
    r"\.tmp(\..*)?"
)

CONTINUED = ".rows"
"""Ending of temporary files that the next process continues."""

MARK = ".folder"
"""Ending of the file that tells which process made a temporary folder."""

_FORGOTTEN = 7 * 86400.0
"""Seconds without a write after which any temporary file is removed, also one to continue."""

_swept: set[Path] = set()
"""Folders whose temporary files were looked at by this process."""


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed processes, also in subfolders."""
    for path in folder.rglob(".anyclass-*"):
        _remove_orphan(path)


def temporary_name(path: Path, ending: str) -> Path:
    """New name beside `path` of a temporary file of this process."""
    return path.parent / f".anyclass-{_process(os.getpid())}{uuid4().hex[:8]}.tmp{ending}"


def is_temporary(name: str) -> bool:
    """Whether a file has the name of a temporary file."""
    return _TEMPORARY.fullmatch(name) is not None


def orphans(folder: Path, ending: str) -> list[Path]:
    """Temporary files with an ending whose processes on this machine have ended; newest first."""
    found = []
    for path in folder.glob(f".anyclass-*.tmp{ending}"):
        made = _maker(path)
        if made and made["host"] == _host() and not _alive(made):
            found.append(path)
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Yield a new folder for temporary files, private to this user, and remove it afterwards.

    Folders with this prefix whose processes were killed are removed first. Which process made a
    folder stands in the name of an empty file in it: the paths of sockets may not be long.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{glob.escape(prefix)}*"):
        if _is_own(folder) and orphans(folder, MARK):
            shutil.rmtree(folder, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        temporary_name(made / "process", MARK).touch()
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _is_own(path: Path) -> bool:
    """Whether it is a folder that this user made, where nobody else could have put anything."""
    try:
        status = path.lstat()
    except OSError:
        return False
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    return private and (os.name == "nt" or status.st_uid == os.getuid())


def sweep_once(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder, once per process."""
    if folder in _swept:
        return
    _swept.add(folder)
    for path in folder.glob(".anyclass-*"):
        _remove_orphan(path)


def _remove_orphan(path: Path) -> None:
    """Remove a temporary file whose process has ended; every other file stays.

    What can be continued stays for a week, and so does a file of another machine, of whose
    processes nothing is known.
    """
    made = _maker(path)
    if made is None:
        return
    foreign = made["host"] != _host()
    if not foreign and _alive(made):
        return
    with suppress(OSError):  # another process removes it too, or it belongs to another user
        forgotten = time.time() - path.stat().st_mtime > _FORGOTTEN
        if forgotten or not (foreign or path.suffix == CONTINUED):
            path.unlink(missing_ok=True)


def _maker(path: Path) -> re.Match[str] | None:
    """Which process made a temporary file; None if it is none."""
    made = _TEMPORARY.fullmatch(path.name)
    return made if made and path.is_file() and not path.is_symlink() else None


@cache
def _host() -> str:
    """Eight hexadecimal digits for this machine; another one for each container."""
    with suppress(OSError):
        return digest(f"{socket.gethostname()} {Path('/proc/self/ns/pid').stat().st_ino}")[:8]
    return digest(socket.gethostname())[:8]


@cache
def _process(pid: int) -> str:
    """Machine, number and start of this process: 24 hexadecimal digits."""
    return f"{_host()}{pid:08x}{_started(pid) or '0' * 8}"


def _started(pid: int) -> str | None:
    """When a process started, as eight hexadecimal digits; None where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return f"{int(text.rpartition(')')[2].split()[19]) % 2**32:08x}"
    except (OSError, ValueError, IndexError):
        return None


def _alive(made: re.Match[str]) -> bool:
    """Whether the process that made a temporary file runs; numbers are used again, starts not."""
    pid = int(made["pid"], 16)
    if os.name == "nt":  # asking would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return _started(pid) in (None, made["started"])
