"""What a running command says: a bar or a few lines on the screen, every number in `log.jsonl`."""

import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from anyclass.errors import printable

Callback = Callable[..., None]
"""Gets what the log gets: named numbers and words."""

STAGES = {
    "embed": "looking at images",
    "describe": "asking",
    "count": "counting classes",
    "fit": "training",
    "predict": "labelling",
}
"""Stage in the log -> what people read."""
SMALL = {"embed", "describe", "count", "predict"}
"""Stages whose steps are too small for a line each in `log.jsonl`."""


class Progress(AbstractContextManager["Progress"]):
    """The `log` of a run: call it with named numbers.

    `stage`, `done` and `total` together move a bar (on a terminal) or print a line every tenth
    (elsewhere), on standard error. `warning` is said once, at once. Everything but the steps of
    `SMALL` becomes a line of `log.jsonl`.
    """

    def __init__(self, path: Path | None = None, callback: Callback | None = None) -> None:
        """Append to `path`; pass the same numbers on to `callback`."""
        self._file = _continued(path) if path else None
        self._callback = callback
        self._bar: tqdm[Any] | None = None
        self._stage: tuple[str, int] = ("", 0)
        self._tenth = 0
        self._started, self._first = 0.0, 0
        self.warnings: list[str] = []
        """Everything that was said under `warning`."""

    def __call__(self, **numbers: Any) -> None:
        """Take named numbers and words."""
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
        """A line for people, above the bar."""
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
            seconds = max(1e-9, time.monotonic() - self._started)
            rate = f" ({(done - self._first) / seconds:.3g}/s)" if done > self._first else ""
            self.say(f"{STAGES.get(stage, stage)}: {done} of {total}{rate}")

    def _begin(self, stage: str, done: int, total: int) -> None:
        self._stage, self._tenth = (stage, total), 0
        self._started, self._first = time.monotonic(), done
        if self._bar is not None:
            self._bar.close()
        name = STAGES.get(stage, stage)
        self._bar = tqdm(total=total, desc=name, file=sys.stderr) if sys.stderr.isatty() else None


def _continued(path: Path) -> TextIO:
    """`path`, to append to; a last line that a kill or a full disk cut off is dropped."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8", errors="backslashreplace")
