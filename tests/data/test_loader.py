"""Reading: every image in its place, every bad one a row, whoever reads it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic, sleep
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import anyclass.data
from anyclass.data import (
    Augmentation,
    AugmentedViews,
    ImageDataset,
    Limits,
    Preprocessing,
    TestTransform,
    content_hash,
    content_hashes,
    load_batches,
    open_image,
)
from anyclass.data import loader as reading
from anyclass.errors import AnyclassError

SHAPE = Preprocessing((18, 30), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eleven noisy images of growing width, `00.png` ... `10.png`."""
    for i in range(11):
        pixels = np.random.default_rng(i).integers(0, 256, (31, 40 + i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02}.png")
    return tmp_path


@dataclass(frozen=True)
class Kill:
    """A view that kills its process at the image of one width."""

    width: int
    preprocessing: ClassVar = SHAPE

    def __call__(self, image: Image.Image, content: str) -> Tensor:
        if image.width == self.width:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1, 3, 2, 5, dtype=torch.uint8)


@dataclass(frozen=True)
class Fail:
    """A view that fails at the image of one width."""

    width: int
    preprocessing: ClassVar = SHAPE

    def __call__(self, image: Image.Image, content: str) -> Tensor:
        if image.width == self.width:
            raise ZeroDivisionError("a\nb")
        return torch.zeros(1, 3, 2, 5, dtype=torch.uint8)


@dataclass(frozen=True)
class Threads:
    """A view that holds the number of torch's threads and whether the process is another one."""

    process: int
    preprocessing: ClassVar = SHAPE

    def __call__(self, image: Image.Image, content: str) -> Tensor:
        pixels = torch.zeros(1, 3, 2, 5, dtype=torch.uint8)
        pixels[..., 0] = torch.get_num_threads()
        pixels[..., 1] = os.getpid() != self.process
        return pixels


