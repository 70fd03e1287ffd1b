"""Seconds and peak memory of `OpenWorldClassifier`, each fit in a fresh process.

    python benchmarks/open_world_speed.py [--threads 2] [--repeat 3] [--large] [--out FILE]

Synthetic features, 512 wide. `names`: a name for every class, no label. `discovery`: labels for
half of the rows of half of the classes, the others unknown, their number estimated. Seconds are
those of `fit`, the least of the repetitions; memory is the largest resident set of the process,
Python, torch and the features included. `--large` adds 1,000,000 rows and 1,000 classes, float16
in a memory-mapped file of 1 GB in the folder for temporary files, once with `max_unlabelled`.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

WIDTH = 512
BLOCK = 50_000
NOISE = 3.0
"""Length of the noise of a row relative to its class text."""


@dataclass(frozen=True)
class Case:
    """One fit."""

    kind: str
    """`names` or `discovery`."""
    images: int
    """N, number of rows."""
    classes: int
    """Number of classes in the data."""
    file: str = ""
    """File of the features; empty: made in memory."""
    threads: int = 2
    """Threads of torch."""
    most: int | None = None
    """`max_unlabelled`."""


CASES = (
    Case("names", 5_000, 100),
    Case("names", 10_000, 100),
    Case("names", 20_000, 100),
    Case("names", 10_000, 50),
    Case("names", 10_000, 200),
    Case("discovery", 5_000, 100),
    Case("discovery", 10_000, 100),
    Case("discovery", 20_000, 100),
)
"""Fits of a few seconds."""

LARGE = Case("names", 1_000_000, 1_000)
"""The largest fit."""
MOST = 100_000
"""Unlabelled rows that it learns from, the second time."""


def texts_of(classes: int) -> Float[np.ndarray, "C D"]:
    """Random unit vectors."""
    return _unit(np.random.default_rng(0).standard_normal((classes, WIDTH), np.float32))


def blocks(case: Case) -> Iterator[Float[np.ndarray, "n D"]]:
    """Unit rows around the text of their class; row i is of class i modulo the classes."""
    t = texts_of(case.classes)
    for start in range(0, case.images, BLOCK):
        rows = np.arange(start, min(start + BLOCK, case.images))
        noise = np.random.default_rng((1, start)).standard_normal((len(rows), WIDTH), np.float32)
        yield _unit(t[rows % case.classes] + NOISE / np.sqrt(WIDTH) * noise)


def write(case: Case, path: Path) -> None:
    """Write the rows as float16, a block at a time."""
    file = np.lib.format.open_memmap(path, "w+", np.float16, (case.images, WIDTH))
    start = 0
    for block in blocks(case):
        file[start : start + len(block)] = block
        start += len(block)
    file.flush()


def fit(case: Case) -> dict[str, float]:
    """Fit in this process; seconds and peak memory."""
    import torch

    from anyclass.estimators.open_world import OpenWorldClassifier

    torch.set_num_threads(case.threads)
    x = np.load(case.file, mmap_mode="r") if case.file else np.concatenate(list(blocks(case)))
    y = _labels(case)
    t = texts_of(case.classes)
    if case.kind == "discovery":
        t = np.full((case.classes // 2, WIDTH), np.nan, np.float32)
    classifier = OpenWorldClassifier(
        unknown="auto" if case.kind == "discovery" else 0, max_unlabelled=case.most
    )
    start = time.perf_counter()
    classifier.fit(x, y, class_text=t, logit_scale=100.0)
    seconds = time.perf_counter() - start
    right = float((np.asarray(classifier.predict(x[:BLOCK])) == _true(case)[:BLOCK]).mean())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "gib": peak, "accuracy": right, "k": len(classifier.classes_)}


def measured(case: Case, repeat: int) -> dict[str, Any]:
    """Figures of a fit in fresh processes, the fastest of them."""
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
    runs = []
    for _ in range(repeat):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    best: dict[str, Any] = min(runs, key=lambda run: run["seconds"])
    return asdict(case) | best


def speed_table(threads: int = 2, repeat: int = 3, large: bool = False) -> list[dict[str, Any]]:
    """Measure and print the table.

    Args:
        threads: threads of torch.
        repeat: fits of each case.
        large: 1,000,000 rows as well.

    Returns the figures of each case.
    """
    cases = [replace(case, threads=threads) for case in CASES]
    rows = []
    print("| known | images | classes | seconds | GiB | accuracy | classes found |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        if large:
            path = Path(folder) / "features.npy"
            write(LARGE, path)
            largest = replace(LARGE, file=str(path), threads=threads)
            cases += [largest, replace(largest, most=MOST)]
        for case in cases:
            row = measured(case, 1 if case.file else repeat)
            rows.append(row | {"file": bool(case.file)})
            kind = case.kind if case.most is None else f"{case.kind}, {case.most:,} rows"
            print(
                f"| {kind} | {case.images:,} | {case.classes} | {row['seconds']:.1f} "
                f"| {row['gib']:.2f} | {100 * row['accuracy']:.1f} | {row['k']} |",
                flush=True,
            )
    return rows


def _true(case: Case) -> Int[np.ndarray, " N"]:
    return np.arange(case.images) % case.classes


def _labels(case: Case) -> Int[np.ndarray, " N"]:
    """No label, or those of every second row of the first half of the classes."""
    true = _true(case)
    given = (true < case.classes // 2) & (np.arange(case.images) // case.classes % 2 == 0)
    return np.where(given & (case.kind == "discovery"), true, -1)


def _unit(x: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
    scaled: np.ndarray = x / np.linalg.norm(x, axis=1, keepdims=True)
    return scaled


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--large", action="store_true", help="1,000,000 rows as well")
    parser.add_argument("--out", type=Path, help="file of results")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.case:
        print(json.dumps(fit(Case(**json.loads(asked.case)))))
        return
    rows = speed_table(asked.threads, asked.repeat, asked.large)
    if asked.out:
        asked.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
