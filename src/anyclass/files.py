"""Atomic writes, the folder lock, the manifest and safe file names.

Readers see the old file or the new one, never a mix: `atomic_write` writes a temporary file next to
the target, flushes it to disk and renames it. `manifest.json` is written last and marks the end of
a run. Temporary files are called `.anyclass-*.tmp*` and name the process that writes them: those of
killed processes are removed by the next process that writes into the folder.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from anyclass.errors import AnyclassError, FileError, RequestError, StorageError

MANIFEST = "manifest.json"
"""Name of the file with the checksums of a folder's files."""

SHARE = 0.05
"""Most of the time that saving may take, unless it is seldom; see `Pace`."""

_LOCK = ".anyclass.lock"
_OWNER = ".anyclass.lock.json"
LOCKS = (_LOCK, _OWNER)
"""Files of the lock of a folder."""

_TEMPORARY = re.compile(
    r"\.anyclass-(?P<host>[0-9a-f]{8})(?P<pid>[0-9a-f]{8})(?P<started>[0-9a-f]{8})[0-9a-f]{8}"
    r"\.tmp(\..*)?"
)
CONTINUED = ".rows"
"""Ending of temporary files that the next process continues."""
_FORGOTTEN = 7 * 86400.0
"""Seconds without a write after which a temporary file is removed that was kept till then."""
_swept: set[Path] = set()
"""Folders whose temporary files were looked at by this process."""
_NO_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_RESERVED = re.compile(r"con|prn|aux|nul|(com|lpt)\d")
_DANGEROUS = re.compile(r"'*[=+\-@\t\r]")


def cache_folder(*parts: str) -> Path:
    """Create and return a folder in the user's cache (`$ANYCLASS_CACHE`, or the system's)."""
    own = os.environ.get("ANYCLASS_CACHE")
    home = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    try:
        root = Path(own) if own else Path(home or Path.home() / ".cache") / "anyclass"
    except RuntimeError as error:  # a user id without an entry, as in `docker run --user`
        raise RequestError(
            "this user has no home folder: set ANYCLASS_CACHE to a folder that can be written to"
        ) from error
    folder = root.joinpath(*parts)
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


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
        _sweep_once(path.parent)
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


class Pace:
    """When to save: at once where that is cheap, else so that it takes a twentieth of the time."""

    def __init__(self, longest: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin.

        Args:
            longest: seconds without saving, at most.
            clock: seconds since any fixed moment.
        """
        self._longest = longest
        self._clock = clock
        self._saved = clock()
        self._cost = 0.0

    def due(self) -> bool:
        """Whether it is time to save."""
        return self._clock() - self._saved >= min(self._longest, self._cost / SHARE)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure what saving costs."""
        started = self._clock()
        yield
        self._saved = self._clock()
        self._cost = self._saved - started


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


def sha256(path: Path) -> str:
    """SHA-256 of the file's content, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock `folder` (created) for this process; the kernel releases it when the process dies.

    An empty `.anyclass.lock` stays behind: removing it could let two processes in.

    Raises:
        RequestError: another process holds the lock; the message names it and its start time.
    """
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


def write_manifest(folder: Path) -> None:
    """Write `manifest.json` with the checksum of every file in `folder`; call this last."""
    files = {name: sha256(folder / name) for name in _listing(folder)}
    write_json(folder / MANIFEST, {"files": files})


def check_manifest(folder: Path) -> list[str]:
    """Problems with the files in `manifest.json`, one sentence each; empty if all are intact."""
    try:
        files = read_json(folder / MANIFEST)["files"].items()
    except (AnyclassError, AttributeError, KeyError, TypeError) as error:
        return [
            str(error) if isinstance(error, AnyclassError) else f"{folder / MANIFEST} is damaged"
        ]
    present = set(_listing(folder))
    problems = []
    for name, checksum in files:
        if name not in present:
            problems.append(f"{name} is missing")
        elif sha256(folder / name) != checksum:
            problems.append(f"{name} has changed")
    return problems


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed processes, also in subfolders."""
    for path in folder.rglob(".anyclass-*"):
        _remove_orphan(path)


def temporary_name(path: Path, ending: str) -> Path:
    """New name beside `path` of a temporary file of this process."""
    return path.parent / f".anyclass-{_process()}{uuid4().hex[:8]}.tmp{ending}"


def orphans(folder: Path, ending: str) -> list[Path]:
    """Temporary files with an ending whose processes on this machine have ended; newest first."""
    found = []
    for path in folder.glob(f".anyclass-*.tmp{ending}"):
        made = _maker(path)
        if made and made["host"] == _host() and not _alive(made):
            found.append(path)
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _sweep_once(folder: Path) -> None:
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
        return _digest(f"{socket.gethostname()} {Path('/proc/self/ns/pid').stat().st_ino}")[:8]
    return _digest(socket.gethostname())[:8]


def _process() -> str:
    """Machine, number and start of this process: 24 hexadecimal digits."""
    return f"{_host()}{os.getpid():08x}{_started(os.getpid()) or '0' * 8}"


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


def slug(name: str) -> str:
    """Unique file name for `name`, valid on POSIX and Windows.

    A name of lower-case ASCII letters, digits, `_` and `-` is unchanged; any other one is
    simplified and gets the beginning of its checksum.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    safe = re.sub(r"[^a-z0-9_]+", "-", plain).strip("-")[:60]
    if (
        name == safe
        and not _RESERVED.fullmatch(safe)
        and not re.search(r"(^|-)[0-9a-f]{12}$", safe)
    ):
        return safe or _digest(name)
    return f"{safe}-{_digest(name)}".lstrip("-")


def csv_cell(text: str) -> str:
    """Quote `text` that spreadsheets would run as a formula; `csv_text` is the exact inverse."""
    return f"'{text}" if _DANGEROUS.match(text) else text


def csv_text(cell: str) -> str:
    """Invert `csv_cell`."""
    return cell[1:] if cell.startswith("'") and _DANGEROUS.match(cell) else cell


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _listing(folder: Path) -> list[str]:
    """Sorted POSIX paths of the regular files that belong in the manifest."""
    names = []
    for path in folder.rglob("*"):
        ours = path.name in (_LOCK, _OWNER) or _TEMPORARY.fullmatch(path.name)
        if path.is_file() and not path.is_symlink() and not ours:
            names.append(path.relative_to(folder).as_posix())
    return sorted(name for name in names if name != MANIFEST)


def _to_disk(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _owner(folder: Path) -> str:
    """Description of the lock's owner, which may be starting or ending right now."""
    try:
        owner = read_json(folder / _OWNER)
        return f" by process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (AnyclassError, KeyError, TypeError):
        return " by another process"


def sort_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file, which its writer orders at random: equal bytes."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


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