@pytest.mark.parametrize("workers", [0, 2])
def test_read__every_image_in_its_place(root: Path, workers: int) -> None:
    dataset = ImageDataset.read(root)
    parts = list(load_batches(dataset, TestTransform(SHAPE), batch_size=4, workers=workers))
    assert [batch.indices for batch, _ in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [rejections for _, rejections in parts] == [[], [], []]
    assert [tuple(batch.pixels.shape) for batch, _ in parts] == [
        (n, 1, 3, 18, 30) for n in (4, 4, 3)
    ]
    for batch, _ in parts:
        for index, views, content in zip(batch.indices, batch.pixels, batch.hashes, strict=True):
            assert torch.equal(views[0], SHAPE.view(open_image(dataset.path(index))))
            assert content == sha256(dataset.path(index).read_bytes()).hexdigest()


@pytest.mark.parametrize("place", range(5))
def test_read__one_bad_image_in_each_place_of_a_batch(root: Path, place: int) -> None:
    (root / f"{place:02}.png").write_bytes((root / f"{place:02}.png").read_bytes()[:900])
    (first, rejections), *others = load_batches(ImageDataset.read(root), TestTransform(SHAPE), 5)
    assert first.indices == [i for i in range(5) if i != place]
    assert first.pixels.shape == (4, 1, 3, 18, 30)
    ((name, reason, detail),) = rejections
    assert (name, reason) == (f"{place:02}.png", "truncated or damaged")
    assert detail.startswith("OSError: ")
    assert [len(batch.indices) for batch, _ in others] == [5, 1]


def test_read__a_batch_of_bad_images_only(root: Path) -> None:
    for name in ("04.png", "05.png", "06.png", "07.png"):
        (root / name).write_bytes(b"no image")
    dataset = ImageDataset.read(root)
    (root / "06.png").unlink()
    parts = list(load_batches(dataset, TestTransform(SHAPE), 4))
    batch, rejections = parts[1]
    assert (batch.indices, batch.hashes) == ([], [])
    assert batch.pixels.shape == (0, 0, 3, 0, 0)
    assert batch.pixels.dtype == torch.uint8
    assert [r.reason for r in rejections] == ["not an image"] * 2 + ["missing", "not an image"]
    assert [len(batch.indices) for batch, _ in parts] == [4, 0, 3]


@pytest.mark.parametrize("workers", [0, 1])
def test_read__any_failure_becomes_a_row(root: Path, workers: int) -> None:
    (_, first), (batch, second) = load_batches(
        ImageDataset.read(root), Fail(47), 6, workers=workers
    )
    assert first == []
    assert second == [("07.png", "unreadable", "ZeroDivisionError: a b")]
    assert batch.indices == [6, 8, 9, 10]


def test_read__hostile_files_in_a_worker(root: Path, tmp_path_factory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "a.png"
    Image.new("RGB", (9, 9)).save(outside)
    (root / "11.png").symlink_to(outside)
    os.mkfifo(root / "12.png")
    Image.new("1", (10_000, 9_000)).save(root / "13.png")
    limits = Limits(bytes=6_000)
    (*_, (batch, rejections)) = load_batches(
        ImageDataset.read(root), TestTransform(SHAPE), 5, 1, limits
    )
    assert batch.indices == [10]
    assert [(row.file_name, row.reason) for row in rejections] == [
        ("11.png", "outside the folder"),
        ("12.png", "not a regular file"),
        ("13.png", "too many bytes"),
    ]
    (*_, (batch, rejections)) = load_batches(ImageDataset.read(root), TestTransform(SHAPE), 5, 1)
    assert rejections[-1] == ("13.png", "too many pixels", rejections[-1].detail)


def test_read__views_are_the_same_in_any_batch_and_process(root: Path) -> None:
    dataset = ImageDataset.read(root)
    draw = AugmentedViews(SHAPE, Augmentation(), count=3, seed=4)
    whole = torch.cat([batch.pixels for batch, _ in load_batches(dataset, draw, 11)])
    assert whole.shape == (11, 3, 3, 18, 30)
    parts = torch.cat([batch.pixels for batch, _ in load_batches(dataset, draw, 4, workers=2)])
    assert torch.equal(whole, parts)
    (other, _), *_ = load_batches(dataset[[7, 2]], draw, 4)
    assert torch.equal(other.pixels, whole[[7, 2]])


@pytest.mark.parametrize("workers", [0, 1])
def test_read__changes_no_random_state(root: Path, workers: int) -> None:
    draw = AugmentedViews(SHAPE, Augmentation(), count=2)
    before = torch.get_rng_state()
    list(load_batches(ImageDataset.read(root), draw, 6, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_read__workers_are_processes_of_one_thread(root: Path) -> None:
    torch.set_num_threads(2)
    try:
        parts = list(load_batches(ImageDataset.read(root), Threads(os.getpid()), 6, workers=1))
    finally:
        torch.set_num_threads(1)
    assert all((batch.pixels[..., :2] == 1).all() for batch, _ in parts)


def test_read__few_images_need_no_worker(root: Path) -> None:
    dataset = ImageDataset.read(root)
    ((batch, _),) = load_batches(dataset, Threads(os.getpid()), 11)
    assert (batch.pixels[..., 1] == 0).all()
    many = dataset[[0] * 128]
    ((batch, _),) = load_batches(many, Threads(os.getpid()), 128)
    assert (batch.pixels[..., 1] == 1).all()


def test_read__pixels_do_not_travel_through_shared_memory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("shared memory was used")

    monkeypatch.setattr(torch.UntypedStorage, "_new_using_fd_cpu", refuse)
    monkeypatch.setattr(torch.UntypedStorage, "_new_using_filename_cpu", refuse)
    (batch, _), *_ = load_batches(ImageDataset.read(root), TestTransform(SHAPE), 6, workers=1)
    batch.pixels[0] = 0
    assert len(batch.indices) == 6


def test_read__a_killed_worker_is_said_with_the_files(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = torch.utils.data.dataloader._MultiProcessingDataLoaderIter
    monkeypatch.setattr(loader._try_get_data, "__defaults__", (0.2,))  # looks each 5 s otherwise
    parts = load_batches(ImageDataset.read(root), Kill(46), batch_size=3, workers=1)
    assert next(parts)[0].indices == [0, 1, 2]
    for worker in multiprocessing.active_children():
        worker.join(20)  # it dies while we are here, and nothing is raised at us
    with pytest.raises(
        AnyclassError, match=r"killed while it read the images 0[36]\.png \.\.\. 0[58]\.png"
    ):
        list(parts)


def test_read__stops_its_workers_when_the_reader_stops(root: Path) -> None:
    before = multiprocessing.active_children()
    parts = load_batches(ImageDataset.read(root), Threads(os.getpid()), batch_size=1, workers=2)
    next(parts)
    workers = [child for child in multiprocessing.active_children() if child not in before]
    assert len(workers) == 2
    parts.close()
    for worker in workers:
        worker.join(20)
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to count processes")
def test_read__workers_end_with_a_killed_parent(root: Path) -> None:
    """They hold batches that nobody takes: more than a pipe holds, so torch's own would stay."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        killed = fork.Process(target=_read_and_die, args=(root, sender))
        killed.start()
    workers = receiver.recv()
    killed.join(20)
    assert killed.exitcode == -signal.SIGKILL
    assert len(workers) == 2
    end = monotonic() + 20
    while any(running(pid) for pid in workers) and monotonic() < end:
        sleep(0.05)
    left = [pid for pid in workers if running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def _read_and_die(root: Path, sender: Connection) -> None:
    """Send the ids of two workers that have read more than anybody takes, and be killed."""
    large = Preprocessing((500, 500), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    parts = load_batches(ImageDataset.read(root), TestTransform(large), 1, workers=2)
    next(parts)
    tasks = Path("/proc/self/task").iterdir()
    found = " ".join((task / "children").read_text() for task in tasks)
    sender.send([int(pid) for pid in found.split()])
    os.kill(os.getpid(), signal.SIGKILL)


def running(pid: int) -> bool:
    """Whether a process runs: one that has ended may wait for somebody who asks."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes would start anew and import the user's script, as on macOS and Windows."""
    monkeypatch.setattr(reading, "_start_method", lambda: "spawn")


@pytest.mark.parametrize("size", [1, 4, 11])
def test_read__threads_where_processes_are_spawned(root: Path, spawned: None, size: int) -> None:
    (root / "06.png").write_bytes(b"no image")
    dataset = ImageDataset.read(root)
    draw = AugmentedViews(SHAPE, Augmentation(), count=3, seed=4)
    alone = list(load_batches(dataset, draw, size, workers=0))
    parts = list(load_batches(dataset, draw, size, workers=3))
    assert [batch.indices for batch, _ in parts] == [batch.indices for batch, _ in alone]
    assert [bad for _, bad in parts] == [bad for _, bad in alone]
    assert all(torch.equal(a.pixels, b.pixels) for (a, _), (b, _) in zip(parts, alone, strict=True))
    ((batch, _),) = load_batches(dataset[[0] * 128], Threads(os.getpid()), 128)
    assert (batch.pixels[..., 1] == 0).all(), "no other process"


def test_read__threads_read_a_little_ahead_and_stop(root: Path, spawned: None) -> None:
    read = []

    class Note:
        preprocessing = SHAPE

        def __call__(self, image: Image.Image, content: str) -> Tensor:
            read.append(image.width)
            return torch.zeros(1, 3, 2, 5, dtype=torch.uint8)

    many = ImageDataset.read(root)[[i % 11 for i in range(60)]]
    parts = load_batches(many, Note(), batch_size=1, workers=2)
    next(parts)
    parts.close()
    assert 1 <= len(read) <= 4


@pytest.fixture
def undecided() -> Iterator[None]:
    """Nobody has said yet how processes are started, as at the start of a program."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(None, force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_start_method__does_not_decide_it(undecided: None) -> None:
    assert reading._start_method() in multiprocessing.get_all_start_methods()
    multiprocessing.set_start_method("spawn")
    assert reading._start_method() == "spawn"


def test_content_hashes__of_the_bytes_or_none(root: Path) -> None:
    (root / "03.png").write_bytes(b"no image")
    dataset = ImageDataset.read(root)
    (root / "05.png").unlink()
    os.mkfifo(root / "05.png")
    (root / "08.png").write_bytes(b"x" * 5_000)
    hashes = content_hashes(dataset, limits=Limits(bytes=4_999))
    assert [i for i, value in enumerate(hashes) if value is None] == [5, 8]
    assert hashes[3] == sha256(b"no image").hexdigest()
    assert hashes[0] == sha256((root / "00.png").read_bytes()).hexdigest()
    assert content_hashes(dataset, workers=3, limits=Limits(bytes=4_999)) == hashes


def test_content_hashes__read_again_what_changed_or_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    dataset = ImageDataset(
        tmp_path, ("a.png", "b.png"), np.array([-1, -1]), anyclass.data.Classes.of([])
    )
    opened: list[str] = []
    real = content_hash.read_bytes
    monkeypatch.setattr(
        content_hash, "read_bytes", lambda path, *a: opened.append(path.name) or real(path, *a)
    )
    first = content_hashes(dataset)
    assert content_hashes(dataset) == first
    assert len(opened) == 4, "files this young may change without another stamp"
    later = content_hash.time() + 10
    monkeypatch.setattr(content_hash, "time", lambda: later)
    assert content_hashes(dataset) == content_hashes(dataset) == first
    assert len(opened) == 6
    (tmp_path / "b.png").write_bytes(b"another")
    assert content_hashes(dataset)[0] == first[0]
    assert content_hashes(dataset)[1] == sha256(b"another").hexdigest()
    assert opened[6:] == ["b.png"]
    (tmp_path / "a.png").unlink()
    assert content_hashes(dataset)[0] is None


def test_data__costs_no_torch_until_it_is_needed() -> None:
    code = """
import sys
import anyclass.data, anyclass.files, anyclass.errors
print({"torch", "torchvision", "open_clip", "pyarrow", "pydantic"} & set(sys.modules))
"""
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_data__has_the_names_it_promises() -> None:
    assert sorted(anyclass.data.__all__) == anyclass.data.__all__
    assert all(hasattr(anyclass.data, name) for name in anyclass.data.__all__)
    assert not hasattr(anyclass.data, "nothing")
