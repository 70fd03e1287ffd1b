"""How seconds grow with images, classes, unknown classes and views: three sizes of each.

    python benchmarks/growth.py [--repeat 3] [--only TEXT]

Synthetic features, 512 wide; drawings for what reads files. The exponent is the slope of the
logarithm of the seconds (least of the repetitions) over that of the size: 1 is a line, 2 a square;
a part that does not grow makes it smaller. Results go to `results/growth.json`.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from anyclass.backbone import Backbone
from anyclass.captioning.captions import draw_groups
from anyclass.data import Augmentation, ImageDataset
from anyclass.estimators.kmeans import kmeans
from anyclass.estimators.num_classes import count_classes
from anyclass.estimators.open_world import OpenWorldClassifier
from anyclass.features.cache import Embedding
from anyclass.features.store import embed
from anyclass.log import silent

RESULTS = Path(__file__).parent / "results" / "growth.json"
WIDTH = 512


class Case(NamedTuple):
    """Something that is timed at three sizes."""

    what: str
    grows: str
    """What the sizes count."""
    sizes: Sequence[int]
    run: Callable[[int], Callable[[], object]]
    """Prepares a size; what it returns is timed."""


@cache
def rows(images: int, classes: int) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "C D"]]:
    """Unit rows around the texts of their classes; row i is of class i modulo the classes."""
    draw = np.random.default_rng(0)
    texts = draw.standard_normal((classes, WIDTH), np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    x = texts[np.arange(images) % classes]
    x = x + 3 / np.sqrt(WIDTH) * draw.standard_normal((images, WIDTH), np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True), texts


def labels(images: int, classes: int, known: int) -> Float[np.ndarray, " N"]:
    """Labels of every second row of the first `known` classes, -1 for the others."""
    true = np.arange(images) % classes
    given = (true < known) & (np.arange(images) // classes % 2 == 0)
    return np.where(given, true, -1)


def names(images: int, classes: int) -> Callable[[], object]:
    """`fit auto` with a name for every class."""
    x, texts = rows(images, classes)
    return lambda: OpenWorldClassifier().fit(x, class_text=texts)


def labelled(images: int, classes: int) -> Callable[[], object]:
    """`fit auto` with names, and labels for every second image."""
    x, texts = rows(images, classes)
    y = labels(images, classes, classes)
    return lambda: OpenWorldClassifier().fit(x, y, class_text=texts)


def discovered(images: int, unknown: int) -> Callable[[], object]:
    """`fit auto` with 20 labelled classes and so many unknown ones."""
    x, _ = rows(images, 20 + unknown)
    y = labels(images, 20 + unknown, 20)
    return lambda: OpenWorldClassifier(unknown=unknown).fit(x, y)


def counted(images: int) -> Callable[[], object]:
    """The number of classes, estimated; half of 100 are labelled."""
    x, _ = rows(images, 100)
    y = labels(images, 100, 50)
    return lambda: count_classes(torch.from_numpy(x), torch.from_numpy(y), silent)


def clustered(images: int, k: int) -> Callable[[], object]:
    """k-means, the baseline, ten starts."""
    x, _ = rows(images, k)
    return lambda: kmeans(torch.from_numpy(x), k)


def grouped(images: int) -> Callable[[], object]:
    """LatteCLIP's groups of images, 100 classes."""
    pool = torch.arange(images) % 100
    return lambda: draw_groups(pool, 100, 4, 32, 0)


@cache
def starter() -> Backbone:
    """The starter model."""
    return Backbone.load("starter")


@cache
def drawings(count: int) -> ImageDataset:
    """Images of 300 x 200 pixels in a folder that stays until the end."""
    folder = Path(tempfile.mkdtemp(dir=os.environ["ANYCLASS_CACHE"]))
    draw = np.random.default_rng(count)
    for i in range(count):
        small = draw.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(small).resize((300, 200)).save(folder / f"{i}.jpg")
    return ImageDataset.read(folder)


def embedded(images: int, views: int) -> Callable[[], object]:
    """`embed` of random views, as LatteCLIP trains on them, with nothing in the cache."""
    numbers = iter(range(1000))  # a seed of its own each time: nothing is in the cache

    def run() -> object:
        wanted = Embedding(augmentation=Augmentation(), views=views, seed=next(numbers))
        return embed(starter(), drawings(images), wanted, silent)

    return run


CASES = (
    Case("open-world, names, 100 classes", "images", (5000, 10000, 20000), lambda n: names(n, 100)),
    Case("open-world, names", "classes", (50, 100, 200), lambda n: names(10000, n)),
    Case(
        "open-world, half labelled, 100 classes",
        "images",
        (5000, 10000, 20000),
        lambda n: labelled(n, 100),
    ),
    Case("open-world, 20 + 40 classes", "images", (3000, 6000, 12000), lambda n: discovered(n, 40)),
    Case("open-world, discovery", "unknown classes", (20, 40, 80), lambda n: discovered(6000, n)),
    Case("number of classes", "images", (3000, 6000, 12000), counted),
    Case("k-means, 100 classes", "images", (5000, 10000, 20000), lambda n: clustered(n, 100)),
    Case("k-means", "classes", (50, 100, 200), lambda n: clustered(10000, n)),
    Case("LatteCLIP, groups", "images", (10000, 20000, 40000), grouped),
    Case("embed, random views of 48 images", "views", (2, 4, 8), lambda n: embedded(48, n)),
)


def seconds(run: Callable[[], object], repeat: int) -> float:
    """The least of some repetitions."""
    found = []
    for _ in range(repeat):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return min(found)


def main() -> None:
    """Measure, print Markdown, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="", help="cases with this text in their name")
    asked = parser.parse_args()
    starter()  # assembled in the user's cache before that is replaced
    table = []
    print("| | grows with | sizes | seconds | exponent |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ANYCLASS_CACHE"] = folder
        for case in CASES:
            if asked.only not in case.what:
                continue
            found = [seconds(case.run(size), asked.repeat) for size in case.sizes]
            slope = float(np.polyfit(np.log(case.sizes), np.log(found), 1)[0])
            sizes = ", ".join(f"{size:,}" for size in case.sizes)
            times = ", ".join(f"{s:.3g}" for s in found)
            print(f"| {case.what} | {case.grows} | {sizes} | {times} | {slope:.2f} |", flush=True)
            row = {"sizes": list(case.sizes), "seconds": [round(s, 4) for s in found]}
            table.append(
                {"what": case.what, "grows": case.grows, "exponent": round(slope, 2)} | row
            )
            rows.cache_clear()
    if not asked.only:
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
