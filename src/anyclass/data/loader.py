"""Data loader: workers read batches of images ahead of the model.

Workers are processes where they start as a copy of this one (fork: Linux up to Python 3.13), else
threads: a new interpreter would import the user's script again, and run it if nothing guards it.

An image that cannot be read becomes a `Rejection`, and the run continues without it.
Letters: b images of a batch, K views of each, H and W their size.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from threading import Thread
from time import sleep
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anyclass.data.dataset import ImageDataset
from anyclass.data.image import Limits
from anyclass.data.rejection import Rejection, rejection_of
from anyclass.data.transforms import Preprocessing
from anyclass.distributed import launched
from anyclass.errors import AnyclassError

WATCH = 1.0
"""Seconds between two looks of a worker process whether its parent still lives."""


@runtime_checkable
class Transform(Protocol):
    """Turns an image and the checksum of its file into K views; must be picklable."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of the model; it says how images are decoded."""

    def __call__(self, image: Image.Image, content: str) -> UInt8[Tensor, "K 3 H W"]:
        """The views."""


Result = TypeVar("Result")
"""What a reader makes of a chunk of images."""


@dataclass
class ImageBatch:
    """The readable images of one batch."""

    indices: list[int]
    """Their rows in the `ImageDataset`, ascending."""

    pixels: UInt8[Tensor, "b K 3 H W"]
    """Their views; of shape (0, 0, 3, 0, 0) if none could be read."""

    hashes: list[str]
    """SHA-256 of the bytes that `pixels` were decoded from."""


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
    rows = range(len(dataset))
    chunks = [list(rows[i : i + batch_size]) for i in rows[::batch_size]]
    reader = _Images(dataset, transform, limits)
    for indices, pixels, hashes, rejections in read_chunks(reader, dataset.files, chunks, workers):
        yield ImageBatch(indices, torch.from_numpy(pixels), hashes), rejections


def read_chunks(
    reader: Dataset[Result],
    files: Sequence[str],
    chunks: list[list[int]],
    workers: int | None = None,
) -> Iterator[Result]:
    """Yield what a reader makes of each chunk, in order; workers read ahead.

    Args:
        reader: gives the result of a list of indices; must be picklable.
        files: names of the images, for messages.
        chunks: indices of images.
        workers: processes or threads; by default none below 128 images, else one per core.

    Raises:
        AnyclassError: a worker was killed; the message names the images it was reading.
    """
    count = _processes(sum(map(len, chunks))) if workers is None else workers
    if count and _start_method() != "fork":
        yield from _read_by_threads(reader, chunks, count)
        return
    results = _started(reader, chunks, count)
    for chunk in chunks:
        try:
            result = next(results)
        except RuntimeError as error:
            raise AnyclassError(
                f"a worker process was killed while it read the images {files[chunk[0]]} ... "
                f"{files[chunk[-1]]} or the next ones. If memory is short, use fewer workers or a "
                "smaller batch."
            ) from error
        yield result


def _read_by_threads(
    reader: Dataset[Result], chunks: Sequence[list[int]], workers: int
) -> Iterator[Result]:
    """Read chunks in threads, at most two for each thread ahead of the model."""
    threads = ThreadPoolExecutor(workers)
    waiting = deque[Future[Result]]()
    coming = iter(chunks)
    try:
        while True:
            for chunk in islice(coming, 2 * workers - len(waiting)):
                waiting.append(threads.submit(reader.__getitem__, chunk))
            if not waiting:
                return
            yield waiting.popleft().result()
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
        shorter_side = self.transform.preprocessing.shorter_side
        for index in chunk:
            try:
                content, image = self.dataset.open(index, self.limits, shorter_side)
                views.append(self.transform(image, content).numpy())
            except Exception as error:  # no single image may end a run
                rejections.append(rejection_of(self.dataset.files[index], error))
            else:
                indices.append(index)
                hashes.append(content)
        pixels = np.stack(views) if views else np.empty((0, 0, 3, 0, 0), np.uint8)
        return indices, pixels, hashes, rejections


def _started(reader: Dataset[Result], chunks: list[list[int]], workers: int) -> Iterator[Result]:
    """Start the loader, with its own random generator: reading must not change global state.

    It is started from a separate thread. In the main thread torch installs a SIGCHLD handler, which
    would raise in an arbitrary line of the caller when a worker dies. That thread ends at once, so
    workers cannot ask the kernel for a signal at the end of their parent (`PR_SET_PDEATHSIG` is
    about the thread that started them): they look themselves.
    """
    loader = DataLoader(
        reader,
        sampler=chunks,
        batch_size=None,
        num_workers=workers,
        collate_fn=_identity,
        generator=torch.Generator(),
        worker_init_fn=partial(_end_with, os.getpid()),
    )
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(iter, loader).result()


def _end_with(parent: int, worker: int) -> None:
    """End this worker process when its parent has ended, whatever it is doing.

    torch's own workers look only while they wait for work: one that hands over a batch that nobody
    takes would stay for ever.
    """

    def watch() -> None:
        while os.getppid() == parent:
            sleep(WATCH)
        os._exit(1)

    Thread(target=watch, daemon=True, name=f"parent of reader {worker}").start()


def _start_method() -> str:
    """How processes are started, without deciding it for the rest of the program."""
    return (
        multiprocessing.get_start_method(allow_none=True)
        or (multiprocessing.get_all_start_methods()[0])
    )


def _identity(batch: Any) -> Any:
    return batch


def _processes(images: int) -> int:
    """One worker per core, at most 8; none for few images, where starting workers costs more.

    The processes that torchrun starts on a machine share its cores.
    """
    if images < 128:
        return 0
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launched() > 1 else 1
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, min(cores // here, 8))
