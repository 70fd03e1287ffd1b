"""SHIP's table 2: trained on ImageNet with 16 labels a class, then only the names of other sets.

    python benchmarks/cross_dataset.py --data DATA --model ViT-B-16-quickgelu/openai

The generator and the context of CoOp are trained on the source; for each other set the context is
trained further on synthetic features of its names (`fit ship --source`). Accuracy on the test
images of `paper_sets.py`. `--source` names another source, to try it without ImageNet.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from base_to_new import coop, generator, views_of
from latteclip import silent
from open_sets import available
from paper_runs import Run, arguments, backbone, chosen, fitted_scores, once, percent
from paper_sets import Splits

from anyclass.backbone import Backbone
from anyclass.features.store import FeatureStore
from anyclass.methods.few_shot import FewShot
from anyclass.methods.ship import Ship

METHODS: dict[str, dict[str, Any]] = {
    "coop": {"transfer_steps": 0},
    "coop + ship": {},
    "zero-shot": {"transfer_steps": 0, "transfer_start": "words"},
}
"""Rows: fields of SHIP that differ. Without a step CoOp's context meets new names as it is; its
initial words are the prompt of zero-shot."""


def train_source(
    clip: Backbone, name: str, split: Splits, seed: int, folder: Path, views: int
) -> Path:
    """Train on the source `name`, unless it was; returns its run folder."""
    model = folder / "model"
    if not (model / "generator.safetensors").is_file():
        shots = views_of(name, FewShot(shots=16, views=views))
        how = Ship(then=coop(name, shots), generator=generator(name))
        found = how.fit(FeatureStore(clip, split.train), silent, folder / "unfinished", seed)
        model.mkdir(parents=True, exist_ok=True)
        found.record.write_artefacts(model)
    return folder


def score(clip: Backbone, how: Ship, split: Splits, seed: int) -> dict[str, Any]:
    """Accuracy on the test images of a set, in percent, with zero-shot beside it."""
    target = replace(split.train.unlabelled_copy(), classes=split.test.classes)
    target = target.naming_only(target.classes.names)
    scores = fitted_scores(clip, how, target, split.test, seed)
    accuracies = {"accuracy": scores["adapted"], "zero_shot": scores["zero_shot"]}
    return {name: percent(some["accuracy"]) for name, some in accuracies.items()}


def targets(asked: argparse.Namespace) -> dict[str, Any]:
    """All sets but the source."""
    there = available(asked.data, asked.suite)
    found = chosen(asked.sets, there)
    return {name: read for name, read in found.items() if name != asked.source}


def main() -> None:
    """Run what is missing."""
    parser = arguments(__doc__ or "", list(METHODS), "ViT-B-16-quickgelu/openai")
    parser.add_argument("--source", default="imagenet", help="set with labels")
    parser.add_argument("--views", type=int, default=10, help="cached views; 0: new in each epoch")
    asked = parser.parse_args()
    clip = backbone(asked)
    source = chosen([asked.source], available(asked.data, asked.suite))[asked.source]()
    for seed in asked.seeds:
        name = json.dumps([asked.source, asked.model, seed])
        folder = asked.out / "cross_dataset" / "sources" / "".join(filter(str.isalnum, name))
        run = train_source(clip, asked.source, source, seed, folder, asked.views)
        for dataset, read in targets(asked).items():
            split = read()
            for row in asked.methods:
                how = Ship(source=str(run), **METHODS[row])
                once(
                    Run(row, dataset, asked.model, seed),
                    asked.out / "cross_dataset",
                    partial(score, clip, how, split, seed),
                )


if __name__ == "__main__":
    main()
