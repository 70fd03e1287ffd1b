"""Checksums of the content of images, by which features and copies are found again."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from time import time

from anyclass.data.dataset import ImageDataset
from anyclass.data.image import Limits, read_bytes
from anyclass.data.memory import item_hash
from anyclass.errors import ImageError

SETTLED = 2.0
"""Seconds after which another change of a file changes its time stamps on any file system."""


def content_hashes(
    dataset: ImageDataset, workers: int = 0, limits: Limits = Limits()
) -> list[str | None]:
    """SHA-256 of the content of each image; None where it cannot be read.

    A file with unchanged time stamps is not read again in the same process.

    Args:
        dataset: the images to read.
        workers: threads that read in parallel.
        limits: size limits of an image.
    """

    def checksum(index: int) -> str | None:
        try:
            if dataset.memory is not None:
                return item_hash(dataset.memory[dataset.files[index]], limits)
            return content_hash(dataset.path(index), dataset.root, limits)
        except ImageError:
            return None

    with ThreadPoolExecutor(max(1, workers)) as threads:
        return list(threads.map(checksum, range(len(dataset))))


def content_hash(path: Path, root: Path, limits: Limits = Limits()) -> str:
    """SHA-256 of the content of a file; arguments as of `read_bytes`.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):  # `read_bytes` raises the precise error
        return _read_checksum(path, root, limits)
    stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if time() - max(status.st_mtime, status.st_ctime) < SETTLED:
        return _read_checksum(path, root, limits)
    return _known_checksum(path, root, limits, stamp)


def _read_checksum(path: Path, root: Path, limits: Limits) -> str:
    return sha256(read_bytes(path, root, limits)).hexdigest()


@lru_cache(maxsize=2**20)
def _known_checksum(path: Path, root: Path, limits: Limits, stamp: tuple[int, ...]) -> str:
    return _read_checksum(path, root, limits)
