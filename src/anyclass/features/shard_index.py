"""Index of a feature cache: which shard holds the row of an image.

A SQLite file beside the shards, so that opening a cache of any size reads none of them. Each shard
holds the keys of its own rows, so the index can always be made again, and its entries are checked
when a shard is opened.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar, get_args

from anyclass.data import Rejection
from anyclass.errors import Reason, StorageError
from anyclass.files import storage
from anyclass.log import Log

INDEX = "index.sqlite"
"""Name of the file."""

PATIENCE = 300.0
"""Seconds to wait for another process that is writing, which may be a whole index."""

SHARDS = 1000
"""Shards between two lines about the progress of making the index again."""

PAGES = 100_000
"""Kilobytes of the index that are held in memory, at most."""

AT_ONCE = 500
"""Keys of one query."""

_TABLES = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS shards (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS images (
    key BLOB PRIMARY KEY, shard INTEGER NOT NULL, row INTEGER NOT NULL,
    file_name TEXT, reason TEXT, detail TEXT
) WITHOUT ROWID;
COMMIT;
"""
"""Both tables or none: a kill or a full disk between them would leave an index for good."""

_STAGED = """
CREATE TEMP TABLE IF NOT EXISTS new_shards (number INTEGER PRIMARY KEY, name TEXT, id INTEGER);
CREATE TEMP TABLE IF NOT EXISTS new_images (
    key BLOB, number INTEGER, row INTEGER, file_name TEXT, reason TEXT, detail TEXT
);
DELETE FROM new_shards;
DELETE FROM new_images;
"""
"""Rows of shards in the order in which they were read."""

_MERGE = (
    "INSERT OR IGNORE INTO shards (name) SELECT name FROM new_shards",
    "UPDATE new_shards SET id = (SELECT id FROM shards WHERE shards.name = new_shards.name)",
    "INSERT OR REPLACE INTO images "
    "SELECT key, id, row, file_name, reason, detail FROM new_images JOIN new_shards "
    "USING (number) ORDER BY key",
)
"""Add them. Keys are random: in their order each page of the index is written once."""

REASONS = get_args(Reason)
"""Why an image may be rejected; anything else is damage."""

_DAMAGED = (sqlite3.DatabaseError, UnicodeDecodeError, TypeError)
"""What reading a damaged index raises; the second, of a message with a damaged name in it."""

