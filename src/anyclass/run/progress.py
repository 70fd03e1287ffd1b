"""Progress of a command: a bar or a few lines on the screen, and every number in `log.jsonl`."""

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
    "embed": "embedding images",
    "describe": "captioning",
    "count": "estimating the number of classes",
    "fit": "training",
    "predict": "predicting",
}
"""Stage in the log -> its name for people."""
SMALL = {"embed", "describe", "count", "predict"}
"""Stages of which only the last step becomes a line of `log.jsonl`."""


class Progress(AbstractContextManager["Progress"]):
    """The `log` of a run: call it with named numbers.

    `stage`, `done` and `total` together move a bar (on a terminal) or print a line every 10 %
    (elsewhere), on standard error. A `warning` is printed at once. Everything but the steps of
    `SMALL` becomes a line of `log.jsonl`.
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
        self._tenth = 0
        self._started = 0.0
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
        elif total and done * 10 // total > self._tenth:
            self._tenth = done * 10 // total
            seconds = max(1e-9, self._clock() - self._started)
            rate = f" ({(done - self._first) / seconds:.3g}/s)" if done > self._first else ""
            self.say(f"{STAGES.get(stage, stage)}: {done} of {total}{rate}")

    def _begin(self, stage: str, done: int, total: int) -> None:
        self._stage = (stage, total)
        self._tenth = 0
        self._started = self._clock()
        self._first = done
        if self._bar is not None:
            self._bar.close()
        name = STAGES.get(stage, stage)
        self._bar = progress_bar(total=total, desc=name)


def _continued(path: Path) -> TextIO:
    """Open `path` for appending, without a last line that a kill or a full disk cut off."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8", errors="backslashreplace")
