"""Category discovery benchmark: GET, its baselines and open-world, over seeds.

    python benchmarks/get.py --data DATA        DATA: the folder with cifar10/ and grocery/
    python benchmarks/get.py --table            print the table of all results so far

Half of the images of the known classes are labelled (the published draw), all others are not.
All, Old and New are clustering accuracies "v2" on the unlabelled training images (transductive),
and on the test images (inductive). Training follows the papers' schedules (200 epochs, the last
stage of the image encoder) on eight cached views of each image: minutes on a GPU (`--device cuda`),
hours on two CPU cores, where `--largest` leaves out sets of more images for them. One line
of `results/get.json` is one fit with one model; existing lines are not measured again.

Images in class folders are in the order of their names. The published draw depends on the order, so
the official sets are in `discovery_sets.py`, which keeps theirs (`discovery.py` scores them).
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from latteclip import SETS, silent
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.data.splits import discovery_split
from anyclass.errors import TrainingError
from anyclass.estimators.gcd_num_classes import estimate_classes
from anyclass.estimators.kmeans import semi_supervised_kmeans
from anyclass.estimators.metrics import clustering
from anyclass.estimators.num_classes import count_classes
from anyclass.features.store import FeatureStore
from anyclass.methods.gcd import Gcd
from anyclass.methods.get import Get
from anyclass.methods.kmeans import KMeans
from anyclass.methods.open_world import OpenWorld
from anyclass.methods.simgcd import SimGcd
from anyclass.run.predict import predict_all
from anyclass.training.two_views import TwoViewTuning

RESULTS = Path(__file__).parent / "results" / "get.json"

TAIL = TwoViewTuning()
GET = Get()
SIMGCD = SimGcd()
METHODS: dict[str, Any] = {
    "kmeans": KMeans(),
    "kmeans, unprojected": KMeans(feature="unprojected"),
    "semi-supervised kmeans": KMeans(semi_supervised=True),
    "semi-supervised kmeans, unprojected": KMeans(semi_supervised=True, feature="unprojected"),
    "open-world": OpenWorld(),
    "simgcd": SIMGCD,
    "get": GET,
    "get, no consistency": replace(GET, cico_weight=0.0),
    "get, two heads": replace(GET, shared_head=False),
    "simgcd, 10 epochs": replace(SIMGCD, tuning=replace(SIMGCD.tuning, epochs=10)),
    "simgcd, 30 epochs": replace(SIMGCD, tuning=replace(SIMGCD.tuning, epochs=30)),
    "get, 10 + 10 epochs": replace(GET, tuning=replace(TAIL, epochs=10), tes_epochs=10),
    "get, 30 + 30 epochs": replace(GET, tuning=replace(TAIL, epochs=30), tes_epochs=30),
    "get, 200 + 30 epochs": replace(GET, tuning=replace(TAIL, epochs=30)),
    "get, 200 + 30 epochs, two heads": replace(
        GET, tuning=replace(TAIL, epochs=30), shared_head=False
    ),
    "simgcd, 32 pairs": replace(SIMGCD, tuning=replace(SIMGCD.tuning, batch_size=32)),
    "get, 32 pairs": replace(GET, tuning=replace(TAIL, batch_size=32)),
    "get, 10 + 200 epochs, 32 pairs": replace(
        GET, tuning=replace(TAIL, batch_size=32), tes_epochs=10
    ),
    "gcd": Gcd(),
    "simgcd, tower at 0.01": replace(SIMGCD, tuning=replace(SIMGCD.tuning, backbone_lr=0.01)),
    "get, tower at 0.01": replace(GET, tuning=replace(TAIL, backbone_lr=0.01)),
    "get, projected features": replace(GET, feature="projected"),
    "simgcd, head": replace(SIMGCD, tuning=replace(SIMGCD.tuning, tune="head")),
    "get, head": replace(GET, tuning=replace(TAIL, tune="head")),
}
"""Rows of the table; for GET with the epochs of stage 1 + stage 2 if not the papers' 200."""

METHODS |= {
    f"{name}, raw texts": replace(how, text_length="raw")
    for name, how in METHODS.items()
    if isinstance(how, Get)
}

WRONG = {
    "open-world, half as many classes": 0.5,
    "open-world, twice as many classes": 2.0,
}
"""Rows with a wrong number of classes, as a multiple of the true one."""
METHODS |= dict.fromkeys(WRONG, OpenWorld())

TRAINED = tuple(name for name, how in METHODS.items() if isinstance(how, Gcd | Get | SimGcd))
"""Rows that need training."""

SHARES_STAGE_1 = tuple(
    name
    for name, how in METHODS.items()
    if isinstance(how, Get)
    and (how.tuning.tune, how.tuning.batch_size) == (TAIL.tune, TAIL.batch_size)
    and how.tes_epochs == GET.tes_epochs
)
"""Rows with the same first stage, which is trained once."""


