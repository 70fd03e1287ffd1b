"""Progress of a command: a bar, or a line now and then, and every number in `log.jsonl`."""

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, TextIO

from tqdm import tqdm

from anyclass.data.classes import plural
from anyclass.distributed.processes import rank
from anyclass.errors import printable
from anyclass.files import storage
from anyclass.run.bars import progress_bar

Callback = Callable[..., None]
"""Gets the same named numbers and strings as the log."""

STAGES = {
    "inspect": "looking at pixels",
    "compare": "comparing images that look alike",
    "index": "reading the index of cached features anew",
    "embed": "embedding images",
    "texts": "encoding texts",
    "describe": "captioning",
    "count": "estimating the number of classes",
    "fit": "training",
    "predict": "predicting",
    "bulk": "parts of the result",
}
"""Stage in the log -> its name for people."""
UNITS = {
    "inspect": "image",
    "compare": "pair",
    "index": "file",
    "embed": "image",
    "predict": "image",
    "bulk": "part",
    "texts": "text",
    "describe": "question",
    "count": "try",
}
"""Stage -> what is counted; others count steps."""
SMALL = {"index", "inspect", "compare", "embed", "texts", "describe", "count", "predict", "bulk"}
"""Stages of which only the last step becomes a line of `log.jsonl`."""
FIRST = 3.0
"""Seconds of a stage before its first line, where no terminal shows a bar."""
EVERY = 30.0
"""Seconds between further lines."""


class Progress(AbstractContextManager["Progress"]):
    """The `log` of a run: call it with named numbers.

    `stage`, `done` and `total` together move a bar (on a terminal), or print a line at the end of
    a stage and every half a minute of a long one (elsewhere), on standard error. A `warning` is
    printed at once. Everything but the steps of `SMALL` becomes a line of `log.jsonl`; a step that
    a killed process had logged before is not logged again. Of several processes that train
    together, the first prints and writes.
    """

    def __init__(
        self,
        path: Path | None = None,
        callback: Callback | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Append to `path` and pass the same numbers to `callback`; `clock` gives seconds."""
        self._known: set[str] = set()
        self._quiet = rank() > 0
        self._file = self._continued(path) if path and not self._quiet else None
        self._callback = callback
        self._clock = clock
        self._bar: tqdm[Any] | None = None
        self._stage: tuple[str, int] = ("", 0)
        self._started = 0.0
        self._next_line = 0.0
        self._first = 0
        self._done = 0
        self.warnings: list[str] = []
        """All warnings so far."""

    def __call__(self, **numbers: Any) -> None:
        """Log named numbers and strings."""
        if self._callback:
            self._callback(**numbers)
        if "warning" in numbers:
            self.warnings.append(numbers["warning"])
            self.say(f"warning: {numbers['warning']}")
        if "done" in numbers and not self._quiet:
            self._move(numbers["stage"], numbers["done"], numbers["total"])
        quiet = numbers.get("stage") in SMALL and numbers["done"] < numbers["total"]
        if self._file and not quiet and _identity(numbers) not in self._known:
            with storage(Path(self._file.name)):
                self._file.write(json.dumps(numbers, ensure_ascii=False, default=str) + "\n")
                self._file.flush()

    def _continued(self, path: Path) -> TextIO:
        """Open `path` for appending and remember its lines.

        A last line that a kill or a full disk cut off is removed.
        """
        path.touch()
        with path.open("r+b") as file:
            text = file.read()
            file.truncate(text.rfind(b"\n") + 1)
        for line in text[: text.rfind(b"\n") + 1].splitlines():
            with suppress(ValueError):
                self._known.add(_identity(json.loads(line)))
        return path.open("a", encoding="utf-8", errors="backslashreplace")

    def say(self, sentence: str) -> None:
        """Print a line above the bar."""
        if self._quiet:
            return
        tqdm.write(printable(sentence), file=sys.stderr)

    def __exit__(self, kind: object, *_: object) -> None:
        """Close the bar and the file; at Ctrl-C, say how far it went."""
        if self._bar is not None:
            self._bar.close()
        if self._file:
            with suppress(OSError):  # a full disk, which has been said
                self._file.close()
        if kind is KeyboardInterrupt and self._stage[0]:
            stage, total = self._stage
            name = STAGES.get(stage, stage)
            self.say(f"{name}: stopped at {self._done:,} of {_counted(stage, total)}")

    def _move(self, stage: str, done: int, total: int) -> None:
        self._done = done
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
        so_far = f"{done:,} of " if done < total else ""
        self.say(f"{STAGES.get(stage, stage)}: {so_far}{_counted(stage, total)}{figures}")

    def _begin(self, stage: str, done: int, total: int) -> None:
        self._stage = (stage, total)
        self._started = self._clock()
        self._next_line = self._started + FIRST
        self._first = done
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        unit = f" {_counted(stage, 2).partition(' ')[2]}"
        name = STAGES.get(stage, stage)
        self._bar = progress_bar(total=total, desc=name, unit=unit, dynamic_ncols=True)


def _counted(stage: str, number: int) -> str:
    """What a stage counts: 1 image, 2 images."""
    return plural(number, UNITS.get(stage, "step"))


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


def _identity(line: dict[str, Any]) -> str:
    """What a line is about, without what was measured."""
    return json.dumps([sorted(line), *(str(line.get(key)) for key in _PLACE)])


_PLACE = ("stage", "loop", "step", "epoch", "done", "total", "warning")
"""Keys of a line that say what it is about."""
