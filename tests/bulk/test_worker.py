"""A worker: errors travel as text, a part that kills is given up, folders must be shared."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from anyclass.bulk import results
from anyclass.bulk.chunks import Chunk
from anyclass.bulk.results import Tally
from anyclass.bulk.sources import Source, read_source
from anyclass.bulk.worker import MOST, ChunkResult, Task, Worker
from anyclass.errors import AnyclassError, RequestError


@dataclass(frozen=True)
class Names:
    """A job that writes names, and fails where it is told to."""

    fails: str = ""

    def open(self, cpus: int, say: Callable[[str], None]) -> Callable[[Chunk], ChunkResult]:
        say(f"{cpus} cores")

        def compute(chunk: Chunk) -> ChunkResult:
            if self.fails in chunk.names and self.fails:
                raise {"A": AnyclassError, "R": RequestError, "V": ValueError}[self.fails[0]]("no")
            return ChunkResult(pa.table({"name": list(chunk.names)}), Tally(len(chunk.names)))

        return compute


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Seven files in parts of three."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("A", "B", "R", "S", "T", "V", "W"):
        (folder / name).write_bytes(b"x")
    return read_source(folder, 3)


@pytest.fixture
def task(source: Source, tmp_path: Path) -> Task:
    out = str(tmp_path / "out")
    results.begin(out, {"a": 1}, overwrite=False)
    key = results.checksum({"a": 1})
    return Task(Names(), source._replace(parts=()), out, key, 2, None, str(tmp_path))


def told(worker: Worker, part: Any) -> dict[str, Any]:
    """What a worker answers for one part."""
    return {key: value[0] for key, value in worker({"part": [json.dumps(part)]}).items()}


def test_worker__writes_a_part(task: Task, source: Source) -> None:
    worker = Worker(task, lambda number: 1)
    for part in reversed(source.parts):
        row = told(worker, part)
        assert (row["part"], row["error"]) == (part.number, "")
        assert Tally.of(row["tally"]) == Tally(len(part.files))
        assert json.loads(row["said"]) == (["2 cores"] if part.number == 2 else [])
    written = parquet.read_table(Path(task.out) / "part-0000001.parquet")
    assert written.to_pydict() == {"name": ["S", "T", "V"]}
    known = results.known(task.out, {"a": 1}, 3)
    assert known == {0: Tally(3), 1: Tally(3), 2: Tally(1)}
    assert sorted(path.name for path in Path(task.out).iterdir()) == [
        "_manifest.json",
        *(results.part_name(i) for i in range(3)),
    ]


@pytest.mark.parametrize(
    ("fails", "number", "wrong", "text"),
    [("A", 0, False, "no"), ("R", 0, True, "no"), ("V", 1, False, "ValueError: no")],
)
def test_worker__tells_an_error(
    task: Task, source: Source, fails: str, number: int, wrong: bool, text: str
) -> None:
    worker = Worker(replace(task, job=Names(fails)), lambda number: 1)
    row = told(worker, source.parts[number])
    assert (row["error"], row["wrong"], row["tally"]) == (text, wrong, "")
    assert not (Path(task.out) / results.part_name(number)).exists()
    assert told(worker, source.parts[2])["error"] == ""


def test_worker__gives_up_what_kills_it(task: Task, source: Source) -> None:
    worker = Worker(task, lambda number: MOST + (number == 1))
    assert told(worker, source.parts[0])["error"] == ""
    assert told(worker, source.parts[1])["error"] == f"its worker was killed {MOST} times"


@pytest.mark.parametrize(("field", "flag"), [("out", "--out"), ("source", "--images")])
def test_worker__folders_that_its_machine_does_not_have(
    task: Task, source: Source, field: str, flag: str
) -> None:
    """Without this, each image would become a row that says `missing`."""
    gone = f"{task.folder}/gone"
    lost = (
        replace(task, out=gone)
        if field == "out"
        else replace(task, source=task.source._replace(place=gone))
    )
    row = told(Worker(lost, lambda number: 1), source.parts[0])
    assert row["wrong"]
    assert f"{flag} {gone}: a machine of the cluster has no such folder" in row["error"]


def test_tally__adds() -> None:
    from collections import Counter

    one = Tally(3, Counter(rejected=1), Counter(cat=2))
    two = Tally(4, Counter(rejected=2, unsure=1), Counter(dog=1))
    both = Tally(7, Counter(rejected=3, unsure=1), Counter(cat=2, dog=1))
    assert one + two == both
    assert Tally.of(both.text()) == both
