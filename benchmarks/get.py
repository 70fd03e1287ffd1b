"""Category discovery: GET, what it is compared with, and get-plus, over seeds.

    python benchmarks/get.py --data DATA        DATA: the folder that holds cifar10/ and grocery/

Half of the pictures of the known classes are labelled (the published draw), everything else is not.
All, Old and New are clustering accuracies "v2" of the pictures that were fitted on without a label
(transductive), and of the test pictures (inductive). SimGCD and GET train new layers on cached
views (`--tune head`), with fewer epochs than their papers and a narrower MLP: this is for two CPU
cores. (Where the image features stand still, the MLP of the contrasts reaches nothing that predicts
but GET's `ln_t`.) The figures go to `results/get.json`; rows that are there are not measured again.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from latteclip import SETS, silent
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier import Classifier
from anyclass.clusters import estimate_classes, semi_supervised_kmeans
from anyclass.counting import count_classes
from anyclass.data import Photos
from anyclass.data.splits import discovery
from anyclass.discovery import HeadShape
from anyclass.features import Embedding, embed, image_features, tower_features, with_own
from anyclass.methods.get import Get
from anyclass.methods.get_plus import GetPlus
from anyclass.methods.kmeans import KMeans
from anyclass.methods.simgcd import SimGcd
from anyclass.metrics import clustering
from anyclass.pairs import PairTuning
from anyclass.run.scoring import see

RESULTS = Path(__file__).parent / "results" / "get.json"

SHORT, NARROW = PairTuning("head", epochs=50, views=4), HeadShape(256, 64)
GET = Get(tuning=SHORT, head=NARROW, tes_epochs=10)
METHODS: dict[str, Any] = {
    "kmeans": KMeans(),
    "kmeans, unprojected": KMeans(feature="unprojected"),
    "semi-supervised kmeans": KMeans(semi_supervised=True),
    "semi-supervised kmeans, unprojected": KMeans(semi_supervised=True, feature="unprojected"),
    "get-plus": GetPlus(),
    "simgcd": SimGcd(tuning=replace(SHORT, decay="matrices"), head=NARROW),
    "get": GET,
    "get, no consistency": replace(GET, cico_weight=0.0),
    "get, two heads": replace(GET, shared_head=False),
    "get, projected features": replace(GET, feature="projected"),
}
"""Rows of the table."""

WRONG = {
    "get-plus, half as many classes": 0.5,
    "get-plus, half as many classes, as asked": 0.5,
    "get-plus, twice as many classes": 2.0,
    "get-plus, twice as many classes, as asked": 2.0,
}
"""Rows that are given a wrong number of classes: so many times the true one."""
METHODS |= {name: GetPlus(may_find_fewer="as asked" not in name) for name in WRONG}

TRAINED = tuple(name for name, how in METHODS.items() if isinstance(how, Get | SimGcd))
"""Rows that need training."""


class Task(NamedTuple):
    """One set: what is fitted on, the truth of it, and other pictures with theirs."""

    photos: Photos
    truth: Any
    test: Photos
    known: int


def task(train: Photos, test: Photos, known: list[int], pictures: int | None) -> Task:
    """Known classes first, in the order of their indices; a fixed share of the pictures."""
    if pictures is not None:
        drawn = np.random.RandomState(0).permutation(len(train))[:pictures]  # noqa: NPY002
        train = train[np.sort(drawn)]
    order = [*known, *(c for c in range(len(train.classes)) if c not in set(known))]
    number = np.argsort(order)
    photos, truth = discovery(train, known)
    return Task(photos, truth, replace(test, labels=number[test.labels]), len(known))


def tasks(data: Path) -> dict[str, Callable[[], Task]]:
    """The sets by name."""

    def cifar(pictures: int | None) -> Task:
        return task(*SETS["cifar10"](data), list(range(5)), pictures)

    def halves(name: str) -> Task:
        split = SETS[name](data)
        return task(*split, list(range((len(split.train.classes) + 1) // 2)), None)

    return {
        "cifar10, 4,000 pictures": lambda: cifar(4000),
        "emoji": lambda: halves("emoji"),
        "grocery, coarse": lambda: halves("grocery, coarse"),
        "cifar10, 10,000 pictures": lambda: cifar(None),
    }


def scores(clip: Backbone, fitted: Classifier, some: Task) -> dict[str, Any]:
    """Transductive and inductive."""
    hidden = some.photos.labels < 0
    known = range(some.known)
    on_train = np.array(fitted.record["predicted"])[hidden]
    on_test = see(clip, fitted, some.test, silent).adapted.argmax(1)
    found = {
        "transductive": clustering(some.truth[hidden], on_train, known),
        "inductive": clustering(some.test.labels, on_test, known),
    }
    if "pseudo_texts" in fitted.record:
        found |= by_text(fitted, some)
    keys = ("all", "old", "new", "old_fixed")
    return {name: {key: 100 * value[key] for key in keys} for name, value in found.items() if value}


def by_text(fitted: Classifier, some: Task) -> dict[str, Any]:
    """What GET's texts know by themselves: its text branch, both branches, and grouped texts."""
    hidden, known, said = some.photos.labels < 0, range(some.known), fitted.record
    x = normalize(said["pseudo_texts"].cpu(), dim=-1)
    grouped = semi_supervised_kmeans(x, torch.tensor(some.photos.labels), len(fitted.classes))
    guesses = {
        "text branch": np.array(said["predicted_by_text"]),
        "both branches": np.array(said["predicted_by_mix"]),
        "semi-supervised kmeans of texts": grouped.labels.numpy(),
    }
    return {
        name: clustering(some.truth[hidden], guess[hidden], known)
        for name, guess in guesses.items()
    }


