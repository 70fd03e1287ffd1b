"""Index of a feature cache: which shard holds the row of an image.

A SQLite file beside the shards, so that opening a cache of any size reads none of them. Each shard
holds the keys of its own rows, so the index can always be made again, and what it says is checked
when a shard is opened.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from anyclass.data import Rejection
from anyclass.errors import StorageError
from anyclass.log import Log

INDEX = "index.sqlite"
"""Name of the file."""

PATIENCE = 30.0
"""Seconds to wait for another process that is writing."""

SHARDS = 1000
"""Shards that are added at once when the index is made again."""

PAGES = 100_000
"""Kilobytes of the index that are held in memory, at most."""

AT_ONCE = 500
"""Keys of one query."""

_TABLES = """
CREATE TABLE IF NOT EXISTS shards (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS images (
    key BLOB PRIMARY KEY, shard INTEGER NOT NULL, row INTEGER NOT NULL,
    file_name TEXT, reason TEXT, detail TEXT
) WITHOUT ROWID;
"""


class ShardContent(NamedTuple):
    """Keys of the rows of a shard, and the rejections that it holds."""

    keys: Sequence[str]
    """Content hash of each row."""
    refused: Mapping[str, Rejection]
    """Content hash -> reason."""


class Found(NamedTuple):
    """What the index knows of some images."""

    rows: dict[str, tuple[str, int]]
    """Content hash -> name of the shard, and row."""
    refused: dict[str, Rejection]
    """Content hash -> reason."""


class ShardIndex:
    """The index of one folder of shards."""

    def __init__(self, folder: Path, read: Callable[[Path], ShardContent | None], log: Log) -> None:
        """Open the index and compare its list of shards with the folder.

        Args:
            folder: folder of the shards.
            read: content of a shard; None if it is damaged, after it has said and removed it.
            log: gets the progress of making the index again.
        """
        self._folder = folder
        self._read = read
        self._log = log
        path = folder / INDEX
        try:
            self._database = _connected(path)
        except sqlite3.OperationalError as error:
            raise _unusable(path, error) from error
        except sqlite3.DatabaseError:
            path.unlink(missing_ok=True)
            self._database = _connected(path)
        self.refresh()

    def refresh(self) -> None:
        """Add shards that the index does not know, and forget those that are gone."""
        present = {p.name for p in self._folder.glob("[!.]*.safetensors")}
        known = {name for (name,) in self._database.execute("SELECT name FROM shards")}
        new = sorted(present - known)
        told = not known and len(new) > 1
        for start in range(0, len(new), SHARDS):
            some = new[start : start + SHARDS]
            contents = {name: self._read(self._folder / name) for name in some}
            self.add({name: content for name, content in contents.items() if content is not None})
            if told:
                self._log(stage="index", done=start + len(some), total=len(new))
        for name in sorted(known - present):
            self.remove(name)

    def find(self, keys: Iterable[str]) -> Found:
        """Places and rejections of some images; unknown ones are left out."""
        found = Found({}, {})
        wanted = [bytes.fromhex(key) for key in keys]
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            marks = ", ".join("?" * len(some))
            query = (
                "SELECT key, name, row, file_name, reason, detail FROM images "
                f"JOIN shards ON shards.id = images.shard WHERE key IN ({marks})"
            )
            for key, name, row, *reason in self._database.execute(query, some):
                if row < 0:
                    found.refused[key.hex()] = Rejection(*reason)
                else:
                    found.rows[key.hex()] = (name, row)
        return found

    def add(self, contents: Mapping[str, ShardContent], instead_of: Sequence[str] = ()) -> None:
        """Add the rows of shards, which may hold those of other shards, `instead_of` them."""
        database = self._database
        with self._transaction():
            rows: list[tuple[object, ...]] = []
            for name, content in contents.items():
                database.execute("INSERT OR IGNORE INTO shards (name) VALUES (?)", (name,))
                query = "SELECT id FROM shards WHERE name = ?"
                (shard,) = database.execute(query, (name,)).fetchone()
                keys = enumerate(content.keys)
                rows += [(bytes.fromhex(key), shard, row, None, None, None) for row, key in keys]
                refused = content.refused.items()
                rows += [(bytes.fromhex(key), shard, -1, *why) for key, why in refused]
            rows.sort(key=itemgetter(0))  # pages of the index are then visited once
            database.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?)", rows)
            forgotten = [(old,) for old in instead_of]
            database.executemany("DELETE FROM shards WHERE name = ?", forgotten)

    def remove(self, name: str) -> None:
        """Forget a shard and its rows."""
        with self._transaction():
            self._database.execute(
                "DELETE FROM images WHERE shard = (SELECT id FROM shards WHERE name = ?)", (name,)
            )
            self._database.execute("DELETE FROM shards WHERE name = ?", (name,))

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._database, self._folder / INDEX)


class _Transaction:
    """Everything or nothing; a full disk or a read-only folder is a `StorageError`."""

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self._database = database
        self._path = path

    def __enter__(self) -> None:
        try:
            self._database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise _unusable(self._path, error) from error

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        try:
            self._database.execute("ROLLBACK" if kind else "COMMIT")
        except sqlite3.OperationalError as failed:
            with suppress(sqlite3.OperationalError):
                self._database.execute("ROLLBACK")
            raise _unusable(self._path, failed) from failed
        if isinstance(error, sqlite3.OperationalError):
            raise _unusable(self._path, error) from error


def _connected(path: Path) -> sqlite3.Connection:
    """Open or create an index.

    It is no journal of anything: whatever a power cut destroys is read again from the shards.
    """
    database = sqlite3.connect(
        path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
    )
    try:
        database.execute("PRAGMA synchronous = OFF")
        database.execute(f"PRAGMA cache_size = -{PAGES}")
        with closing(database.execute("SELECT count(*) FROM sqlite_master")) as tables:
            created = tables.fetchone()[0]
        if not created:  # a finished index can be read where nothing can be written
            database.executescript(_TABLES)
        database.execute("SELECT key, shard, row FROM images LIMIT 1")
        database.execute("SELECT id, name FROM shards LIMIT 1")
    except BaseException:
        database.close()
        raise
    return database


def _unusable(path: Path, error: Exception) -> StorageError:
    return StorageError(
        f"{path} cannot be read or written: {error}. Free some space, or set ANYCLASS_CACHE to "
        "another folder, and run the same command again: what was computed so far is kept."
    )
