"""A disk that is full or read-only: one line, nothing lost, and the same command goes on."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands.killed import COMMANDS, Commands, Place, Work, draw_place

ROOM = [0, 1, 8, 30, 60, 120, 250, 500, 1000]
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


def fill(folder: Path, kilobytes: int) -> None:
    """Leave so much space on the disk of a folder."""
    filler = folder / "filler"
    filler.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free - 1024 * kilobytes
    filler.write_bytes(b"x" * max(0, free))


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