Result = TypeVar("Result")


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
    """The index of one folder of shards; a damaged one is made again."""

    def __init__(self, folder: Path, read: Callable[[Path], ShardContent | None], log: Log) -> None:
        """Open the index and compare its list of shards with the folder.

        Args:
            folder: folder of the shards.
            read: content of a shard; None if it is damaged, after a warning and its removal.
            log: gets the progress of making the index again.

        Raises:
            StorageError: the disk is full, or the folder cannot be written to.
        """
        self._folder = folder
        self._path = folder / INDEX
        self._read = read
        self._log = log
        self._database: sqlite3.Connection | None = None
        self.refresh()

    def refresh(self) -> None:
        """Add shards that the index does not know, and forget those that are gone."""
        self._attempt(self._refresh)

    def find(self, keys: Iterable[str]) -> Found:
        """Places and rejections of some images; unknown ones are left out."""
        wanted = [bytes.fromhex(key) for key in keys]
        return self._attempt(lambda database: _find(database, wanted))

    def add(self, name: str, content: ShardContent, instead_of: Sequence[str] = ()) -> None:
        """Add the rows of a shard, which may hold those of other shards, `instead_of` them."""
        self._attempt(lambda database: _add(database, [(name, content)], instead_of))

    def _attempt(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """What `work` returns; where the index is damaged it is made again, and `work` repeated.

        Raises:
            StorageError: the disk is full, the folder cannot be written to, or the like.
        """
        try:
            try:
                return work(self._connection())
            except _DAMAGED as error:
                if _of_the_disk(error):
                    raise
            self._discard()
            self._refresh(self._connection())
            return work(self._connection())
        except _DAMAGED as error:
            raise _unusable(self._path, error) from error

    def _connection(self) -> sqlite3.Connection:
        """The open index."""
        if self._database is None:
            self._database = _connected(self._path)
        return self._database

    def _discard(self) -> None:
        """Remove the index."""
        if self._database is not None:
            self._database.close()
            self._database = None
        with storage(self._path):
            self._path.unlink(missing_ok=True)

    def _refresh(self, database: sqlite3.Connection) -> None:
        present = {p.name for p in self._folder.glob("[!.]*.safetensors")}
        known = {name for (name,) in database.execute("SELECT name FROM shards")}
        if new := sorted(present - known):
            _add(database, self._contents(new, log_progress=not known and len(new) > 1))
        for name in sorted(known - present):
            _remove(database, name)

    def _contents(
        self, names: Sequence[str], log_progress: bool
    ) -> Iterator[tuple[str, ShardContent]]:
        """Read shards, one by one; damaged ones are left out."""
        for done, name in enumerate(names, 1):
            content = self._read(self._folder / name)
            if content is not None:
                yield name, content
            if log_progress and (done % SHARDS == 0 or done == len(names)):
                self._log(stage="index", done=done, total=len(names))


def _find(database: sqlite3.Connection, wanted: Sequence[bytes]) -> Found:
    found = Found({}, {})
    for start in range(0, len(wanted), AT_ONCE):
        some = wanted[start : start + AT_ONCE]
        marks = ", ".join("?" * len(some))
        query = (
            "SELECT key, name, row, file_name, reason, detail FROM images "
            f"JOIN shards ON shards.id = images.shard WHERE key IN ({marks}) "
            "AND typeof(row) = 'integer' AND typeof(name) = 'text'"
        )
        for key, name, row, *reason in database.execute(query, some):
            if row >= 0:
                found.rows[key.hex()] = (name, row)
            elif reason[1] in REASONS:
                found.refused[key.hex()] = Rejection(*reason)
    return found


def _add(
    database: sqlite3.Connection,
    contents: Iterable[tuple[str, ShardContent]],
    instead_of: Sequence[str] = (),
) -> None:
    """Add the rows of shards; they are read before the index is locked."""
    database.executescript(_STAGED)
    with _transaction(database, "DEFERRED"):
        for number, (name, content) in enumerate(contents):
            _stage(database, number, name, content)
    with _transaction(database):
        for statement in _MERGE:
            database.execute(statement)
        forgotten = [(old,) for old in instead_of]
        database.executemany("DELETE FROM shards WHERE name = ?", forgotten)
    database.executescript(_STAGED)


def _stage(database: sqlite3.Connection, number: int, name: str, content: ShardContent) -> None:
    """Note the rows of a shard."""
    database.execute("INSERT INTO new_shards VALUES (?, ?, NULL)", (number, name))
    places = ((bytes.fromhex(key), number, row) for row, key in enumerate(content.keys))
    database.executemany("INSERT INTO new_images (key, number, row) VALUES (?, ?, ?)", places)
    refused = ((bytes.fromhex(key), number, -1, *why) for key, why in content.refused.items())
    database.executemany("INSERT INTO new_images VALUES (?, ?, ?, ?, ?, ?)", refused)


def _remove(database: sqlite3.Connection, name: str) -> None:
    """Forget a shard and its rows."""
    with _transaction(database):
        database.execute(
            "DELETE FROM images WHERE shard = (SELECT id FROM shards WHERE name = ?)", (name,)
        )
        database.execute("DELETE FROM shards WHERE name = ?", (name,))


@contextmanager
def _transaction(database: sqlite3.Connection, locks: str = "IMMEDIATE") -> Iterator[None]:
    """Everything or nothing; "IMMEDIATE" keeps other processes from writing."""
    database.execute(f"BEGIN {locks}")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


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


def _of_the_disk(error: Exception) -> bool:
    """Whether space, permission or time is missing; else the file is damaged or of another kind."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR


def _unusable(path: Path, error: Exception) -> StorageError:
    return StorageError(
        f"{path} cannot be read or written: {error}. Free some space, or set ANYCLASS_CACHE to "
        "another folder, and run the same command again: what was computed so far is kept."
    )
