"""CPU seconds until the command line answers, those of a warm demo, seconds to the first line.

    python benchmarks/startup.py [--against CHECKOUT] [--repeat 3] [--no-demo]

Beside `import torch` alone. `--against` measures another checkout in the same run: its `src` is put
in front, each row alternates between the two. Seconds are user + system of the whole process, all
threads, the median of the repetitions; the demo runs into a folder and a cache that an earlier run
has filled, a cache for each checkout. The first line of each command, on the images and the run of
that demo, is timed by the clock, here alone.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]

RUN = "import sys; from anyclass.cli import main; sys.exit(main(sys.argv[1:]))"

TORCH = "import torch"

ROWS = {
    "import torch": [TORCH],
    "import anyclass": ["import anyclass"],
    "anyclass --help": [RUN, "--help"],
    "anyclass fit --help": [RUN, "fit", "--help"],
    "anyclass fit auto --help": [RUN, "fit", "auto", "--help"],
    "anyclass fit latteclip --captioner endpoint --help": [
        *(RUN, "fit", "latteclip", "--captioner", "endpoint", "--help")
    ],
    "anyclass predict --help": [RUN, "predict", "--help"],
    "anyclass evaluate --help": [RUN, "evaluate", "--help"],
    "anyclass models --help": [RUN, "models", "--help"],
    "anyclass fit auto --imges x": [RUN, "fit", "auto", "--imges", "x"],
    "anyclass fit autoo": [RUN, "fit", "autoo"],
}
"""What a row shows -> the code to run, and its arguments."""


ON_THE_DEMO = {
    "plan": "plan --images {images} --labels folders --unknown 1",
    "fit": "fit auto --images {images} --labels folders --out fitted",
    "describe": "describe --images {images} --out texts.jsonl",
    "embed": "embed --images {images} --out features.npz",
    "predict": "predict --run demo-run --images {images} --out predictions.csv",
    "evaluate": "evaluate --run demo-run --images {images} --labels folders",
    "rename": "rename --run demo-run",
    "report": "report --run demo-run",
    "serve": "serve --run demo-run --port 0",
    "export": "export --run demo-run --folders sorted",
    "models": "models --contains ViT-B",
}
"""Command -> a request that it takes seconds to answer."""


def cpu_seconds(arguments: list[str], environment: Mapping[str, str], folder: Path) -> float:
    """User and system seconds of one fresh interpreter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", *arguments],
        env=environment,
        cwd=folder,
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def medians(
    arguments: list[str], checkouts: Mapping[Path, Path], repeat: int, warm_up: bool
) -> list[float]:
    """Median seconds in each checkout, in turns; its folder holds cache and results."""
    found: dict[Path, list[float]] = {root: [] for root in checkouts}
    for turn in range(repeat + warm_up):
        for root, folder in checkouts.items():
            environment = os.environ | {
                "PYTHONPATH": str(root / "src"),
                "ANYCLASS_CACHE": str(folder / "cache"),
            }
            seconds = cpu_seconds(arguments, environment, folder)
            if turn >= warm_up:
                found[root].append(seconds)
    return [statistics.median(seconds) for seconds in found.values()]


def seconds_to_first_line(words: list[str], environment: Mapping[str, str], folder: Path) -> float:
    """Seconds until a command has printed something, on either stream; it is then ended."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *words],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout
        assert process.stdout.readline(), words
        seconds = time.perf_counter() - start
        process.terminate()
    return seconds


def print_first_lines(folder: Path, repeat: int) -> None:
    """Print the seconds to the first line of each command, on the demo in `folder`."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "ANYCLASS_CACHE": str(folder / "cache"),
    }
    images = json.loads((folder / "demo-run" / "config.json").read_text("utf-8"))["images"]
    print(f"{'seconds to the first line':52} {'here':>8}")
    for name, line in ON_THE_DEMO.items():
        words = [images if word == "{images}" else word for word in line.split()]
        times = [seconds_to_first_line(words, environment, folder) for _ in range(repeat)]
        print(f"{'anyclass ' + name:52} {statistics.median(times):8.2f}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-demo", action="store_true", help="leave the demo out")
    asked = parser.parse_args()
    roots = [ROOT, asked.against.resolve()] if asked.against else [ROOT]
    rows = dict(ROWS)
    if not asked.no_demo:
        rows["anyclass demo, warm"] = [RUN, "demo", "--out", "demo-run"]
    print(
        f"{'CPU seconds':52} {'here':>8}" + (f" {'there':>8} {'ratio':>7}" if asked.against else "")
    )
    with tempfile.TemporaryDirectory() as scratch:
        checkouts = {root: Path(scratch) / str(at) for at, root in enumerate(roots)}
        for folder in checkouts.values():
            folder.mkdir()
        for name, arguments in rows.items():
            warm_up = "demo" in arguments
            seconds = medians(arguments, checkouts, asked.repeat, warm_up)
            shown = [f"{value:8.2f}" for value in seconds]
            if asked.against:
                shown.append(f"{seconds[0] / seconds[1]:8.1%}")
            print(f"{name:52}", *shown, flush=True)
        if not asked.no_demo:
            print_first_lines(checkouts[ROOT], asked.repeat)


if __name__ == "__main__":
    main()