class Task(NamedTuple):
    """One dataset of the benchmark."""

    dataset: ImageDataset
    """Training images."""
    truth: Any
    """True labels of the training images."""
    test: ImageDataset
    """Test images with labels."""
    known: int
    """Number of known classes, which come first."""
    names: tuple[str, ...]
    """Names of all classes."""


def task(train: ImageDataset, test: ImageDataset, known: list[int], images: int | None) -> Task:
    """Task with the known classes first, on all training images or a random subset of them."""
    if images is not None:
        drawn = np.random.RandomState(0).permutation(len(train))[:images]  # noqa: NPY002
        train = train[np.sort(drawn)]
    order = [*known, *(c for c in range(len(train.classes)) if c not in set(known))]
    number = np.argsort(order)
    dataset, truth = discovery_split(train, known)
    names = tuple(train.classes.names[c] for c in order)
    return Task(dataset, truth, replace(test, labels=number[test.labels]), len(known), names)


def tasks(data: Path) -> dict[str, Callable[[], Task]]:
    """Functions that create the tasks, by name."""

    def cifar(images: int | None) -> Task:
        return task(*SETS["cifar10"](data), list(range(5)), images)

    def halves(name: str) -> Task:
        split = SETS[name](data)
        return task(*split, list(range((len(split.train.classes) + 1) // 2)), None)

    return {
        "cifar10, 4,000 images": lambda: cifar(4000),
        "emoji": lambda: halves("emoji"),
        "grocery, coarse": lambda: halves("grocery, coarse"),
        "cifar10, 10,000 images": lambda: cifar(None),
    }


def scores(clip: Backbone, fitted: Classifier, some: Task) -> dict[str, Any]:
    """Transductive and inductive scores in percent."""
    hidden = some.dataset.labels < 0
    known = range(some.known)
    on_train = predictions(clip, fitted, some.dataset)[hidden]
    on_test = predict_all(FeatureStore(clip, some.test), fitted, silent).log_adapted.argmax(1)
    found = {
        "transductive": clustering(some.truth[hidden], on_train, known),
        "inductive": clustering(some.test.labels, on_test, known),
    }
    texts = fitted.record.pseudo_text
    if texts is not None:
        found |= by_text(fitted, texts, some)
    rows = {}
    for name, shares in found.items():
        if shares:
            keys = ("all", "old", "new", "old_fixed")
            rows[name] = {key: round(100 * shares[key], 2) for key in keys}
    return rows


def predictions(clip: Backbone, fitted: Classifier, dataset: ImageDataset) -> Any:
    """Class of each training image: that of the method's own record, if it has one."""
    recorded = fitted.record.predictions.get("predicted")
    if recorded is not None:
        return np.array(recorded)
    return predict_all(FeatureStore(clip, dataset), fitted, silent).log_adapted.argmax(1)


def by_text(fitted: Classifier, texts: Float[Tensor, "N D"], some: Task) -> dict[str, Any]:
    """Scores of GET's pseudo-texts: its text branch, both branches, and clusters of the texts."""
    hidden = some.dataset.labels < 0
    known = range(some.known)
    record = fitted.record
    x = normalize(texts.cpu(), dim=-1)
    clusters = semi_supervised_kmeans(x, torch.tensor(some.dataset.labels), len(fitted.classes))
    guesses = {
        "text branch": np.array(record.predictions["predicted_by_text"]),
        "both branches": np.array(record.predictions["predicted_by_mix"]),
        "semi-supervised kmeans of texts": clusters.labels.numpy(),
    }
    return {
        name: clustering(some.truth[hidden], guess[hidden], known)
        for name, guess in guesses.items()
    }


STARTER = "starter"
"""The model of lines that name none."""


def key(line: dict[str, Any]) -> tuple[str, str, str, int]:
    """What a line was measured for: model, set, method and seed."""
    return line.get("model", STARTER), line["set"], line["method"], line["seed"]


def is_left_out(method: str, images: int, largest: int | None) -> bool:
    """Whether a method is not trained on so many images."""
    return largest is not None and images > largest and method in TRAINED


def fit(clip: Backbone, name: str, some: Task, method: str, seed: int, scratch: Path) -> Any:
    """Scores of one fit, or the error that stopped it."""
    some = with_wrong_number(some, WRONG.get(method, 1.0))
    row = {"set": name, "method": method, "seed": seed, "images": len(some.dataset)}
    options: dict[str, Any] = {"seed": seed}
    if method in SHARES_STAGE_1:
        options["scratch"] = folder = scratch / f"{seed} {name}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "training.safetensors").unlink(missing_ok=True)
        trained = (folder / "synthesizer.safetensors").is_file()
        row["seconds_of"] = "stage 2" if trained else "both stages"
    start = time.perf_counter()
    try:
        fitted = METHODS[method].fit(FeatureStore(clip, some.dataset), silent, **options)
    except TrainingError as stopped:
        return row | {"stopped": str(stopped)}
    seconds = round(time.perf_counter() - start, 1)
    device = f"{clip.device}{', bf16' if clip.precision == 'bf16' else ''}"
    return row | {"seconds": seconds, "device": device, **scores(clip, fitted, some)}


def with_wrong_number(some: Task, factor: float) -> Task:
    """The task with the number of classes, or at least of new classes, times `factor`."""
    classes = some.dataset.classes
    fewer = round(factor * classes.unknown)
    unknown = max(fewer, round(factor * classes.total) - len(classes))
    return some._replace(dataset=replace(some.dataset, classes=replace(classes, unknown=unknown)))


def estimate(clip: Backbone, name: str, some: Task, seed: int) -> dict[str, Any]:
    """Estimated number of classes: by held-out labels, and by GCD's method."""
    store = FeatureStore(clip, some.dataset)
    x = store.image_features("head", silent).cpu()
    h = store.backbone_features("head", silent).to(x)
    y = torch.tensor(some.dataset.labels)
    found = count_classes(x, y, silent, extra=h, seed=seed)
    row = {"set": name, "method": "estimate", "seed": seed, "true": some.dataset.classes.total}
    row |= {"classes": found.classes, "range": found.range}
    return row if seed else row | {"gcd": estimate_classes(x, y, search="grid", seed=0).classes}


def table(lines: list[dict[str, Any]], protocol: str) -> None:
    """Print means over seeds as Markdown: All / Old / New, and the standard deviation of All."""
    sets = list(dict.fromkeys(line["set"] for line in lines))
    print(f"\n| {protocol} | {' | '.join(sets)} |\n{'|---' * (len(sets) + 1)}|")
    for method in dict.fromkeys(line["method"] for line in lines):
        cells = []
        for name in sets:
            here = [line for line in lines if (line["set"], line["method"]) == (name, method)]
            cells.append(cell(here, protocol) if here else "–")
        print(f"| {method} | {' | '.join(cells)} |")


def cell(here: list[dict[str, Any]], protocol: str) -> str:
    """One cell of the table: means over the finished seeds, and the number of stopped ones."""
    found = [line[protocol] for line in here if protocol in line]
    stopped = f"{len(here) - len(found)} stopped" if len(found) < len(here) else ""
    if not found:
        return stopped
    means = []
    for key in ("all", "old", "new"):
        means.append(f"{statistics.mean(one[key] for one in found):.1f}")
    text = " / ".join(means)
    deviation = f" ± {statistics.stdev(one['all'] for one in found):.1f}" if len(found) > 1 else ""
    notes = [f"{len(found)} seed{'s'[: len(found) > 1]}"] if len(found) != 3 else []
    notes += [stopped] if stopped else []
    return text + deviation + (f" ({', '.join(notes)})" if notes else "")


def main() -> None:
    """Run the benchmark and add its lines to the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the datasets")
    parser.add_argument("--sets", nargs="+", default=None, help="names of datasets; default all")
    parser.add_argument("--methods", nargs="+", default=[*METHODS, "estimate"], help="rows")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="random seeds")
    parser.add_argument("--model", default=STARTER, help="model to measure or to print")
    parser.add_argument("--largest", type=int, help="images up to which to train; default: all")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--precision", choices=["auto", "float32", "bf16"], default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results")
    parser.add_argument("--table", action="store_true", help="print the results so far")
    asked = parser.parse_args()
    if not asked.table and asked.data is None:
        parser.error("--data is needed to measure")
    lines = json.loads(asked.out.read_text()) if asked.out.is_file() else []
    if asked.table:
        of_model = [line for line in lines if key(line)[0] == asked.model]
        for protocol in ("transductive", "inductive"):
            table([line for line in of_model if line["method"] != "estimate"], protocol)
        return
    clip = Backbone.load(asked.model, asked.device, precision=asked.precision)
    done = {key(line) for line in lines}
    with tempfile.TemporaryDirectory() as scratch:
        for name, make in tasks(asked.data).items():
            if asked.sets and name not in asked.sets:
                continue
            some = make()
            for method, seed in [(m, s) for s in asked.seeds for m in asked.methods]:
                wanted = {"model": asked.model, "set": name, "method": method, "seed": seed}
                if key(wanted) in done or is_left_out(method, len(some.dataset), asked.largest):
                    continue
                if method == "estimate":
                    line = estimate(clip, name, some, seed)
                else:
                    line = fit(clip, name, some, method, seed, Path(scratch))
                line |= {"model": asked.model}
                print(json.dumps(line), flush=True)
                lines.append(line)
                asked.out.write_text("[\n" + ",\n".join(map(json.dumps, lines)) + "\n]\n")


if __name__ == "__main__":
    main()
