"""Progress of a command: a bar, or a line now and then, and every number in `log.jsonl`."""

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic
from typing import Any, TextIO

from tqdm import tqdm

from anyclass.errors import printable
from anyclass.run.bars import progress_bar

Callback = Callable[..., None]
"""Gets the same named numbers and strings as the log."""

STAGES = {
    "inspect": "looking at pixels",
    "compare": "comparing images that look alike",
    "embed": "embedding images",
    "texts": "encoding texts",
    "describe": "captioning",
    "count": "estimating the number of classes",
    "fit": "training",
    "predict": "predicting",
}
"""Stage in the log -> its name for people."""
UNITS = {
    "inspect": " images",
    "embed": " images",
    "predict": " images",
    "texts": " texts",
    "describe": " questions",
}
"""Stage -> what is counted."""
SMALL = {"inspect", "compare", "embed", "texts", "describe", "count", "predict"}
"""Stages of which only the last step becomes a line of `log.jsonl`."""
FIRST = 3.0
"""Seconds of a stage before its first line, where no terminal shows a bar."""
EVERY = 30.0
"""Seconds between further lines."""


class Progress(AbstractContextManager["Progress"]):
    """The `log` of a run: call it with named numbers.

    `stage`, `done` and `total` together move a bar (on a terminal), or print a line at the end of
    a stage and every half a minute of a long one (elsewhere), on standard error. A `warning` is
    printed at once. Everything but the steps of `SMALL` becomes a line of `log.jsonl`.
    """

    def __init__(
        self,
        path: Path | None = None,
        callback: Callback | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Append to `path` and pass the same numbers to `callback`; `clock` gives seconds."""
        self._file = _continued(path) if path else None
        self._callback = callback
        self._clock = clock
        self._bar: tqdm[Any] | None = None
        self._stage: tuple[str, int] = ("", 0)
        self._started = 0.0
        self._next_line = 0.0
        self._first = 0
        self.warnings: list[str] = []
        """All warnings so far."""

    def __call__(self, **numbers: Any) -> None:
        """Log named numbers and strings."""
        if self._callback:
            self._callback(**numbers)
        if "warning" in numbers:
            self.warnings.append(numbers["warning"])
            self.say(f"warning: {numbers['warning']}")
        if "done" in numbers:
            self._move(numbers["stage"], numbers["done"], numbers["total"])
        quiet = numbers.get("stage") in SMALL and numbers["done"] < numbers["total"]
        if self._file and not quiet:
            self._file.write(json.dumps(numbers, ensure_ascii=False, default=str) + "\n")
            self._file.flush()

    def say(self, sentence: str) -> None:
        """Print a line above the bar."""
        tqdm.write(printable(sentence), file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        """Close the bar and the file."""
        if self._bar is not None:
            self._bar.close()
        if self._file:
            self._file.close()

    def _move(self, stage: str, done: int, total: int) -> None:
        if (stage, total) != self._stage:
            self._begin(stage, done, total)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            return
        now = self._clock()
        if done < total and now < self._next_line:
            return
        self._next_line = now + EVERY
        figures = _figures(done - self._first, total - done, now - self._started)
        so_far = f"{done:,} of {total:,}" if done < total else f"{total:,}"
        self.say(f"{STAGES.get(stage, stage)}: {so_far}{UNITS.get(stage, '')}{figures}")

    def _begin(self, stage: str, done: int, total: int) -> None:
        self._stage = (stage, total)
        self._started = self._clock()
        self._next_line = self._started + FIRST
        self._first = done
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        unit = UNITS.get(stage, " steps")
        name = STAGES.get(stage, stage)
        self._bar = progress_bar(total=total, desc=name, unit=unit, dynamic_ncols=True)


def _figures(done: int, left: int, seconds: float) -> str:
    """Speed, and the time that is left or was taken; nothing before there is a speed."""
    if done <= 0 or seconds <= 0:
        return ""
    speed = done / seconds
    time = f"{duration(left / speed)} left" if left else f"in {duration(seconds)}"
    return f" ({speed:.3g}/s, {time})"


def duration(seconds: float) -> str:
    """Seconds for people: `7 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _continued(path: Path) -> TextIO:
    """Open `path` for appending, without a last line that a kill or a full disk cut off."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8", errors="backslashreplace")
