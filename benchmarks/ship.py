"""Base-to-new benchmark: SHIP with each few-shot method, and its controls, over seeds.

    python benchmarks/ship.py --data DATA        DATA: the folder with clothing/ ...

The second half of the classes is known by name only. Few-shot methods are trained on 16 images of
each labelled class; open-world also uses the other training images without labels. Everything is
trained on training images and scored on test images, in the sliced and in the mixed label space;
nothing is selected on test images. The results go to `results/ship.json`, those of each seed to
`--kept`, where a run that was stopped goes on: empty it after a change of a method.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from latteclip import SETS, Split, silent

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, class_features
from anyclass.methods.clip_adapter import ClipAdapter
from anyclass.methods.coop import CoOp
from anyclass.methods.few_shot import FewShot, FewShotMethod, FewShotTask, Over
from anyclass.methods.gda import Gda
from anyclass.methods.open_world import OpenWorld
from anyclass.methods.ship_training import train_generator
from anyclass.methods.ship_vae import Generator, Vae
from anyclass.methods.synthetic_features import SyntheticFeatures
from anyclass.methods.tip_adapter import TipAdapter
from anyclass.run.predict import predict_all
from anyclass.run.scoring import compare

RESULTS = Path(__file__).parent / "results" / "ship.json"
SHOTS = 16
DATA = FewShot(shots=SHOTS)
POOL = 64
"""Synthetic features per class for CoOp; new ones in each step would take hours on two cores."""

COMPANIONS: dict[str, FewShotMethod] = {
    "coop": CoOp(recipe="ship", data=DATA),
    "clip-adapter": ClipAdapter(data=DATA),
    "tip-adapter": TipAdapter(data=DATA),
    "gda": Gda(data=DATA),
}
OPEN_WORLD = {
    "open-world": OpenWorld(shots=SHOTS),
    "open-world, labelled images alone": OpenWorld(shots=SHOTS, rounds=0),
}


def fitted(
    clip: Backbone, dataset: ImageDataset, seed: int, coop: bool, open_world: bool
) -> dict[str, tuple[Classifier, float, Any]]:
    """All rows of a dataset for one seed: classifier, seconds, and the log of the generator."""
    found: dict[str, tuple[Classifier, float, Any]] = {}

    def take(name: str, make: Callable[[], Classifier], metrics: Any = None) -> None:
        start = time.perf_counter()
        classifier = make()
        found[name] = (classifier, round(time.perf_counter() - start, 1), metrics)
        print(f"  {name}: {found[name][1]} s", flush=True)

    labelled = DATA.labelled_features(FeatureStore(clip, dataset), silent, 1, seed)
    with torch.no_grad():
        t = class_features(clip, dataset.classes.prompts, [PLAIN])
    named = torch.tensor(dataset.classes.named)
    log: list[dict[str, Any]] = []
    start = time.perf_counter()
    maker = train_generator(
        Vae(), clip, labelled, dataset.classes, t, lambda **row: log.append(row), seed=seed
    )
    collapse = [row for row in log if row.get("stage") == "ship"]
    print(f"  generator: {time.perf_counter() - start:.1f} s", flush=True)
    sources = made_by(maker, named, t, seed)

    def learn(
        how: FewShotMethod, synthetic: SyntheticFeatures | None = None, over: Over = "labelled"
    ) -> Classifier:
        task = FewShotTask(clip, labelled, dataset.classes, synthetic, over, seed)
        return how.learn(task, silent)

    for name, how in COMPANIONS.items():
        if name == "coop" and not coop:
            continue
        take(name, partial(learn, how))
        take(f"{name} + ship", partial(learn, how, sources["ship"]), collapse)
        take(f"{name} + class text", partial(learn, how, sources["class text"]))
        if name != "gda":  # which has no loss
            take(f"{name} + names alone", partial(learn, how, over="all"))
    for name, other in OPEN_WORLD.items() if open_world else ():
        take(name, partial(other.fit, FeatureStore(clip, dataset), silent, seed=seed))
    return found


def made_by(maker: Generator, named: Any, t: Any, seed: int) -> dict[str, SyntheticFeatures]:
    """Synthetic features of the named classes: by the generator, and the control."""
    return {
        "ship": SyntheticFeatures(named, maker.sample, seed, pool=POOL),
        "class text": SyntheticFeatures(named, lambda c, _: t[c], seed),
    }


def rows(
    clip: Backbone, name: str, split: Split, asked: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row per method: base, new and H, sliced and mixed, over all seeds."""
    scores: dict[str, list[Any]] = {}
    for seed in range(asked.seeds):
        print(name, "seed", seed, flush=True)
        for method, found in of_seed(clip, name, split, seed, asked).items():
            scores.setdefault(method, []).append(found)
    return [row(name, method, found) for method, found in scores.items()]


