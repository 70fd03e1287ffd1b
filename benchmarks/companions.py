"""SHIP's companions and their controls on features of a CLIP trained on the web.

    python benchmarks/companions.py --features DIR

DIR holds feature files (`feature_sets.py`). A random half of the classes has k labels, the others a
name; test images, in the sliced and in the mixed label space, over seeds, which draw labels and
classes. SHIP's generator needs a text encoder and is not among the rows; its controls are: class
texts as features of the named classes ("class text"), and a loss over all classes without such
features ("names alone"). Feature files hold one view of each image. Nothing is selected on test
labels. The results go to `results/companions.json`, where rows of other sets stay.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from feature_baselines import logistic_regression
from feature_sets import Task, half_labels, load
from jaxtyping import Float
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.data import Classes
from anyclass.log import Log, silent
from anyclass.methods.clip_adapter import ClipAdapter
from anyclass.methods.few_shot import FewShotMethod, FewShotTask
from anyclass.methods.gda import Gda
from anyclass.methods.labelled_features import LabelledFeatures
from anyclass.methods.synthetic_features import SyntheticFeatures
from anyclass.methods.tip_adapter import TipAdapter

RESULTS = Path(__file__).parent / "results" / "companions.json"

SETS = {"caltech72": 16, "random100": 4, "dogs": 4}
"""Sets with texts, and labels per class: those of ImageNet classes have five images a class."""

TINY = 1e-30
"""Smallest probability: that of a class of which a method knows nothing."""

BARE = "{}"
"""Template of prompts that are numbers of classes."""

COMPANIONS: dict[str, FewShotMethod] = {
    "clip-adapter": ClipAdapter(template=BARE),
    "tip-adapter": TipAdapter(template=BARE),
    "tip-adapter, searched": TipAdapter(template=BARE, search=0.25),
    "gda": Gda(template=BARE),
    "gda, searched": Gda(template=BARE, search=0.25),
}
"""Methods by name; searched: alpha and beta on a quarter of the labels."""


class TextTable(Backbone):
    """Stands for the model: text features of classes, whose prompts are their numbers."""

    def __init__(self, rows: Float[Tensor, "C D"], scale: float) -> None:
        """Keep the unit text features and the scale of the logits; there is no network."""
        self._rows = rows
        self._scale = torch.tensor(scale)

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """Scale of the logits."""
        return self._scale

    def texts(
        self, texts: Sequence[str], batch_size: int = 1, log: Log = silent
    ) -> Float[Tensor, "n D"]:
        """Text features of numbers, all at once."""
        return self._rows[[int(text) for text in texts]]

    def synthetic(self) -> Float[Tensor, "1 D"]:
        """A row, to see how wide it is."""
        return self._rows[:1]

    def trunk(self, images: Tensor, _: str) -> Tensor:
        """Features are images here."""
        return images

    def tail(self, hidden: Tensor, _: str) -> Tensor:
        """Nothing follows the trunk."""
        return hidden

    def pooled(self, hidden: Tensor, _: str) -> Float[Tensor, "n 0"]:
        """There are no features before the projection."""
        return hidden[:, :0]


def companion_tasks(task: Task) -> dict[str, FewShotTask]:
    """Labelled features alone, and with each control of SHIP."""
    text = task.text
    assert text is not None
    t = torch.from_numpy(text)
    given = np.flatnonzero(task.y >= 0)
    x = torch.from_numpy(task.data.train_x[given])[:, None]
    c = torch.from_numpy(task.y[given])
    labelled = LabelledFeatures(x, c, tuple(map(str, given)))
    clip = TextTable(t, task.data.scale)
    classes = Classes.of(tuple(map(str, range(task.known))))
    plain = FewShotTask(clip, labelled, classes, seed=task.seed)
    named = torch.arange(task.labelled, task.known)
    synthetic = SyntheticFeatures(named, lambda c, _: t[c], task.seed)
    return {
        "": plain,
        " + class text": replace(plain, synthetic=synthetic),
        " + names alone": replace(plain, over="all"),
    }


def logits_of(task: Task) -> dict[str, Float[np.ndarray, "n C"]]:
    """Logits of the test images by each row of the table."""
    assert task.text is not None
    x = torch.from_numpy(task.data.test_x)
    found = {
        "zero-shot": task.data.scale * task.data.test_x @ task.text.T,
        "logistic regression": np.log(np.maximum(logistic_regression(task), TINY)),
    }
    with_one = torch.cat([x, torch.ones(len(x), 1)], dim=1)  # GDA's rows
    for control, few in companion_tasks(task).items():
        for name, how in COMPANIONS.items():
            if name.startswith("gda") and control == " + names alone":
                continue  # it has no loss
            torch.manual_seed(task.seed)
            head = how.learn(few, silent).head
            rows = with_one if name.startswith("gda") else x
            with torch.no_grad():
                found[name + control] = head.logits(rows).numpy()
    return found


def scores(task: Task, logits: Float[np.ndarray, "n C"]) -> dict[str, float]:
    """Accuracies of both halves in percent, among their own classes and among all."""
    y = task.data.test_y
    first = y < task.labelled
    mixed = logits.argmax(1) == y
    base = logits[:, : task.labelled].argmax(1) == y
    named = logits[:, task.labelled :]
    new = (named.argmax(1) + task.labelled == y) & (np.ptp(named, axis=1) > 0)  # else none is said
    halves = {"sliced": (base[first], new[~first]), "mixed": (mixed[first], mixed[~first])}
    return {
        f"{space} {part}": 100 * float(right.mean())
        for space, both in halves.items()
        for part, right in zip(("base", "new"), both, strict=True)
    }


def harmonic(base: float, new: float) -> float:
    """Harmonic mean; 0 if both are 0."""
    return 2 * base * new / max(base + new, 1e-9)


def rows(name: str, shots: int, folder: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One row per method of a set: means over seeds, and the deviation of H."""
    found: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        task = half_labels(load(name, folder, seed=seed), shots, seed)
        for method, logits in logits_of(task).items():
            found.setdefault(method, []).append(scores(task, logits))
        print(name, "seed", seed, flush=True)
    return [
        {"set": name, "method": method, "shots": shots, "seeds": len(seeds)} | summary(each)
        for method, each in found.items()
    ]


