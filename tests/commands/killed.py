"""Commands in processes of their own that can be killed, started from a warm one.

A helper process imports PyTorch once and forks for each command: an interpreter takes seconds to
start, and most kills would hit its imports. The commands are real ones, from `main` to the exit.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import SHAPES, draw_shape

IMAGES = 160
"""More than one batch, and enough for reader processes."""
AT_ONCE = 3
"""Questions that are under way at once."""
MEASURED = {"environment.json", "metrics.json", "report.html", "manifest.json", "log.jsonl"}
"""Files of a run that hold times."""

HEAD = ["--tune", "head"]
COMMANDS = {
    "embed": ["embed", "--classes", "names.txt", "--extra"],
    "describe": ["describe"],
    "endpoint": ["describe", "--captioner", "endpoint", "--captioner.model", "llava"],
    "open-world": ["fit", "open-world", "--classes", "names.txt"],
    "latteclip": ["fit", "latteclip", "--classes", "names.txt", *HEAD, "--steps", "60"],
    "ship": ["fit", "ship", "--classes", "names.txt", "--epochs", "4", "--latent", "8"],
    "get": [
        "fit",
        "get",
        "--unknown",
        "2",
        *HEAD,
        "--epochs",
        "6",
        "--tes-epochs",
        "6",
        "--lr",
        "0.001",
    ],
    "predict": ["predict"],
}
OUT = {"embed": "features.safetensors", "predict": "table.csv", "describe": "texts.jsonl"}


class Place(NamedTuple):
    """What the commands work on."""

    folder: Path
    images: Path
    run: Path
    model: str


HELPER = """
import glob, json, os, signal, subprocess, sys, time
import open_clip, torch
import openai, sklearn.cluster, sklearn.linear_model, sklearn.mixture, pyarrow.parquet, tyro
import anyclass.commands.fit, anyclass.commands.embed, anyclass.commands.describe
import anyclass.commands.predict, anyclass.commands.flags, anyclass.commands.output
import anyclass.backbone.engine
import openai._base_client
from anyclass.cli import main

openai._base_client.INITIAL_RETRY_DELAY = 0.005
torch.set_num_threads(1)

def children(process):
    # Numbers of the processes that a process has started.
    lists = glob.glob(f"/proc/{process}/task/*/children")
    try:
        return " ".join(open(name).read() for name in lists).strip()
    except OSError:
        return ""

