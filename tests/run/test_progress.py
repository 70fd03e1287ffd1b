"""What a command says while it runs: lines or a bar, every number in log.jsonl."""

import fcntl
import io
import json
import os
import re
import struct
import termios
from pathlib import Path
from typing import Any

import pytest

from anyclass.errors import printable
from anyclass.run.progress import Progress


class Terminal(io.StringIO):
    """Standard error of somebody who watches."""

    def isatty(self) -> bool:
        return True


def test_progress__a_line_now_and_then_and_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = 0.0
    with Progress(clock=lambda: seconds) as log:
        for done in range(1, 2001):  # two a second
            log(stage="embed", done=done, total=2000)
            seconds += 0.5
        log(stage="fit", done=1, total=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "embedding images: 7 of 2,000 images (2/s, 17 min left)",  # after three seconds
        "embedding images: 67 of 2,000 images (2/s, 16 min left)",  # half a minute later
    ]
    assert lines[-3:] == [
        "embedding images: 1,987 of 2,000 images (2/s, 6 s left)",
        "embedding images: 2,000 images (2/s, in 17 min)",
        "training: 1 step",
    ]
    assert len(lines) == 36
    assert not any("\r" in line for line in lines)


def test_progress__no_rate_without_two_points(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as log:
        log(stage="embed", done=14, total=14)
        log(stage="describe", done=3, total=3)
    assert capsys.readouterr().err == "embedding images: 14 images\ncaptioning: 3 questions\n"


def test_progress__the_rate_is_that_of_the_stage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = iter([100.0, 100.0, 104.0])
    with Progress(clock=clock.__next__) as log:
        log(stage="embed", done=3, total=80)
        log(stage="embed", done=9, total=80)
    assert capsys.readouterr().err == "embedding images: 9 of 80 images (1.5/s, 47 s left)\n"


def test_progress__a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with Progress() as log:
        log(stage="embed", done=2, total=5)
        log.say("left out")
        log(stage="embed", done=5, total=5)
        log(stage="fit", done=1, total=3)
    text = screen.getvalue()
    assert "embedding images: 100%" in text
    assert "5/5" in text
    assert "training:  33%" in text
    assert "images/s]" in text
    assert "left out\n" in text


@pytest.mark.parametrize("columns", [0, 100])
def test_progress__a_line_for_each_stage_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Of whatever size: a container says 0."""
    reading, writing = os.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    with os.fdopen(writing, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with Progress() as log:
            for stage, total in (("embed", 40), ("fit", 3)):
                for done in range(1, total + 1):
                    log(stage=stage, done=done, total=total)
        terminal.flush()
        shown = b""
        while shown.count(b"\n") < 2:  # it comes in parts
            shown += os.read(reading, 100_000)
    os.close(reading)
    lines = [line.rpartition("\r")[2] for line in shown.decode().split("\r\n")]
    first, second, rest = lines
    assert first.startswith("embedding images: 100%|")
    assert re.search(r"\| 40/40 \[00:00<00:00, .*images/s\]$", first)
    assert re.search(r"^training: 100%\|.*\| 3/3 \[00:00<00:00, .*steps/s\]$", second)
    assert rest == ""
    assert 70 < len(first) <= (columns or 80)


def test_progress__writes_lines_that_continue_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"stage": "before"}\n')
    with Progress(path) as log:
        for done in (1, 2):
            log(stage="embed", done=done, total=2)
        log(stage="fit", done=1, total=9, zs_loss=0.5, files=(Path("ä"),))
        log(stage="latteclip", agreement=1.0)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"stage": "before"},
        {"stage": "embed", "done": 2, "total": 2},
        {"stage": "fit", "done": 1, "total": 9, "zs_loss": 0.5, "files": ["ä"]},
        {"stage": "latteclip", "agreement": 1.0},
    ]


def test_progress__logs_no_step_twice(tmp_path: Path) -> None:
    """The second process computes steps again that the first, killed one had logged."""
    path = tmp_path / "log.jsonl"
    for steps in ([1, 2, 3], [2, 3, 4]):
        with Progress(path) as log:
            for done in steps:
                log(stage="ship", epoch=done)
                log(stage="fit", loop="generator", done=done, total=4, loss=0.5 + 1e-7 * len(steps))
    with Progress(path) as log:  # another loop with steps of its own
        for done in (1, 2):
            log(stage="fit", loop="then", done=done, total=4, loss=0.25)
            log(warning="texts are cut off")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    steps = [line["done"] for line in lines if line.get("loop") == "generator"]
    assert steps == [line["epoch"] for line in lines if "epoch" in line] == [1, 2, 3, 4]
    assert [line["done"] for line in lines if line.get("loop") == "then"] == [1, 2]
    assert sum("warning" in line for line in lines) == 2, "twice in one process"


@pytest.mark.parametrize("kept", ["", '{"step": 1}\n', '{"name": "ä"}\n{"step": 1}\n'])
@pytest.mark.parametrize("torn", ["", "{", '{"ste', '{"name": "ä'])
def test_progress__drops_a_line_that_was_cut_off(tmp_path: Path, kept: str, torn: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes((kept + torn).encode()[: -1 if "ä" in torn else None])
    with Progress(path) as log:
        log(step=2)
    assert path.read_text(encoding="utf-8") == kept + '{"step": 2}\n'


def test_progress__passes_everything_on(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[dict[str, Any]] = []
    with Progress(callback=lambda **numbers: seen.append(numbers)) as log:
        log(stage="embed", done=1, total=2)
        log(warning="a cache file was damaged")
    assert seen == [
        {"stage": "embed", "done": 1, "total": 2},
        {"warning": "a cache file was damaged"},
    ]
    assert log.warnings == ["a cache file was damaged"]
    assert "warning: a cache file was damaged\n" in capsys.readouterr().err


def test_progress__a_name_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as log:
        log.say("rejected \x1b[2J\x07\u202egnp.jpg \udcff.png: ä 日本")
    assert capsys.readouterr().err == r"rejected \x1b[2J\x07\u202egnp.jpg \udcff.png: ä 日本" + "\n"


def test_printable__keeps_lines() -> None:
    assert printable("two\nlines\tand\ra \\ sign") == "two\nlines\\tand\\ra \\ sign"
