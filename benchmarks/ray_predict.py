"""Bulk prediction on Ray while a process is killed: rows, duplicates, missing images, seconds.

    python benchmarks/ray_predict.py --images 100000 --kill worker
    python benchmarks/ray_predict.py --images 100000 --kill command

Images are hard links to a few drawings, one in a thousand is torn. When half of the parts are
there, a worker is killed (the command goes on) or the command with all its processes (it is run
again). Each row is compared with what `predict` says of its drawing in one process.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from pyarrow import parquet

from anyclass.api.fit import fit
from anyclass.commands.predict import predict

DRAWINGS = 40
"""Different images."""

TORN = 1000
"""One image in so many cannot be read."""

COLOURS = ("red", "green", "blue", "orange")
SHAPES = ("ellipse", "rectangle")


def main() -> None:
    """Make images, predict them, kill, and print what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--kill", choices=("worker", "command", "nothing"), default="worker")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--part-size", type=int, default=1000)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--size", type=int, default=160, help="side of the drawings in pixels")
    parser.add_argument("--work", type=Path, default=Path("ray-benchmark"), help="folder, emptied")
    asked = parser.parse_args()
    shutil.rmtree(asked.work, ignore_errors=True)
    drawings = _draw(asked.work / "drawings", asked.size)
    images = _link(asked.work / "images", drawings, asked.images)
    run = asked.work / "run"
    classes = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    known = {"classes": classes, "model": asked.model, "engine": asked.engine, "device": "cpu"}
    fit(asked.work / "drawings", method="zero-shot", out=run, **known)
    plain = asked.work / "plain.parquet"
    predict(run, asked.work / "drawings", plain, engine=asked.engine, device="cpu")
    expected = {row["file_name"]: row for row in parquet.read_table(plain).to_pylist()}
    result = _timed(asked, run)
    print(json.dumps(result | _compared(asked.work / "out", images, expected), indent=1))


def _draw(folder: Path, size: int) -> list[Path]:
    """Different drawings, by a fixed seed."""
    folder.mkdir(parents=True)
    chance = random.Random(0)
    files = []
    for i in range(DRAWINGS):
        image = Image.new("RGB", (size + 8, size), "white")
        colour = chance.choice(COLOURS)
        left = chance.randrange(size // 3)
        top = chance.randrange(size // 3)
        shape = getattr(ImageDraw.Draw(image), chance.choice(SHAPES))
        shape((left, top, left + size // 2, top + size // 2), fill=colour)
        files.append(folder / f"{i:03}.jpg")
        image.save(files[-1])
    return files


def _link(folder: Path, drawings: list[Path], count: int) -> dict[str, str]:
    """Name of each image -> name of its drawing; empty: it is torn."""
    torn = folder.parent / "torn.jpg"
    torn.write_bytes(drawings[0].read_bytes()[:200])
    images = {}
    for i in range(count):
        name = f"{i // 1000:05}/{i:08}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        bad = i % TORN == TORN - 1
        source = torn if bad else drawings[i % len(drawings)]
        os.link(source, folder / name)
        images[name] = "" if bad else source.name
    return images


def _timed(asked: argparse.Namespace, run: Path) -> dict[str, Any]:
    """Run the command, kill what is to be killed, and run it again if that ended it."""
    out = asked.work / "out"
    words = ["predict", "--run", run, "--images", asked.work / "images", "--out", out]
    words += ["--on", "ray", "--workers", asked.workers, "--part-size", asked.part_size]
    words += ["--engine", asked.engine, "--device", "cpu", "--json"]
    command = [sys.executable, "-m", "anyclass", *map(str, words)]
    half = -(-asked.images // asked.part_size) // 2
    started = time.monotonic()
    killed: dict[str, Any] = {"killed": asked.kill}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    if asked.kill != "nothing":
        _wait_for(out, half, process)
        killed["parts_then"] = len(_parts(out))
        victims = [process.pid] if asked.kill == "command" else _workers(process.pid)[:1]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
    said, _ = process.communicate()
    if asked.kill == "command":
        before = {path: path.stat().st_mtime_ns for path in _parts(out)}
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        again = sum(path.stat().st_mtime_ns != before[path] for path in before)
        killed |= {"parts_kept": len(before), "kept_parts_computed_again": again}
    elif process.returncode:
        raise SystemExit(f"the command failed with exit code {process.returncode}")
    seconds = time.monotonic() - started
    about = {"seconds": round(seconds, 1), "images_per_second": round(asked.images / seconds)}
    said_of = {key: json.loads(said)[key] for key in ("n", "rejected")}
    return killed | about | {"result": said_of}


def _parts(out: Path) -> list[Path]:
    return sorted(out.glob("part-*.parquet"))


def _wait_for(out: Path, count: int, process: "subprocess.Popen[str]") -> None:
    """Wait until so many parts are there."""
    while len(_parts(out)) < count:
        if process.poll() is not None:
            raise SystemExit(f"the command ended early with exit code {process.returncode}")
        time.sleep(0.05)


def _workers(pid: int) -> list[int]:
    """Processes below this one that hold the model."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
        except OSError:  # it has ended meanwhile
            continue
    below = {pid}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return [child for child in sorted(below) if "MapBatches" in _title(child)]


def _title(pid: int) -> str:
    """How a process calls itself."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_text(errors="replace") if path.exists() else ""


def _compared(
    out: Path, images: dict[str, str], expected: dict[str, dict[str, Any]]
) -> dict[str, int]:
    """Rows against what each image is known to be."""
    found = [row for part in _parts(out) for row in parquet.read_table(part).to_pylist()]
    counts = Counter(row["file_name"] for row in found)
    wrong = 0
    for row in found:
        source = images.get(row["file_name"])
        if source:
            same = row["label"] == expected[source]["label"]
            wrong += not same or abs(row["score"] - expected[source]["score"]) > 1e-5
        else:
            wrong += row["status"] != "rejected" or not row["reason"]
    status = Counter(row["status"] for row in found)
    return {
        "rows": len(found),
        "duplicates": len(found) - len(counts),
        "missing": len(images.keys() - counts.keys()),
        "unreadable": status["rejected"],
        "rows_that_differ_from_one_process": wrong,
    }


if __name__ == "__main__":
    main()
