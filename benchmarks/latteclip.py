"""LatteCLIP, open-world and every baseline of the paper on five datasets, over several seeds.

    python benchmarks/latteclip.py --data DIR [--sets emoji clothing] [--methods flyp reclip]

DIR contains clothing, grocery and cifar10 (DIR/SET/SPLIT/CLASS/*.jpg and grocery/classes.csv).
Methods are trained on `train` without labels (the oracle with labels); the model after the last
step is scored on `test`. The emoji of the demo are used for both. Nothing is selected on test
labels. Other rows in `results/latteclip.json` are kept.
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

from anyclass.backbone import Backbone
from anyclass.commands.emoji import IMAGES, draw
from anyclass.data import Classes, ImageDataset
from anyclass.features.store import FeatureStore
from anyclass.files import cache_folder
from anyclass.methods import Method
from anyclass.methods.flyp import Flyp
from anyclass.methods.latteclip import LatteClip
from anyclass.methods.open_world import OpenWorld
from anyclass.methods.reclip import Reclip
from anyclass.run.predict import predict_all
from anyclass.run.scoring import compare
from anyclass.training.tuning import Tuning

RESULTS = Path(__file__).parent / "results" / "latteclip.json"

HEAD = Tuning("head", views=2)
METHODS: dict[str, Method] = {
    "open-world": OpenWorld(),
    "latteclip, class text": LatteClip(tuning=HEAD, texts=("class",)),
    "latteclip, vocabulary": LatteClip(tuning=HEAD),
    "flyp": Flyp(tuning=HEAD),
    "reclip": Reclip(tune="tail"),
    "oracle": Flyp(tuning=HEAD, learn_from="given"),
}
"""Rows of the table."""

POOL: dict[str, Method] = {
    f"latteclip, vocabulary, K = {k}": LatteClip(tuning=HEAD, groups=k) for k in (1, 8, 16, 64)
}
"""Rows with another number of groups per class than 32; left out unless asked for."""


class Split(NamedTuple):
    """Training and test images of a dataset."""

    train: ImageDataset
    test: ImageDataset


def photographs(data: Path, name: str) -> Split:
    """A dataset in class folders."""
    train = ImageDataset.read(data / name / "train", labels="folders")
    return Split(train, ImageDataset.read(data / name / "test", train.classes.names, "folders"))


def coarse(data: Path) -> Split:
    """The grocery dataset with its coarse classes."""
    fine = photographs(data, "grocery")
    with (data / "grocery" / "classes.csv").open(newline="") as table:
        names = {r["class"]: r["coarse_class"].replace("-", " ") for r in csv.DictReader(table)}
    classes = Classes.of(sorted(set(names.values())))
    of = np.array([classes.names.index(names[name]) for name in fine.train.classes.names])
    return Split(*(replace(some, labels=of[some.labels], classes=classes) for some in fine))


def emoji(_: Path) -> Split:
    """The images of the demo, for training and for testing."""
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
    """Log nothing."""


def row(clip: Backbone, name: str, split: Split, method: str, seeds: int) -> dict[str, Any]:
    """Accuracy on the test images: zero-shot, ensemble, and adapted over the seeds."""
    adapted = []
    seconds = []
    scores = {}
    train = split.train if method == "oracle" else split.train.unlabelled_copy()
    for seed in range(seeds):
        start = time.perf_counter()
        fitted = (METHODS | POOL)[method].fit(FeatureStore(clip, train), silent, seed=seed)
        seconds.append(time.perf_counter() - start)
        scores = compare(
            split.test.labels,
            predict_all(FeatureStore(clip, split.test), fitted, silent),
            fitted.classes,
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
    """Run the benchmark and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the datasets")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    rows_there = [*METHODS, *POOL]
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=rows_there)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results")
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
