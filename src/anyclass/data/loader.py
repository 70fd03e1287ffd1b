"""Data loader: workers read batches of images ahead of the model.

Workers are processes where they start as a copy of this one (fork: Linux up to Python 3.13), else
threads: a new interpreter would import the user's script again, and run it if nothing guards it.

An image that cannot be read becomes a `Rejection`, and the run continues without it.
Letters: b images of a batch, K views of each, H and W their size.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import islice
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
from anyclass.data.image import Limits, one_line, read_bytes
from anyclass.data.memory import content_hash
from anyclass.errors import AnyclassError, ImageError, Reason

SETTLED = 2.0
"""Seconds after which another change of a file changes its time stamps on any file system."""

Transform = Callable[[Image.Image, str], UInt8[Tensor, "K 3 H W"]]
"""Turns an image and the checksum of its file into K views; must be picklable."""


class Rejection(NamedTuple):
    """A row of rejected.csv."""

    file_name: str
    """As in `ImageDataset.files`."""

    reason: Reason
    """Kind of problem."""

    detail: str
    """Details, one line."""


@dataclass
class ImageBatch:
    """The readable images of one batch."""

    indices: list[int]
    """Their rows in the `ImageDataset`, ascending."""

    pixels: UInt8[Tensor, "b K 3 H W"]
    """Their views; of shape (0, 0, 3, 0, 0) if none could be read."""

    hashes: list[str]
    """SHA-256 of the bytes that `pixels` were decoded from."""


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
                return content_hash(dataset.memory[dataset.files[index]], limits)
            return _checksum(dataset.path(index), dataset.root, limits)
        except ImageError:
            return None

    with ThreadPoolExecutor(max(1, workers)) as threads:
        return list(threads.map(checksum, range(len(dataset))))


def _checksum(path: Path, root: Path, limits: Limits) -> str:
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


def load_batches(
    dataset: ImageDataset,
    transform: Transform,
    batch_size: int,
    workers: int | None = None,
    limits: Limits = Limits(),
) -> Iterator[tuple[ImageBatch, list[Rejection]]]:
    """Yield batches of `batch_size` images in their order, with the rejected images of each batch.

    Args:
        dataset: the images to read.
        transform: makes the views of an image.
        batch_size: images of a batch, before rejections.
        workers: workers that read ahead; by default none below 128 images, else one per core.
        limits: size limits of an image.

    Raises:
        AnyclassError: a worker was killed; the message names the images it was reading.
    """
    count = _processes(len(dataset)) if workers is None else workers
    rows = range(len(dataset))
    chunks = [list(rows[i : i + batch_size]) for i in rows[::batch_size]]
    images = _Images(dataset, transform, limits)
    if count and _start_method() != "fork":
        yield from _read_by_threads(images, chunks, count)
        return
    batches = _started(images, chunks, count)
    for chunk in chunks:
        try:
            indices, pixels, hashes, rejections = next(batches)
        except RuntimeError as error:
            first = dataset.files[chunk[0]]
            last = dataset.files[chunk[-1]]
            raise AnyclassError(
                f"a worker process was killed while it read the images {first} ... {last} or the "
                "next ones. If memory is short, use fewer workers or a smaller batch."
            ) from error
        yield ImageBatch(indices, torch.from_numpy(pixels), hashes), rejections


def _read_by_threads(
    images: "_Images", chunks: Sequence[list[int]], workers: int
) -> Iterator[tuple[ImageBatch, list[Rejection]]]:
    """Read batches in threads, at most two for each thread ahead of the model."""
    threads = ThreadPoolExecutor(workers)
    waiting = deque[Future[_Read]]()
    coming = iter(chunks)
    try:
        while True:
            for chunk in islice(coming, 2 * workers - len(waiting)):
                waiting.append(threads.submit(images.__getitem__, chunk))
            if not waiting:
                return
            indices, pixels, hashes, rejections = waiting.popleft().result()
            yield ImageBatch(indices, torch.from_numpy(pixels), hashes), rejections
    finally:
        threads.shutdown(cancel_futures=True)


_Read = tuple[list[int], UInt8[np.ndarray, "b K 3 H W"], list[str], list[Rejection]]


@dataclass(frozen=True)
class _Images(Dataset[_Read]):
    """The batches that a worker reads, one at a time.

    Pixels are returned as numpy arrays, which are sent through a pipe. Tensors are sent through
    shared memory, which containers limit to 64 MB before they kill the worker.
    """

    dataset: ImageDataset
    transform: Transform
    limits: Limits

    def __getitem__(self, chunk: list[int]) -> _Read:
        """Read the images with the indices in `chunk`."""
        indices = []
        views = []
        hashes = []
        rejections = []
        for index in chunk:
            try:
                content, image = self.dataset.open(index, self.limits)
                views.append(self.transform(image, content).numpy())
            except Exception as error:  # no single image may end a run
                rejections.append(_rejection(self.dataset.files[index], error))
            else:
                indices.append(index)
                hashes.append(content)
        pixels = np.stack(views) if views else np.empty((0, 0, 3, 0, 0), np.uint8)
        return indices, pixels, hashes, rejections


def _rejection(file_name: str, error: Exception) -> Rejection:
    """Row of rejected.csv for an image and its error."""
    if isinstance(error, ImageError):
        return Rejection(file_name, error.reason, error.detail)
    return Rejection(file_name, "unreadable", one_line(error))


def _started(images: _Images, chunks: list[list[int]], workers: int) -> Iterator[_Read]:
    """Start the loader, with its own random generator: reading must not change global state.

    It is started from a separate thread. In the main thread torch installs a SIGCHLD handler, which
    would raise in an arbitrary line of the caller when a worker dies.
    """
    loader = DataLoader(
        images,
        sampler=chunks,
        batch_size=None,
        num_workers=workers,
        collate_fn=_identity,
        generator=torch.Generator(),
    )
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(iter, loader).result()


def _start_method() -> str:
    """How processes are started, without deciding it for the rest of the program."""
    return (
        multiprocessing.get_start_method(allow_none=True)
        or (multiprocessing.get_all_start_methods()[0])
    )


def _identity(batch: Any) -> Any:
    return batch


def _processes(images: int) -> int:
    """One worker per core, at most 8; none for few images, where starting workers costs more."""
    if images < 128:
        return 0
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), 8)
    return min(os.cpu_count() or 1, 8)