def row(clip: Backbone, name: str, some: Task, method: str, seeds: int) -> dict[str, Any]:
    """Means and deviations over seeds."""
    found, seconds = [], []
    some = wrong(some, WRONG.get(method, 1.0))
    for seed in range(seeds):
        torch.manual_seed(seed)
        start = time.perf_counter()
        fitted = METHODS[method].fit(clip, some.photos, silent)
        seconds.append(time.perf_counter() - start)
        found.append(scores(clip, fitted, some))
        print(f"  {name}, {method}, seed {seed}: {seconds[-1]:.0f} s, {found[-1]}", flush=True)
    result: dict[str, Any] = {"set": name, "method": method, "pictures": len(some.photos)}
    for protocol in found[0]:
        keys = found[0][protocol]
        values = {key: [f[protocol][key] for f in found] for key in keys}
        result[protocol] = {key: round(statistics.mean(v), 1) for key, v in values.items()}
        if seeds > 1:
            spread = statistics.stdev(values["all"])
            result[protocol]["all_spread"] = round(spread, 1)
    return result | {"seeds": seeds, "seconds": round(min(seconds), 1)}


def wrong(some: Task, factor: float) -> Task:
    """The task with so many times the classes, or the new ones, as there cannot be fewer known."""
    classes = some.photos.classes
    fewer = round(factor * classes.unknown)
    unknown = max(fewer, round(factor * classes.total) - len(classes))
    return some._replace(photos=replace(some.photos, classes=replace(classes, unknown=unknown)))


def estimate(clip: Backbone, name: str, some: Task) -> dict[str, Any]:
    """How many classes there seem to be: by held-out labels, and as GCD has it."""
    shown = embed(clip, some.photos, Embedding("head"), silent)
    x = image_features(clip, shown, "head").cpu()
    rows, y = with_own(x, tower_features(shown)), torch.tensor(some.photos.labels)
    found = [count_classes(rows, x.shape[1], y, silent, seed=seed) for seed in range(3)]
    return {
        "set": name,
        "method": "estimate",
        "found": [one.classes for one in found],
        "ranges": [one.range for one in found],
        "gcd": estimate_classes(x, y, search="grid", seed=0).classes,
        "true": some.photos.classes.total,
    }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=None)
    parser.add_argument("--methods", nargs="+", default=[*METHODS, "estimate"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    clip = Backbone.load("starter")
    known = json.loads(asked.out.read_text()) if asked.out.is_file() else []
    table = {(r["set"], r["method"]): r for r in known}
    for name, make in tasks(asked.data).items():
        if asked.sets and name not in asked.sets:
            continue
        some = make()
        for method in asked.methods:
            large = len(some.photos) > 5000
            if (name, method) in table or (large and method in TRAINED):
                continue
            table[name, method] = (
                estimate(clip, name, some)
                if method == "estimate"
                else row(clip, name, some, method, asked.seeds)
            )
            print(json.dumps(table[name, method]), flush=True)
            asked.out.write_text(json.dumps(list(table.values()), indent=2) + "\n")


if __name__ == "__main__":
    main()