print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["before"]:
        subprocess.run(request["before"], check=True)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.environ.update(request["environment"])
        log = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 99
        try:
            code = main(request["arguments"])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(child, flush=True)
    end = time.monotonic() + request["killed_after"]
    done = 0
    readers = ""
    while not done:
        done, status = os.waitpid(child, os.WNOHANG)
        if request["while_reading"] and not done:
            readers = children(child)
        if not done and (time.monotonic() > end or readers):
            everywhere = request["signal"] == signal.SIGINT  # as from a terminal
            (os.killpg if everywhere else os.kill)(child, request["signal"])
            done, status = os.waitpid(child, 0)
        time.sleep(0.001)
    print(readers, flush=True)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Commands:
    """Starts commands, and kills them after some time."""

    def __init__(self, folder: Path, disk: Path | None = None) -> None:
        """Start the helper; with a `disk` of 128 MB at that folder, which only it sees."""
        self.output = folder / "output.txt"
        self.child = 0
        """Number of the last process, which leads its session."""
        self.readers: list[int] = []
        """Numbers of the processes that it had started when it got the signal."""
        mount = 'mount -t tmpfs -o size=128m tmpfs "$0" && exec "$@"'
        alone = [] if disk is None else ["unshare", "-rm", "sh", "-c", mount, str(disk)]
        self._helper = subprocess.Popen(
            [*alone, sys.executable, "-c", HELPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self._read() == "ready"

    def seen(self, path: Path) -> Path:
        """Where this process finds a file that the helper sees at `path`."""
        return Path(f"/proc/{self._helper.pid}/root{path}")

    def run(
        self,
        arguments: Sequence[str],
        killed_after: float | None = None,
        before: Sequence[str] = (),
        sent: int = signal.SIGKILL,
        while_reading: bool = False,
        **environment: str,
    ) -> int:
        """Exit code of a command; that of the signal if it was killed.

        Args:
            arguments: the command.
            killed_after: seconds until it is killed.
            before: what the helper runs first.
            sent: the signal; all of its processes get that of Ctrl-C.
            while_reading: send it as soon as the command has started a process.
            environment: further variables.
        """
        request = {
            "arguments": list(arguments),
            "before": list(before),
            "environment": environment,
            "output": str(self.output),
            "killed_after": 1e9 if killed_after is None else killed_after,
            "signal": int(sent),
            "while_reading": while_reading,
        }
        assert self._helper.stdin is not None
        print(json.dumps(request), file=self._helper.stdin, flush=True)
        self.child = int(self._read())
        self.readers = [int(number) for number in self._read().split()]
        return int(self._read())

    def stop(self) -> None:
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        self._helper.stdin.close()
        self._helper.wait(60)
        self._helper.stdout.close()

    def _read(self) -> str:
        assert self._helper.stdout is not None
        return self._helper.stdout.readline().strip()


def draw_place(folder: Path, run: Path, model: str) -> Place:
    """160 different images in four class folders; two more files are no images."""
    shapes = list(SHAPES.items())
    for i in range(IMAGES):
        name, shape = shapes[i % 4]
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        image = draw_shape(shape, i % 7)
        image.putpixel((i % 40, i // 40), (i, 255 - i, 7))
        image.save(folder / "images" / name / f"{i:03}.png")
    for i in (3, 90):
        (folder / "images" / "red square" / f"{i:03}b.png").write_bytes(b"no image")
    (folder / "labels.csv").write_text(
        "file_name,label\n"
        + "".join(f"{shapes[i % 4][0]}/{i:03}.png,{shapes[i % 4][0]}\n" for i in range(0, 160, 5))
    )
    names = [name for name, _ in shapes]
    (folder / "names.txt").write_text("\n".join(names) + "\n")
    some = folder / "some.csv"
    rows = [i for i in range(0, 160, 5) if i % 4 < 2]
    some.write_text(
        "file_name,label\n" + "".join(f"{names[i % 4]}/{i:03}.png,{names[i % 4]}\n" for i in rows)
    )
    return Place(folder, folder / "images", run, model)


class Work:
    """One command, with an output and a cache for each time that it begins anew."""

    def __init__(self, name: str, place: Place, root: Path, url: str = "") -> None:
        self.name = name
        self.place = place
        self.root = root
        self.url = url

    def out(self, number: int | str) -> Path:
        kind = COMMANDS[self.name][0]
        return self.root / f"out{number}" / OUT.get(kind, "run")

    def arguments(self, number: int | str) -> list[str]:
        words = [str(self.place.folder / w) if w == "names.txt" else w for w in COMMANDS[self.name]]
        words += ["--images", str(self.place.images), "--out", str(self.out(number))]
        words += ["--engine", "torch", "--device", "cpu"]
        if words[0] == "predict":
            return [*words, "--run", str(self.place.run)]
        words += ["--model", self.place.model]
        if self.name == "endpoint":
            words += ["--captioner.url", self.url, "--captioner.concurrency", str(AT_ONCE)]
        if self.name in ("ship", "get"):
            words += ["--labels", str(self.place.folder / "some.csv")]
        return words

    def environment(self, number: int | str) -> dict[str, str]:
        return {"ANYCLASS_CACHE": str(self.root / f"cache{number}")}

    def result(self, number: int | str) -> dict[str, bytes]:
        """All that was written, but for what holds times; nothing is left beside it."""
        return written(self.out(number).parent)


def written(folder: Path) -> dict[str, bytes]:
    """Bytes of all files, but for those that hold times; none of them is a draft."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if ".tmp" in path.name]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.name not in MEASURED and not path.name.startswith(".")
    }


def steps_of(log: Path) -> list[tuple[Any, ...]]:
    """What each line of a log is about, without figures that were measured."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    keys = ("stage", "loop", "step", "epoch", "done")
    small = ("index", "embed", "texts", "describe", "count", "predict")
    return [tuple(row.get(k) for k in keys) for row in rows if row.get("stage") not in small]
