"""Memory of `predict` while it labels many images.

    python benchmarks/predict_memory.py --images 200000 --model local-dir:FOLDER

Images are hard links to a few drawings. Prints the memory of the command (anonymous pages), and of
its readers what they do not share with it, while it runs, and the growth of both per image.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw

from anyclass.api.fit import fit

DRAWINGS = 40
"""Different images."""


def main() -> None:
    """Make images, predict them, and print the memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--size", type=int, default=48, help="side of the drawings in pixels")
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        work = Path(name)
        images = draw(work / "images", asked.images, asked.size)
        few = draw(work / "few", DRAWINGS, asked.size)
        known = {"model": asked.model, "engine": asked.engine, "device": "cpu"}
        fit(few, method="zero-shot", out=work / "run", classes=["red ring", "blue disc"], **known)
        words = ["predict", "--run", work / "run", "--images", images, "--out", work / "out.csv"]
        words += ["--engine", asked.engine, "--device", "cpu"]
        measure([sys.executable, "-m", "anyclass", *map(str, words)], asked.images)
        size = (work / "out.csv").stat().st_size
        print(f"table: {size / 2**20:.1f} MB")


def draw(folder: Path, count: int, size: int) -> Path:
    """A folder with hard links to a few drawings, a thousand in each subfolder."""
    sources: list[Path] = []
    for i in range(count):
        path = folder / f"{i // 1000:05}" / f"{i:08}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i >= DRAWINGS:
            os.link(sources[i % DRAWINGS], path)
            continue
        image = Image.new("RGB", (size + 8, size), "white")
        colour = ("red", "green", "blue")[i % 3]
        ImageDraw.Draw(image).ellipse((i % 20, i % 11, 30 + i % 7, 40), fill=colour)
        image.save(path)
        sources.append(path)
    return folder


def measure(command: list[str], images: int) -> None:
    """Run a command, and print its memory as often as it says how far it is."""
    seen: list[tuple[int, float, float]] = []
    started = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            found = re.match(r"predicting: ([\d,]+) of", line)
            if not found:
                continue
            main = megabytes(process.pid, "Anonymous")
            readers = sum(megabytes(child, "Private_Dirty") for child in children(process.pid))
            done = int(found[1].replace(",", ""))
            seen.append((done, main, readers))
            seconds = time.monotonic() - started
            print(
                f"{done:,} images, {seconds:.0f} s: {main:.1f} MB, readers {readers:.1f} MB",
                flush=True,
            )
    count = seen[-1][0] - seen[0][0]
    growth = [(seen[-1][i] - seen[0][i]) * 2**20 / count for i in (1, 2)]
    print(f"growth: {growth[0]:.0f} bytes per image, of the readers {growth[1]:.0f}")


def children(process: int) -> list[int]:
    """Processes that a process has started."""
    lists = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for file in lists for child in file.read_text().split()]


def megabytes(process: int, kind: str) -> float:
    """Megabytes of one kind of pages of a process; none if it has ended."""
    with suppress(OSError):
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
        return sum(int(n) for n in re.findall(rf"^{kind}: +(\d+) kB$", text, re.M)) / 1024
    return 0.0


if __name__ == "__main__":
    main()
