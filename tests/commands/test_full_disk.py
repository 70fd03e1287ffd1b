"""A disk that is full or read-only: one line, nothing lost, and the same command goes on."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import pytest

from anyclass.cli import main
from tests.commands.killed import COMMANDS, Commands, Place, Work, draw_place, written
from tests.small_disk import fill, on_small_disk

ROOM = [0, 1, 8, 30, 60, 120, 250, 500, 1000, 3000, 10_000, 45_000]
"""Kilobytes that are free at each try, so that another writer meets the end of the disk."""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory, disk: Path) -> Iterator[Commands]:
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare here, so no disk can be made")
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    tried = subprocess.run(mount, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"mounts are forbidden here: {tried.stderr.strip()}")
    started = Commands(tmp_path_factory.mktemp("helper"), disk)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def place(tiny_clip: Callable[..., str], fitted: Any, tmp_path_factory: Any) -> Place:
    return draw_place(tmp_path_factory.mktemp("full"), fitted.run, tiny_clip())


def write_until_it_fits(
    disk: Path, rooms: Sequence[int], arguments: Sequence[str]
) -> list[tuple[int, str]]:
    """Exit code and last line of a command at each try, the last with enough space."""
    seen = []
    for room in (*rooms, 4000):
        fill(disk, room)
        with TemporaryFile("w+") as screen:
            code = in_fork(arguments, screen)
            screen.seek(0)
            seen.append((code, screen.read().rstrip().rpartition("\n")[2]))
        assert not drafts(disk)
        if code == 0:
            break
    return seen


def in_fork(arguments: Sequence[str], screen: IO[str]) -> int:
    """Exit code of a command in a process of its own, which goes on where earlier ones ended."""
    child = os.fork()
    if child == 0:
        with redirect_stderr(screen), redirect_stdout(StringIO()):
            code = main(arguments)
        screen.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


SHORT = {
    "fit": ["fit", "open-world", "--classes", "NAMES", "--model", "MODEL", "--out"],
    "endpoint": [*COMMANDS["endpoint"], "--model", "MODEL", "--out"],
    "predict": ["predict", "--run", "RUN", "--out"],
}
SHORT_ROOM = {"fit": [0, 60], "endpoint": [0, 30], "predict": [0, 4]}
"""Kilobytes that are free at each try: for the first writer, and for one of the last."""
EXPORTS = {
    "--open-clip": ("clip", [0, 504]),
    "--folders": ("folders", [0]),
    "--cleanlab": ("arrays", [0, 4, 8]),
    "--label-studio": ("tasks.json", [0, 4, 8]),
    "--fiftyone": ("samples.json", [0]),
}
"""What is written, and kilobytes that are free at each try: 504 suffice for the weights alone."""


@pytest.mark.parametrize("name", SHORT)
def test_command__on_a_disk_that_was_full_ends_as_on_another(
    name: str, fitted: Any, names: Path, tmp_path: Path, server: Any, monkeypatch: Any
) -> None:
    disk = tmp_path / "disk"
    other = tmp_path / "other"
    words = {"RUN": str(fitted.run), "NAMES": str(names), "MODEL": fitted.model}
    asked = [words.get(word, word) for word in SHORT[name]]
    more = ["--images", str(fitted.images), "--device", "cpu", "--engine", "torch"]
    if name == "endpoint":
        more += ["--captioner.url", server.url, "--captioner.concurrency", "1"]

    def run(folder: Path, rooms: Sequence[int]) -> tuple[list[tuple[int, str]], dict[str, bytes]]:
        monkeypatch.setenv("ANYCLASS_CACHE", str(folder / "cache"))
        out = folder / "out" / {"predict": "table.csv", "endpoint": "texts.jsonl"}.get(name, "run")
        said = write_until_it_fits(folder, rooms, [*asked, str(out), *more])
        return said, written(out.parent)

    disk.mkdir()
    other.mkdir()
    said, files = on_small_disk(disk, 6000, lambda: run(disk, SHORT_ROOM[name]))
    assert files == on_small_disk(other, 6000, lambda: run(other, []))[1]
    check_refusals(said, 2)
    if name == "endpoint":
        assert len(server.questions) <= 2 * 13 + len(said) - 1, "kept answers are not asked again"


@pytest.mark.parametrize("flag", EXPORTS)
def test_export__to_a_disk_that_was_full_begins_anew(
    flag: str, fitted: Any, tmp_path: Path
) -> None:
    name, rooms = EXPORTS[flag]
    disk = tmp_path / "disk"
    disk.mkdir()
    out = disk / "out" / name

    def run() -> tuple[list[tuple[int, str]], list[str]]:
        out.parent.mkdir()
        arguments = ["export", "--run", str(fitted.run), flag, str(out)]
        said = write_until_it_fits(disk, rooms, arguments)
        return said, sorted(written(out.parent))

    said, files = on_small_disk(disk, 6000, run)
    check_refusals(said, len(rooms))
    assert files


def check_refusals(said: Sequence[tuple[int, str]], tries: int) -> None:
    """All tries but the last found no space, and said so in one line."""
    *refused, (code, line) = said
    assert code == 0, line
    assert len(refused) == tries, said
    for code, line in refused:
        assert code == 1
        assert re.match(r"anyclass: \S+ cannot be (written|read or written): ", line), line
        assert "run the same command again" in line
        assert re.search("No space left|disk is full|database or disk", line), line


def last_line(commands: Commands) -> str:
    text = commands.output.read_text()
    assert "Traceback" not in text, text[-3000:]
    return text.rstrip().splitlines()[-1]


def drafts(folder: Path) -> list[str]:
    """Unfinished files, but for the rows that `predict` goes on from."""
    return [p.name for p in folder.rglob(".anyclass-*.tmp*") if p.suffix != ".rows"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", COMMANDS)
def test_command__on_a_full_disk(
    name: str, commands: Commands, place: Place, disk: Path, tmp_path: Path, start_server: Any
) -> None:
    server = start_server()
    whole = Work(name, place, tmp_path, server.url)
    code = commands.run(whole.arguments("whole"), **whole.environment("whole"))
    assert code == 0, last_line(commands)
    work = Work(name, place, disk, server.url)
    here = commands.seen(disk)
    for left in here.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    refused = 0
    for room in ROOM:
        fill(here, room)
        code = commands.run(work.arguments(0), **work.environment(0))
        if code == 0:
            break
        refused += 1
        line = last_line(commands)
        assert code == 1, line
        assert re.match(r"anyclass: \S+ cannot be (written|read or written): ", line), line
        assert "run the same command again" in line
        assert re.search("No space left|disk is full|database or disk", line), line
        assert not drafts(here)
    assert refused >= 3, "the disk was hardly ever full"
    (here / "filler").unlink()
    if code:
        code = commands.run(work.arguments(0), **work.environment(0))
    assert code == 0, last_line(commands)
    seen = Work(name, place, here)
    assert seen.result(0).keys() == whole.result("whole").keys()
    for file, content in whole.result("whole").items():
        assert seen.result(0)[file] == content, file
    if name == "endpoint":
        paid = len(server.questions) - 160
        assert paid <= 160 + refused * 4, "answers that were kept are not asked again"


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_command__in_a_read_only_folder(
    name: str, commands: Commands, place: Place, disk: Path, start_server: Any
) -> None:
    work = Work(name, place, disk, start_server().url)
    read_only = ["mount", "-o", "remount,ro", str(disk)]
    again = ["mount", "-o", "remount,rw", str(disk)]
    try:
        code = commands.run(work.arguments(1), before=read_only, **work.environment(1))
        line = last_line(commands)
    finally:
        commands.run(["--version"], before=again)
    assert code == 1, line
    assert re.match(r"anyclass: \S+ cannot be (written|read or written): Read-only", line), line