def summary(each: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean base, mean new, H of these means, and the deviation of the seeds' H."""
    found = {}
    for space in ("sliced", "mixed"):
        base = statistics.mean(one[f"{space} base"] for one in each)
        new = statistics.mean(one[f"{space} new"] for one in each)
        h = [harmonic(one[f"{space} base"], one[f"{space} new"]) for one in each]
        spread = statistics.stdev(h) if len(h) > 1 else 0.0
        values = {"base": base, "new": new, "h": harmonic(base, new), "h_spread": spread}
        found[space] = {key: round(value, 2) for key, value in values.items()}
    return found


def printed(table: Sequence[dict[str, Any]], space: str) -> str:
    """Markdown: base / new / H ± its deviation, methods by sets."""
    sets = list(dict.fromkeys(row["set"] for row in table))
    lines = [f"| {space} | {' | '.join(sets)} |", "|---" * (len(sets) + 1) + "|"]
    cell: Callable[[dict[str, float]], str] = lambda one: (  # noqa: E731
        f"{one['base']:.1f} / {one['new']:.1f} / {one['h']:.1f} ± {one['h_spread']:.1f}"
    )
    for method in dict.fromkeys(row["method"] for row in table):
        of = {row["set"]: cell(row[space]) for row in table if row["method"] == method}
        lines.append(f"| {method} | {' | '.join(of.get(name, '–') for name in sets)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the tables, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--features", type=Path, required=True, help="folder of the feature files")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="random seeds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results")
    asked = parser.parse_args()
    table = json.loads(asked.out.read_text()) if asked.out.is_file() else []
    for name in asked.sets:
        table = [row for row in table if row["set"] != name]
        table += rows(name, SETS[name], asked.features, asked.seeds)
        asked.out.write_text(json.dumps(table, indent=1) + "\n")
    for space in ("sliced", "mixed"):
        print(f"\n{printed(table, space)}")


if __name__ == "__main__":
    main()
