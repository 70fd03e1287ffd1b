"""Train again: the second round as a process of its own, with its progress."""

import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Literal

from anyclass.errors import RequestError, printable
from anyclass.files import Json

State = Literal["idle", "running", "finished", "failed", "cancelled"]
"""What became of the last training."""

PATIENCE = 10.0
"""Seconds that a cancelled training gets to end by itself."""

_CODE = "import sys; from anyclass.cli import main; sys.exit(main())"
_STEP = re.compile(r"^(.+?): (\d+) of (\d+)\b")


class Training:
    """One training at a time, started from the page."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self.state: State = "idle"
        self.run: Path | None = None
        """The run that is written."""
        self._process: subprocess.Popen[str] | None = None
        self._lines: deque[str] = deque(maxlen=40)
        self._thread: Thread | None = None

    def start(self, options: Sequence[str], out: Path) -> None:
        """Start `anyclass fit auto OPTIONS --out OUT`.

        Raises:
            RequestError: a training is running.
        """
        if self.state == "running":
            raise RequestError("a training is running: wait for its end, or cancel it")
        command = [sys.executable, "-u", "-c", _CODE, "fit", "auto", *options, "--out", str(out)]
        self._lines.clear()
        self.run = out
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self.state = "running"
        self._thread = Thread(target=self._follow, args=(self._process,), daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Stop the training as Ctrl-C does, and if it does not end, kill it."""
        process = self._process
        if self.state != "running" or process is None:
            return
        self.state = "cancelled"
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the end of the training."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _follow(self, process: subprocess.Popen[str]) -> None:
        """Read what the process says until it ends."""
        if process.stderr is not None:
            for line in process.stderr:
                if line.strip():
                    self._lines.append(printable(line.strip()))
            process.stderr.close()
        code = process.wait()
        if self.state == "running" and process is self._process:  # not the next one
            self.state = "finished" if code == 0 else "failed"

    def progress(self) -> Json:
        """State, last line, and done and total of the stage, if they are known."""
        line = self._lines[-1] if self._lines else ""
        step = _STEP.match(line)
        return {
            "state": self.state,
            "run": None if self.run is None else self.run.name,
            "line": line,
            "done": int(step[2]) if step else None,
            "total": int(step[3]) if step else None,
        }
