"""LatteCLIP, LatteCLIP-plus and every baseline of the paper on five sets, over several seeds.

    python benchmarks/latteclip.py --data DIR [--sets emoji clothing] [--methods flyp reclip]

DIR holds clothing, grocery and cifar10 (DIR/SET/SPLIT/CLASS/*.jpg and grocery/classes.csv); `train`
is fitted on, without its labels but for the oracle, `test` scores the last step. The emoji of the
demo are drawn, fitted on and scored. Nothing is chosen on test labels. Rows that were measured
before stay in `results/latteclip.json`, others are added.
"""

import argparse
import csv
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from anyclass.backbone import Backbone
from anyclass.commands.emoji import IMAGES, draw
from anyclass.data import Classes, ImageDataset
from anyclass.files import cache_folder
from anyclass.methods import Method
from anyclass.methods.flyp import Flyp
from anyclass.methods.latteclip import LatteClip
from anyclass.methods.latteclip_plus import LatteClipPlus
from anyclass.methods.reclip import Reclip
from anyclass.run.scoring import compare, predict_all
from anyclass.training.tuning import Tuning

RESULTS = Path(__file__).parent / "results" / "latteclip.json"

HEAD = Tuning("head", views=2)
METHODS: dict[str, Method] = {
    "latteclip-plus": LatteClipPlus(),
    "latteclip, class text": LatteClip(tuning=HEAD, texts=("class",)),
    "latteclip, vocabulary": LatteClip(tuning=HEAD),
    "flyp": Flyp(tuning=HEAD),
    "reclip": Reclip(tune="tail"),
    "oracle": Flyp(tuning=HEAD, learn_from="given"),
}
"""Rows of the table."""


class Split(NamedTuple):
    """One set of images."""

    train: ImageDataset
    test: ImageDataset


def photographs(data: Path, name: str) -> Split:
    """A set in class folders."""
    train = ImageDataset.read(data / name / "train", labels="folders")
    return Split(train, ImageDataset.read(data / name / "test", train.classes.names, "folders"))


def coarse(data: Path) -> Split:
    """The groceries in their coarse classes."""
    fine = photographs(data, "grocery")
    with (data / "grocery" / "classes.csv").open(newline="") as table:
        names = {r["class"]: r["coarse_class"].replace("-", " ") for r in csv.DictReader(table)}
    classes = Classes.of(sorted(set(names.values())))
    of = np.array([classes.names.index(names[name]) for name in fine.train.classes.names])
    return Split(*(replace(some, labels=of[some.labels], classes=classes) for some in fine))


def emoji(_: Path) -> Split:
    """The images of the demo, twice."""
    drawn = ImageDataset.read(draw(cache_folder("demo", "emoji")), tuple(IMAGES), "folders")
    return Split(drawn, drawn)


SETS: dict[str, Callable[[Path], Split]] = {
    "emoji": emoji,
    "clothing": lambda data: photographs(data, "clothing"),
    "grocery, coarse": coarse,
    "grocery": lambda data: photographs(data, "grocery"),
    "cifar10": lambda data: photographs(data, "cifar10"),
}


def silent(**_: Any) -> None:
    """A log that says nothing."""


def row(clip: Backbone, name: str, split: Split, method: str, seeds: int) -> dict[str, Any]:
    """Accuracy on the test images: zero-shot, ensemble, and adapted over the seeds."""
    adapted, seconds, scores = [], [], {}
    train = split.train if method == "oracle" else split.train.unlabelled_copy()
    for seed in range(seeds):
        torch.manual_seed(seed)
        start = time.perf_counter()
        fitted = METHODS[method].fit(clip, train, silent)
        seconds.append(time.perf_counter() - start)
        scores = compare(
            split.test.labels, predict_all(clip, fitted, split.test, silent), fitted.classes
        )
        adapted.append(100 * scores["adapted"]["accuracy"])
    return {
        "set": name,
        "method": method,
        "images": len(train),
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
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    clip = Backbone.load("starter")
    known = json.loads(asked.out.read_text()) if asked.out.is_file() else []
    rows = {(row["set"], row["method"]): row for row in known}
    for name in asked.sets:
        split = SETS[name](asked.data)
        for method in asked.methods:
            rows[name, method] = row(clip, name, split, method, asked.seeds)
            print(json.dumps(rows[name, method]), flush=True)
            asked.out.write_text(json.dumps(list(rows.values()), indent=2) + "\n")


if __name__ == "__main__":
    main()
