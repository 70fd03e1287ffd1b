"""Killed at any moment: the same command, given again, ends with the bytes of an unbroken run."""

import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.commands.killed import (
    AT_ONCE,
    COMMANDS,
    IMAGES,
    Commands,
    Place,
    Work,
    draw_place,
    steps_of,
)

KILLS = 20


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    started = Commands(tmp_path_factory.mktemp("helper"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def place(tiny_clip: Callable[..., str], fitted: Any, tmp_path_factory: Any) -> Place:
    return draw_place(tmp_path_factory.mktemp("killed"), fitted.run, tiny_clip())


def finished(work: Work, number: int) -> bool:
    out = work.out(number)
    return (out / "manifest.json").exists() if COMMANDS[work.name][0] == "fit" else out.exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", COMMANDS)
def test_command__killed_twenty_times(
    name: str, commands: Commands, place: Place, tmp_path: Path, start_server: Any
) -> None:
    server = start_server()
    server.seconds = 0.005
    work = Work(name, place, tmp_path, server.url)
    began = time.monotonic()
    code = commands.run(work.arguments("whole"), **work.environment("whole"))
    assert code == 0, commands.output.read_text()[-2000:]
    seconds = time.monotonic() - began
    asked = len(server.questions)
    draw = random.Random(name)
    number = kills = tries = 0
    killed_in = Counter[int]()
    while kills < KILLS:
        tries += 1
        assert tries < 10 * KILLS
        (work.root / f"out{number}").mkdir(exist_ok=True)
        moment = draw.uniform(0, seconds)
        code = commands.run(work.arguments(number), moment, **work.environment(number))
        assert code in (0, -signal.SIGKILL), commands.output.read_text()[-2000:]
        kills += code != 0
        killed_in[number] += code != 0
        number += finished(work, number)
    if not finished(work, number):
        (work.root / f"out{number}").mkdir(exist_ok=True)
        assert commands.run(work.arguments(number), **work.environment(number)) == 0
    whole = work.result("whole")
    for begun in range(number + finished(work, number)):
        assert work.result(begun).keys() == whole.keys()
        for file, content in work.result(begun).items():
            assert content == whole[file], f"{file}, after {killed_in[begun]} kills"
        if COMMANDS[name][0] == "fit":
            steps = steps_of(work.out(begun) / "log.jsonl")
            assert steps == steps_of(work.out("whole") / "log.jsonl"), "one line for each step"
    if name == "endpoint":
        answered = IMAGES * (number + 2)
        assert asked == IMAGES
        assert answered <= len(server.questions) <= answered + kills * AT_ONCE
        for cache in work.root.glob("cache*/answers/*.sqlite"):
            with closing(sqlite3.connect(cache)) as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    print(f"{name}: {kills} kills, {number + 1} completions, {tries} tries, {seconds:.1f} s")


def alive(session: int) -> list[int]:
    """Processes of a session, but for those that have ended and wait to be read."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its) == session and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to count processes")
@pytest.mark.parametrize("name", ["embed", "open-world", "predict"])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_command__stopped_leaves_no_process(
    name: str, sent: signal.Signals, commands: Commands, place: Place, tmp_path: Path
) -> None:
    work = Work(name, place, tmp_path)
    for number in range(KILLS // 4):
        work.out(number).parent.mkdir()
        arguments = work.arguments(number)
        commands.output.write_text("")
        code = commands.run(arguments, sent=sent, while_reading=True, **work.environment(number))
        assert code == (130 if sent == signal.SIGINT else -sent)
        assert commands.readers, "no reader was running"
        end = time.monotonic() + 10
        while (left := alive(commands.child)) and time.monotonic() < end:
            time.sleep(0.1)
        assert not left
        said = commands.output.read_text()
        assert "Traceback" not in said
        if sent == signal.SIGINT:
            assert said.splitlines()[-1].startswith("stopped; ")
            assert "run the same command again" in said.splitlines()[-1]
