"""Thumbnails on disk: made once, when they are first shown, and of bounded size."""

import hashlib
from io import BytesIO
from pathlib import Path
from threading import Lock

from anyclass.data import open_image
from anyclass.errors import ImageError
from anyclass.files import atomic_write, cache_folder

SIDE = 256
"""Longer side of a thumbnail, in pixels."""
LARGE = 1280
"""Longer side of an image that is looked at alone; it is not kept on disk."""
MOST_BYTES = 512 * 2**20
"""Bytes above which the oldest thumbnails are removed."""
KEPT = 0.8
"""Share of `MOST_BYTES` that stays then."""


class Thumbnails:
    """A folder of small JPEG files, named by path, size and time stamp of the image."""

    def __init__(self, folder: Path | None = None, most_bytes: int = MOST_BYTES) -> None:
        """Use `folder`, by default one in the user's cache."""
        self.folder = folder or cache_folder("thumbnails")
        self.most_bytes = most_bytes
        self._lock = Lock()
        self._bytes: int | None = None

    def get(self, image: Path, root: Path) -> bytes:
        """Thumbnail of an image, from the folder or made now.

        Raises:
            ImageError: the image cannot be read.
        """
        path = self.folder / f"{_key(image)}.jpg"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            data = encoded(image, root, SIDE)
        with atomic_write(path) as draft:
            draft.write_bytes(data)
        self._added(len(data))
        return data

    def _added(self, size: int) -> None:
        """Count the bytes; remove the oldest files if there are too many."""
        with self._lock:
            if self._bytes is None:
                self._bytes = sum(path.stat().st_size for path in self._finished())
            else:
                self._bytes += size
            if self._bytes > self.most_bytes:
                self._bytes = self._prune()

    def _prune(self) -> int:
        """Remove the oldest files; returns the bytes that are left."""
        stats = [(path, path.stat()) for path in self._finished()]
        left = sum(stat.st_size for _, stat in stats)
        for path, stat in sorted(stats, key=lambda pair: pair[1].st_mtime_ns):
            if left <= KEPT * self.most_bytes:
                break
            path.unlink(missing_ok=True)
            left -= stat.st_size
        return left

    def _finished(self) -> list[Path]:
        """Thumbnails that are complete; those that other threads are writing have hidden names."""
        return [path for path in self.folder.glob("*.jpg") if not path.name.startswith(".")]


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
