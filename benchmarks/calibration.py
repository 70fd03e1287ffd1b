"""Calibration of discovered classes where the method has none of its own, before and after.

    python benchmarks/calibration.py --data FOLDER --sets caltech72 dtd47     feature files
    python benchmarks/calibration.py --data FOLDER --images clothing         trained methods

Labels for half of the images of half of the classes; the number of classes is given. The rows
"nothing known" have no label at all. Scored are the images without a label, clusters matched to
classes one to one: the share that is right, what was expected, and the expected calibration error
of the scores as the method leaves them (before) and with the temperature of a run (after). The last
figure is how well the score sorts right from wrong (area under the ROC curve; no order: 50).
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from feature_sets import gcd_labels, load
from latteclip import silent

from anyclass.backbone import Backbone
from anyclass.commands.calibrate import calibrated
from anyclass.data import Classes, ImageDataset
from anyclass.data.feature_tables import read_features
from anyclass.data.splits import discovery_split
from anyclass.estimators.metrics import assignment, calibration_gap
from anyclass.features.precomputed import AnyFeatures, PrecomputedFeatures
from anyclass.features.store import FeatureStore
from anyclass.methods.gcd import Gcd
from anyclass.methods.get import Get
from anyclass.methods.kmeans import KMeans
from anyclass.methods.open_world import OpenWorld
from anyclass.methods.simgcd import SimGcd
from anyclass.naming.quality import judged
from anyclass.run.predict import predict_all
from anyclass.run.predictions import AllPredictions
from anyclass.training.two_views import TwoViewTuning


class Some(NamedTuple):
    """A set of which some labels are hidden."""

    data: AnyFeatures
    """Features with the labels that are left."""
    truth: np.ndarray
    """Class of each image (N,)."""


METHODS: dict[str, Any] = {
    "k-means, nothing known": KMeans(fit_on="all"),
    "open-world, nothing known": OpenWorld(),
    "k-means": KMeans(),
    "k-means with labels": KMeans(semi_supervised=True, restarts=10),
}
"""Row -> method, on features."""


def trained(epochs: int, views: int) -> dict[str, Any]:
    """Row -> method, on images."""
    tuning = TwoViewTuning(epochs=epochs, views=views)
    simgcd = SimGcd()
    return {
        "gcd": Gcd(tuning=tuning),
        "simgcd": replace(simgcd, tuning=replace(simgcd.tuning, epochs=epochs, views=views)),
        "get": Get(tuning=tuning, tes_epochs=epochs),
    }


def of_features(folder: Path, name: str, seed: int) -> Some:
    """A feature file, its training images."""
    task = gcd_labels(load(name, folder, seed=seed), seed)
    x = task.data.train_x
    names = [str(c) for c in range(task.labelled)]
    classes = Classes.of(names, labelled=names, unknown=task.unknown)
    dataset = ImageDataset.of([f"{i}.jpg" for i in range(len(x))], classes)
    dataset = replace(dataset, labels=task.y)
    texts = torch.full((len(names), x.shape[1]), torch.nan)
    return Some(PrecomputedFeatures(read_features(x), dataset, texts, 100.0), task.data.train_y)


def of_images(clip: Backbone, folder: Path, most: int, seed: int) -> Some:
    """Class folders, at most so many images, half of the classes labelled."""
    images = ImageDataset.read(folder / "train", labels="folders")
    chosen = np.random.default_rng(seed).permutation(len(images))[:most]
    images = images[np.sort(chosen)]
    known = list(range((len(images.classes) + 1) // 2))
    dataset, truth = discovery_split(images, known)
    return Some(FeatureStore(clip, dataset), truth)


def without_labels(some: Some) -> Some:
    """The same with the number of classes alone."""
    dataset = some.data.dataset
    nothing = replace(dataset, labels=np.full(len(dataset), -1))
    nothing = replace(nothing, classes=Classes.of([], unknown=dataset.classes.total))
    data = some.data.of(nothing)
    if isinstance(data, PrecomputedFeatures):
        data = replace(data, texts=data.texts[:0])
    return Some(data, some.truth)


def figures(method: Any, some: Some, seed: int) -> dict[str, float]:
    """Right, expected, calibration error before and after, order; in percent."""
    from sklearn.metrics import roc_auc_score

    classifier = method.fit(some.data, silent, seed=seed)
    before = predict_all(some.data, classifier, silent, prompt_ensemble=False)
    trained_on = some.data.dataset.labels >= 0
    predicted = before.log_adapted.argmax(1)
    qualities = judged(some.data, classifier, torch.from_numpy(predicted), silent)
    classifier, after = calibrated(classifier, before, qualities, trained_on)
    free = ~trained_on
    class_of = assignment(some.truth[free], predicted[free])
    right = class_of[predicted[free]] == some.truth[free]

    def scores(found: AllPredictions) -> np.ndarray:
        best: np.ndarray = np.exp(found.log_adapted[free].max(1))
        return best

    return {
        "right": 100 * float(right.mean()),
        "expected": 100 * classifier.record.expected.get("accuracy", float("nan")),
        "before": 100 * calibration_gap(scores(before), right),
        "after": 100 * calibration_gap(scores(after), right),
        "order": 100 * float(roc_auc_score(right, after.log_adapted[free].max(1))),
    }


def show(name: str, row: str, read: Callable[[int], Some], method: Any) -> Iterator[str]:
    """Lines of one row: a seed each, and their means."""
    found = []
    for seed in range(3):
        some = read(seed)
        found.append(figures(method, without_labels(some) if "nothing" in row else some, seed))
        yield f"{name:12} {row:26} seed {seed}  {_line(found[-1])}"
    mean = {}
    for key in found[0]:
        mean[key] = statistics.mean(figure[key] for figure in found)
    yield f"{name:12} {row:26} mean    {_line(mean)}"


def _line(found: dict[str, float]) -> str:
    return "  ".join(f"{key} {value:5.1f}" for key, value in found.items())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", default=[], help="feature files")
    parser.add_argument("--images", nargs="*", default=[], help="folders with train/CLASS/*.jpg")
    parser.add_argument("--most", type=int, default=1500, help="images of a folder")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--epochs", type=int, default=10, help="of trained methods")
    parser.add_argument("--views", type=int, default=2, help="cached views of trained methods")
    asked = parser.parse_args()
    for name in asked.sets:
        for row, method in METHODS.items():
            read = partial(of_features, asked.data, name)
            for line in show(name, row, read, method):
                print(line, flush=True)
    if not asked.images:
        return
    clip = Backbone.load(asked.model)
    for name in asked.images:
        for row, method in (METHODS | trained(asked.epochs, asked.views)).items():
            read = partial(of_images, clip, asked.data / name, asked.most)
            for line in show(name, row, read, method):
                print(line, flush=True)


if __name__ == "__main__":
    main()