def of_seed(
    clip: Backbone, name: str, split: Split, seed: int, asked: argparse.Namespace
) -> dict[str, Any]:
    """Scores, seconds and generator's log of each method with a seed; read if they are there."""
    coop = seed < asked.coop_seeds
    path = asked.kept and asked.kept / f"{name}, seed {seed}{', coop' * coop}.json"
    if path and path.is_file():
        known: dict[str, Any] = json.loads(path.read_text())
        return known
    train = split.train.naming_only(split.train.classes.second_half)
    found: dict[str, Any] = {}
    for method, (classifier, seconds, metrics) in fitted(
        clip, train, seed, coop, asked.open_world
    ).items():
        seen = predict_all(FeatureStore(clip, split.test), classifier, silent)
        both = compare(split.test.labels, seen, train.classes)
        found[method] = (halves(both["adapted"]), seconds, metrics)
        if method == "gda":
            found["zero-shot"] = (halves(both["zero_shot"]), 0.0, None)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found) + "\n")
    return found


def halves(scores: dict[str, Any]) -> dict[str, Any]:
    """Accuracies of both halves of the classes, in both label spaces."""
    return {space: scores[space] for space in ("sliced", "mixed")}


def row(name: str, method: str, found: list[Any]) -> dict[str, Any]:
    """Means and standard deviations over seeds in percent; H is that of the means."""
    result: dict[str, Any] = {"set": name, "method": method, "shots": SHOTS, "seeds": len(found)}
    for space in ("sliced", "mixed"):
        base = 100 * statistics.mean(s[space]["base"] for s, *_ in found)
        new = 100 * statistics.mean(s[space]["new"] for s, *_ in found)
        each = [100 * s[space]["harmonic_mean"] for s, *_ in found]
        result[space] = {
            "base": round(base, 2),
            "new": round(new, 2),
            "h": round(2 * base * new / max(1e-9, base + new), 2),
            "h_spread": round(statistics.stdev(each), 2) if len(each) > 1 else None,
            "h_of_seeds": [round(value, 2) for value in each],
        }
    companion = COMPANIONS.get(method.split(" + ")[0])
    result["epochs"] = companion and companion.epochs
    result["seconds"] = min(seconds for _, seconds, _ in found)
    if found[0][2]:
        result["collapse"] = [found[0][2][i] for i in (0, len(found[0][2]) // 2, -1)]
    return result


def main() -> None:
    """Run the benchmark and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the datasets")
    sets = [name for name in SETS if name != "emoji"]
    parser.add_argument("--sets", nargs="+", default=sets, choices=sets)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--coop-seeds", type=int, default=3, help="seeds of CoOp, the slowest")
    parser.add_argument(
        "--open-world",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also fit open-world, which embeds all training images",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results")
    parser.add_argument(
        "--kept", type=Path, help="folder of the seeds' results, to go on after a stop"
    )
    asked = parser.parse_args()
    clip = Backbone.load("starter")
    known = json.loads(asked.out.read_text()) if asked.out.is_file() else []
    table = {(r["set"], r["method"]): r for r in known}
    for name in asked.sets:
        for line in rows(clip, name, SETS[name](asked.data), asked):
            table[name, line["method"]] = line
            print(
                json.dumps({k: line[k] for k in ("set", "method", "sliced", "mixed")}), flush=True
            )
        asked.out.write_text(json.dumps(list(table.values()), indent=2) + "\n")


if __name__ == "__main__":
    main()
