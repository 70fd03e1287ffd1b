"""The journal: every paid answer is on the disk before the next one is looked at.

A SQLite file in the cache, one commit per answer. An answer is found again by what it depends on:
the content of the images, the question, who was asked, and how.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock

from anyclass.errors import StorageError
from anyclass.files import cache_folder
from anyclass.log import Log

FORMAT = 1
"""Part of every key: a number of its own for each meaning of the rows."""
PATIENCE = 30.0
"""Seconds to wait for another process that is writing."""

_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, model TEXT, question TEXT, pictures TEXT, at TEXT
) WITHOUT ROWID
"""


def key_of(identity: Mapping[str, Any], question: str, variant: int, hashes: Iterable[str]) -> str:
    """The checksum of all that an answer depends on.

    Args:
        identity: who is asked and how: kind, url, model, generation, preparation of the images.
        question: in full.
        variant: the how-manieth answer to it.
        hashes: of the content of each image, in order.
    """
    parts = {"question": question, "variant": variant, "pictures": list(hashes)}
    whole = {"format": FORMAT, "identity": identity, **parts}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class ResponseCache(AbstractContextManager["ResponseCache"]):
    """Answers by key, for several threads and several processes at once."""

    def __init__(self, log: Log, path: Path | None = None) -> None:
        """Open or begin it; a damaged file is moved aside, and `log` says so."""
        self._path = path or cache_folder("answers") / "journal.sqlite"
        self._lock = Lock()
        with _storage(self._path), FileLock(self._path.with_suffix(".lock")):
            self._database = _opened(self._path, log)

    def known(self, keys: Iterable[str]) -> dict[str, str]:
        """The texts of those `keys` that have one."""
        ask = "SELECT text FROM answers WHERE key = ?"
        with _storage(self._path), self._lock:
            found = {key: self._database.execute(ask, (key,)).fetchone() for key in keys}
        return {key: row[0] for key, row in found.items() if row}

    def keep(self, key: str, text: str, **about: str) -> None:
        """Put an answer on the disk; the first one of a key stays.

        Args:
            key: what it is found by.
            text: the answer.
            about: `model`, `question` and `pictures` (their checksums), for people who look.
        """
        row = {"model": "", "question": "", "pictures": ""} | about
        row |= {"key": key, "text": text, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        insert = (
            "INSERT OR IGNORE INTO answers (key, text, model, question, pictures, at) "
            "VALUES (:key, :text, :model, :question, :pictures, :at)"
        )
        with _storage(self._path), self._lock:
            self._database.execute(insert, row)

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        with _storage(self._path), self._lock:
            self._database.close()


def _opened(path: Path, log: Log) -> sqlite3.Connection:
    """A connection to a whole database; hold the file's lock when calling."""
    try:
        return _connected(path)
    except sqlite3.OperationalError:  # no space, no right, no time: the file may well be whole
        raise
    except sqlite3.DatabaseError as error:
        aside = path.with_suffix(f".{datetime.now(UTC):%Y%m%dT%H%M%S}.damaged")
        for end in ("", "-wal", "-shm"):
            part = path.with_name(path.name + end)
            if part.exists():
                part.rename(aside.with_name(aside.name + end))
        log(
            warning=f"{path} is damaged ({error}): it is now {aside.name}, and a new one begins. "
            "What it knew will be asked again."
        )
        return _connected(path)


def _connected(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
    )
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        with closing(database.execute("PRAGMA quick_check(1)")) as check:
            if (verdict := check.fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(" ".join(verdict.split()))
        database.execute(_TABLE)
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def _storage(path: Path) -> Iterator[None]:
    """Turns what the disk refuses into one line that names `path`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StorageError(
            f"{path} cannot be read or written: {error}. Free some space, end what holds it, or "
            "name another folder with ANYCLASS_CACHE. What was answered before is kept."
        ) from error
