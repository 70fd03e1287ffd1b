"""Response cache: every paid answer is saved to disk before the next one is handled.

A SQLite file in the cache folder, one commit per answer. The key of an answer covers the content of
the images as they are sent, the question, the model and its settings; not the address of a server.
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
from anyclass.files.shared import journal_mode
from anyclass.log import Log

FORMAT = 1
"""Part of every key: version of the row format."""
PATIENCE = 30.0
"""Seconds to wait for another process that is writing."""

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, model TEXT, question TEXT, pictures TEXT, at TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS servers (url TEXT PRIMARY KEY, model TEXT NOT NULL) WITHOUT ROWID;
"""


def key_of(identity: Mapping[str, Any], question: str, variant: int, hashes: Iterable[str]) -> str:
    """Checksum of everything that an answer depends on.

    Args:
        identity: model, generation settings, image preparation.
        question: the full question.
        variant: sample index of the answer.
        hashes: checksum of each image's content, in order.
    """
    parts = {"question": question, "variant": variant, "pictures": list(hashes)}
    value = {"format": FORMAT, "identity": identity, **parts}
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class ResponseCache(AbstractContextManager["ResponseCache"]):
    """Answers by key, safe for several threads and processes."""

    def __init__(self, log: Log, path: Path | None = None) -> None:
        """Open or create the file; a damaged one is renamed with a warning in `log`."""
        self._path = path or cache_folder("answers") / "journal.sqlite"
        self._lock = Lock()
        with _storage(self._path), FileLock(self._path.with_suffix(".lock")):
            self._database = _opened(self._path, log)

    def known(self, keys: Iterable[str]) -> dict[str, str]:
        """Look up the texts of `keys`; keys without an answer are missing in the result."""
        query = "SELECT text FROM answers WHERE key = ?"
        with _storage(self._path), self._lock:
            found = {key: self._database.execute(query, (key,)).fetchone() for key in keys}
        return {key: row[0] for key, row in found.items() if row}

    def keep(
        self, key: str, text: str, model: str = "", question: str = "", images: str = ""
    ) -> None:
        """Save an answer; an existing answer of the key is not replaced.

        Args:
            key: cache key of the answer.
            text: the answer.
            model: name of the model, for people who read the file, like the next two.
            question: the question.
            images: checksums of the images.
        """
        row = {"key": key, "text": text, "model": model, "question": question, "pictures": images}
        row["at"] = datetime.now(UTC).isoformat(timespec="seconds")
        insert = (
            "INSERT OR IGNORE INTO answers (key, text, model, question, pictures, at) "
            "VALUES (:key, :text, :model, :question, :pictures, :at)"
        )
        with _storage(self._path), self._lock:
            self._database.execute(insert, row)

    def remember(self, url: str, model: str) -> None:
        """Note the only model of a server."""
        row = {"url": url.rstrip("/"), "model": model}
        insert = "INSERT OR REPLACE INTO servers (url, model) VALUES (:url, :model)"
        with _storage(self._path), self._lock:
            self._database.execute(insert, row)

    def model_at(self, url: str) -> str | None:
        """The model that a server had when it was last asked; None if it never was."""
        query = "SELECT model FROM servers WHERE url = ?"
        with _storage(self._path), self._lock:
            found = self._database.execute(query, (url.rstrip("/"),)).fetchone()
        return found[0] if found else None

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        with _storage(self._path), self._lock:
            self._database.close()


def _opened(path: Path, log: Log) -> sqlite3.Connection:
    """Open an intact database; the caller must hold the file's lock."""
    try:
        return _connected(path)
    except sqlite3.OperationalError:  # no space, permission or time: the file may be intact
        raise
    except sqlite3.DatabaseError as error:
        aside = path.with_suffix(f".{datetime.now(UTC):%Y%m%dT%H%M%S}.damaged")
        for end in ("", "-wal", "-shm"):
            part = path.with_name(path.name + end)
            if part.exists():
                part.rename(aside.with_name(aside.name + end))
        log(
            warning=f"{path} is damaged ({error}). It was renamed to {aside.name}, and a new one "
            "was created; its answers will be asked again."
        )
        return _connected(path)


def _connected(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
    )
    try:
        database.execute(f"PRAGMA journal_mode = {journal_mode(path)}")
        database.execute("PRAGMA synchronous = FULL")
        with closing(database.execute("PRAGMA quick_check(1)")) as check:
            result = check.fetchone()[0]
        if result != "ok":
            raise sqlite3.DatabaseError(" ".join(result.split()))
        database.executescript(_TABLES)
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def _storage(path: Path) -> Iterator[None]:
    """Turn database and disk errors into a `StorageError` that names `path`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StorageError(
            f"{path} cannot be read or written: {error}. Free some space, end the process that "
            "locks it, or set ANYCLASS_CACHE to another folder, and run the same command again: "
            "earlier answers are kept."
        ) from error
