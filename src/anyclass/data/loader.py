"""Images from the disk in batches, read ahead of the model by worker processes.

Whatever is wrong with an image becomes a `Rejection`, and the run goes on without it.
Letters: b images of a batch, K views of each, H and W their size.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anyclass.data.dataset import ImageDataset
from anyclass.data.image import Limits, one_line, open_bytes, read_bytes
from anyclass.errors import AnyclassError, ImageError, Reason

SETTLED = 2.0
"""Seconds after which a file that changes again gets other stamps on any file system."""

Draw = Callable[[Image.Image, str], UInt8[Tensor, "K 3 H W"]]
"""Turns an image and the checksum of its file into K views; must be picklable."""


class Rejection(NamedTuple):
    """A row of rejected.csv."""

    file_name: str
    """As in `ImageDataset.files`."""

    reason: Reason
    """One of the closed list."""

    detail: str
    """One line that says more."""


@dataclass
class ImageBatch:
    """The readable images of one stretch of `ImageDataset`."""

    indices: list[int]
    """Their places in `ImageDataset`, ascending."""

    pixels: UInt8[Tensor, "b K 3 H W"]
    """Their views; of shape (0, 0, 3, 0, 0) where none could be read."""

    hashes: list[str]
    """sha256 of the very bytes that `pixels` were made of."""


def content_hashes(
    dataset: ImageDataset, workers: int = 0, limits: Limits = Limits()
) -> list[str | None]:
    """sha256 of the content of each image; None where it cannot be read.

    A file whose stamps are those of a moment ago is not read again: a run asks several times.

    Args:
        dataset: what to read.
        workers: threads that read side by side.
        limits: what an image may cost.
    """

    def checksum(index: int) -> str | None:
        try:
            return _checksum(dataset.path(index), dataset.root, limits)
        except ImageError:
            return None

    with ThreadPoolExecutor(max(1, workers)) as threads:
        return list(threads.map(checksum, range(len(dataset))))


def _checksum(path: Path, root: Path, limits: Limits) -> str:
    try:
        seen = path.stat()
    except (OSError, ValueError):  # `read_bytes` says what is wrong
        return _read_checksum(path, root, limits)
    stamp = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
    if time() - max(seen.st_mtime, seen.st_ctime) < SETTLED:
        return _read_checksum(path, root, limits)
    return _known_checksum(path, root, limits, stamp)


def _read_checksum(path: Path, root: Path, limits: Limits) -> str:
    return sha256(read_bytes(path, root, limits)).hexdigest()


@lru_cache(maxsize=2**20)
def _known_checksum(path: Path, root: Path, limits: Limits, stamp: tuple[int, ...]) -> str:
    return _read_checksum(path, root, limits)


def load_batches(
    dataset: ImageDataset,
    draw: Draw,
    batch_size: int,
    workers: int | None = None,
    limits: Limits = Limits(),
) -> Iterator[tuple[ImageBatch, list[Rejection]]]:
    """Yields the images in their order, `batch_size` at a time, with what was rejected of them.

    Args:
        dataset: what to read.
        draw: the views of an image.
        batch_size: images of a batch, before rejections.
        workers: processes that read ahead; by default none below 128 images, else one per core.
        limits: what an image may cost.

    Raises:
        AnyclassError: a process was killed; the message names the images it was reading.
    """
    count = _processes(len(dataset)) if workers is None else workers
    places = range(len(dataset))
    stretches = [list(places[i : i + batch_size]) for i in places[::batch_size]]
    batches = _started(_Images(dataset, draw, limits), stretches, count)
    for stretch in stretches:
        try:
            indices, pixels, hashes, rejections = next(batches)
        except RuntimeError as error:
            first, last = (dataset.files[i] for i in (stretch[0], stretch[-1]))
            raise AnyclassError(
                f"a process that reads images was killed, at or soon after {first} ... {last}. "
                "If memory is short, read with fewer workers or a smaller batch."
            ) from error
        yield ImageBatch(indices, torch.from_numpy(pixels), hashes), rejections


_Read = tuple[list[int], UInt8[np.ndarray, "b K 3 H W"], list[str], list[Rejection]]


@dataclass(frozen=True)
class _Images(Dataset[_Read]):
    """What a worker does: one stretch of images at a time.

    Pixels leave it as numpy, so that they travel through a pipe: containers keep the shared
    memory that tensors travel through at 64 MB, and kill the worker beyond.
    """

    dataset: ImageDataset
    draw: Draw
    limits: Limits

    def __getitem__(self, stretch: list[int]) -> _Read:
        """Reads the images at the places in `stretch`."""
        indices, views, hashes, rejections = [], [], [], []
        for index in stretch:
            try:
                data = read_bytes(self.dataset.path(index), self.dataset.root, self.limits)
                content = sha256(data).hexdigest()
                views.append(self.draw(open_bytes(data, self.limits), content).numpy())
            except Exception as error:  # one image, whatever is wrong with it, never ends a run
                rejections.append(_rejection(self.dataset.files[index], error))
            else:
                indices.append(index)
                hashes.append(content)
        pixels = np.stack(views) if views else np.empty((0, 0, 3, 0, 0), np.uint8)
        return indices, pixels, hashes, rejections


def _rejection(file_name: str, error: Exception) -> Rejection:
    """The row for an image that `error` made unusable."""
    if isinstance(error, ImageError):
        return Rejection(file_name, error.reason, error.detail)
    return Rejection(file_name, "unreadable", one_line(error))


def _started(images: _Images, stretches: list[list[int]], workers: int) -> Iterator[_Read]:
    """The running loader, with a random generator of its own: reading changes no global state.

    It is started from a thread of its own: only there torch leaves SIGCHLD alone, whose handler
    would raise in whatever line of the caller is running when a worker dies.
    """
    loader = DataLoader(
        images,
        sampler=stretches,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),
    )
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(iter, loader).result()


def _as_it_is(batch: Any) -> Any:
    return batch


def _processes(images: int) -> int:
    """One worker per core, 8 at most; none where starting them would cost more than it gains."""
    if images < 128:
        return 0
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), 8)
    return min(os.cpu_count() or 1, 8)
