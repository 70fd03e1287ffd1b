"""Images of every kind of source, and workers in this process."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from anyclass.bulk import Bulk
from anyclass.bulk.results import Tally
from anyclass.bulk.sources import Part
from anyclass.bulk.worker import Task, Worker


@pytest.fixture
def table(images: Path, tmp_path: Path) -> Path:
    """The shapes in two Parquet files: 9 rows in groups of 2, 5 rows; the last of no bytes."""
    folder = tmp_path / "tables"
    folder.mkdir()
    files = sorted(path for path in images.rglob("*.*"))
    for name, some in (("b.parquet", files[9:]), ("a.parquet", files[:9])):
        rows = [
            {"id": path.relative_to(images).as_posix(), "image": path.read_bytes()} for path in some
        ]
        if name == "b.parquet":
            rows[-1]["image"] = None
        schema = pa.schema([("id", pa.string()), ("label", pa.int8()), ("image", pa.binary())])
        written = pa.Table.from_pylist(rows, schema=schema)
        parquet.write_table(written, folder / name, row_group_size=2 if name[0] == "a" else 5)
    return folder


@pytest.fixture
def archives(images: Path, tmp_path: Path) -> Path:
    """The shapes in two archives, with labels beside them; the second is compressed."""
    folder = tmp_path / "archives"
    (folder / "sub").mkdir(parents=True)
    files = sorted(path for path in images.rglob("*.*"))
    for name, mode, some in (("0.tar", "w", files[:8]), ("sub/1.tar.gz", "w:gz", files[8:])):
        with tarfile.open(folder / name, mode) as archive:
            for i, path in enumerate(some):
                archive.add(path, f"{i:03}{path.suffix}")
                info = tarfile.TarInfo(f"{i:03}.cls")
                info.size = 1
                archive.addfile(info, io.BytesIO(b"1"))
    return folder


Elsewhere = Callable[[Path], str]


@pytest.fixture
def elsewhere() -> Elsewhere:
    """`elsewhere(folder)` -> the address of a copy that is not on this machine's disk.

    PyArrow does not know `memory://`, so that it is opened by fsspec.
    """
    memory = fsspec.filesystem("memory")

    def copied(folder: Path) -> str:
        memory.store.clear()
        memory.pseudo_dirs[:] = [""]
        memory.put(f"{folder}/", "/copy of/", recursive=True)
        return "memory://copy of"

    return copied


@pytest.fixture
def workers_here(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Parts are computed in this process instead of on Ray; the list says which."""
    computed: list[int] = []

    def compute(
        task: Task, parts: Sequence[Part], bulk: Bulk, device: str, log: Any
    ) -> Iterator[tuple[int, Tally]]:
        worker = Worker(task, lambda number: 1)
        for part in parts:
            computed.append(part.number)
            row = worker({"part": [json.dumps(part)]})
            assert row["error"] == [""], row
            yield row["part"][0], Tally.of(row["tally"][0])

    monkeypatch.setattr("anyclass.bulk.cluster.compute", compute)
    return computed
