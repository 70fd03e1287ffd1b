"""Zero-shot, the prompt ensemble and LatteCLIP on labelled sets of pictures, over several seeds.

    python benchmarks/latteclip.py --data DIR [--sets clothing cifar10] [--tune head tail]

DIR/SET/train/CLASS/*.jpg is fitted on without its labels, DIR/SET/test scores it: inductive, the
last step. Nothing is chosen on test labels. The table goes to `results/latteclip.json`.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyclass.backbone import Backbone
from anyclass.data import Photos
from anyclass.methods.latteclip import LatteClip
from anyclass.run.scoring import compare, see

RESULTS = Path(__file__).parent / "results" / "latteclip.json"

VARIANTS: dict[str, dict[str, Any]] = {
    "latteclip": {},
    "latteclip, class text only": {"texts": ("class",)},
}
"""Rows of the table -> fields that differ from the defaults."""


@dataclass(frozen=True)
class Split:
    """One set of pictures."""

    name: str
    train: Photos
    test: Photos

    @classmethod
    def read(cls, data: Path, name: str, most: int | None) -> "Split":
        """Class folders of `train` (`most` pictures of it, the same for every seed) and `test`."""
        train = Photos.read(data / name / "train", labels="folders")
        train = train[np.sort(np.random.default_rng(0).permutation(len(train))[:most])]
        test = Photos.read(data / name / "test", train.classes.names, "folders")
        return cls(name, train.unlabelled_copy(), test)


def silent(**_: Any) -> None:
    """A log that says nothing."""


def row(
    clip: Backbone, split: Split, variant: str, fields: dict[str, Any], seeds: int
) -> dict[str, Any]:
    """Accuracy on the test pictures: zero-shot, ensemble, and adapted over the seeds."""
    adapted, seconds, scores = [], [], {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        start = time.perf_counter()
        fitted = LatteClip(**fields, **VARIANTS[variant]).fit(clip, split.train, silent)
        seconds.append(time.perf_counter() - start)
        scores = compare(split.test.labels, see(clip, fitted, split.test, silent), fitted.classes_)
        adapted.append(100 * scores["adapted"]["accuracy"])
    return {
        "set": split.name,
        "method": variant,
        "fields": fields,
        "pictures": len(split.train),
        "zero_shot": round(100 * scores["zero_shot"]["accuracy"], 2),
        "zero_shot_ensemble": round(100 * scores["zero_shot_ensemble"]["accuracy"], 2),
        "adapted": [round(value, 2) for value in adapted],
        "mean": round(statistics.mean(adapted), 2),
        "spread": round(statistics.stdev(adapted), 2) if seeds > 1 else None,
        "seconds_first": round(seconds[0], 1),
        "seconds_cached": round(min(seconds), 1),
    }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["clothing", "cifar10"])
    parser.add_argument("--tune", nargs="+", default=["head", "tail"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--most", type=int, help="training pictures to fit on")
    parser.add_argument("--steps", type=int, help="training steps; the default is the paper's rule")
    parser.add_argument("--views", type=int, help="cached views of each picture")
    asked = parser.parse_args()
    clip = Backbone.load("starter")
    rows = []
    for name in asked.sets:
        split = Split.read(asked.data, name, asked.most)
        for tune in asked.tune:
            for variant in asked.variants:
                own = {"tune": tune, "steps": asked.steps, "views": asked.views}
                fields = {name: value for name, value in own.items() if value is not None}
                rows.append(row(clip, split, variant, fields, asked.seeds))
                print(json.dumps(rows[-1]), flush=True)
                asked.out.parent.mkdir(exist_ok=True)
                asked.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
