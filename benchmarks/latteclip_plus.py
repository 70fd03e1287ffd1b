"""LatteCLIP-plus and zero-shot on the test pictures of five sets, over several seeds.

    python benchmarks/latteclip_plus.py --data DIR

DIR holds cifar10, clothing and grocery (DIR/SET/SPLIT/CLASS/*.jpg and grocery/classes.csv); the
emoji of the demo are drawn, fitted on and scored. Labels are read for scoring alone.
The table goes to `results/latteclip_plus.json`.
"""

import argparse
import csv
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from anyclass.backbone import Backbone
from anyclass.data import Classes, Photos
from anyclass.emoji import PICTURES, draw
from anyclass.files import cache_folder
from anyclass.methods.latteclip_plus import LatteClipPlus
from anyclass.run.scoring import compare, see

RESULTS = Path(__file__).parent / "results" / "latteclip_plus.json"


class Split(NamedTuple):
    """One set of pictures."""

    name: str
    train: Photos
    test: Photos


def splits(data: Path) -> Iterator[Split]:
    """The five sets."""
    for name in ("clothing", "cifar10", "grocery"):
        train = Photos.read(data / name / "train", labels="folders")
        test = Photos.read(data / name / "test", train.classes.names, "folders")
        yield Split(name, train, test)
    with (data / "grocery" / "classes.csv").open(newline="") as table:
        coarse = {r["class"]: r["coarse_class"].replace("-", " ") for r in csv.DictReader(table)}
    names = sorted(set(coarse.values()))
    of = np.array([names.index(coarse[name]) for name in train.classes.names])
    parts = (replace(p, labels=of[p.labels], classes=Classes.of(names)) for p in (train, test))
    yield Split("grocery, coarse", *parts)
    emoji = Photos.read(draw(cache_folder("demo", "emoji")), tuple(PICTURES), "folders")
    yield Split("emoji", emoji, emoji)


def silent(**_: Any) -> None:
    """A log that says nothing."""


def row(clip: Backbone, split: Split, seeds: int) -> dict[str, Any]:
    """Accuracy on the test pictures: zero-shot, ensemble, and adapted over the seeds."""
    adapted, seconds, scores = [], [], {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        start = time.perf_counter()
        fitted = LatteClipPlus().fit(clip, split.train.unlabelled_copy(), silent)
        seconds.append(time.perf_counter() - start)
        scores = compare(split.test.labels, see(clip, fitted, split.test, silent), fitted.classes_)
        adapted.append(100 * scores["adapted"]["accuracy"])
    return {
        "set": split.name,
        "pictures": len(split.train),
        "zero_shot": round(100 * scores["zero_shot"]["accuracy"], 2),
        "zero_shot_ensemble": round(100 * scores["zero_shot_ensemble"]["accuracy"], 2),
        "adapted": [round(value, 2) for value in adapted],
        "mean": round(statistics.mean(adapted), 2),
        "spread": round(statistics.stdev(adapted), 2) if seeds > 1 else None,
        "seconds_cached": round(min(seconds), 1),
    }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    clip, rows = Backbone.load("starter"), []
    for split in splits(asked.data):
        rows.append(row(clip, split, asked.seeds))
        print(json.dumps(rows[-1]), flush=True)
    asked.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
