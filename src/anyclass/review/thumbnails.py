"""Thumbnails on disk: made once, when they are first shown, in one file of bounded size."""

import hashlib
import sqlite3
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from threading import Lock

from anyclass.data import open_image
from anyclass.errors import ImageError, StorageError
from anyclass.files import cache_folder, storage
from anyclass.files.shared import journal_mode

FILE = "thumbnails.sqlite"
"""The one file of all thumbnails."""
SIDE = 256
"""Longer side of a thumbnail, in pixels."""
LARGE = 1280
"""Longer side of an image that is looked at alone; it is not kept on disk."""
MOST_BYTES = 512 * 2**20
"""Bytes above which the oldest thumbnails are removed."""
KEPT = 0.8
"""Share of `MOST_BYTES` that stays then."""

_TOTAL = "SELECT total(length(jpeg)) FROM images"


class Thumbnails:
    """Small JPEGs in one file, by path, size and time stamp of the image; for several threads."""

    def __init__(self, folder: Path | None = None, most_bytes: int = MOST_BYTES) -> None:
        """Use a file in `folder`, by default in the user's cache.

        Raises:
            StorageError: it cannot be written.
        """
        folder = folder or cache_folder("thumbnails")
        self._path = folder / FILE
        self._most_bytes = most_bytes
        self._lock = Lock()
        with storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            self._database = _connected(self._path)
        except sqlite3.OperationalError as error:
            raise StorageError(f"{self._path} cannot be read or written: {error}") from error
        except sqlite3.DatabaseError:  # damaged: they are made again
            self._path.unlink(missing_ok=True)
            self._database = _connected(self._path)
        self._bytes: float = self._database.execute(_TOTAL).fetchone()[0]

    def get(self, image: Path, root: Path) -> bytes:
        """Thumbnail of an image, from the file or made now.

        Raises:
            ImageError: the image cannot be read.
        """
        key = _key(image)
        with self._lock, suppress(sqlite3.DatabaseError):  # damaged since it was opened
            query = "SELECT jpeg FROM images WHERE key = ?"
            if found := self._database.execute(query, (key,)).fetchone():
                return bytes(found[0])
        data = encoded(image, root, SIDE)
        with self._lock, suppress(sqlite3.DatabaseError):  # the same, or a full disk
            self._keep(key, data)
        return data

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _keep(self, key: str, data: bytes) -> None:
        """Write a thumbnail; remove the oldest if there are too many."""
        self._database.execute("INSERT OR IGNORE INTO images VALUES (?, ?)", (key, data))
        self._bytes += len(data)
        oldest = "SELECT rowid, length(jpeg) FROM images ORDER BY rowid"
        if self._bytes <= self._most_bytes:
            return
        for row, size in self._database.execute(oldest).fetchall():
            if self._bytes <= KEPT * self._most_bytes:
                break
            self._database.execute("DELETE FROM images WHERE rowid = ?", (row,))
            self._bytes -= size


def _connected(path: Path) -> sqlite3.Connection:
    """Open or create the file. It is no journal of anything: a power cut may destroy it."""
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        database.execute(f"PRAGMA journal_mode = {journal_mode(path)}")
        database.execute("PRAGMA synchronous = OFF")
        database.execute("CREATE TABLE IF NOT EXISTS images (key TEXT UNIQUE, jpeg BLOB)")
        database.execute(_TOTAL)
    except BaseException:
        database.close()
        raise
    return database


def encoded(image: Path, root: Path, side: int) -> bytes:
    """An image as JPEG of at most `side` pixels, decoded and encoded again, without metadata.

    Raises:
        ImageError: the image cannot be read.
    """
    pixels = open_image(image, root)
    pixels.thumbnail((side, side))
    with BytesIO() as jpeg:
        pixels.save(jpeg, "JPEG", quality=82)
        return jpeg.getvalue()


def _key(image: Path) -> str:
    """Name of a thumbnail: another one when the file changes.

    Raises:
        ImageError: there is no such file.
    """
    try:
        status = image.stat()
    except (OSError, ValueError) as error:
        raise ImageError("missing") from error
    about = (str(image), status.st_size, status.st_mtime_ns, SIDE)
    return hashlib.sha256(repr(about).encode("utf-8", "surrogatepass")).hexdigest()[:40]
