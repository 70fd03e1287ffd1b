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
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.captioning.captions import draw_groups
from anyclass.data import Augmentation, Classes, ImageDataset
from anyclass.estimators.kmeans import kmeans
from anyclass.estimators.num_classes import count_classes
from anyclass.estimators.open_world import OpenWorldClassifier
from anyclass.features.cache import Embedding
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, class_features
from anyclass.log import silent
from anyclass.methods.get import Branches, Get
from anyclass.methods.latteclip_equations import margin_weights, mix, move
from anyclass.methods.ship_vae import Generator, Vae
from anyclass.methods.simgcd import branch_loss

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
        return FeatureStore(starter(), drawings(images)).embed(wanted, silent)

    return run


def weighted(classes: int, batch: int = 512) -> Callable[[], object]:
    """LatteCLIP's weights, mixed texts and prototypes of a step (Eq. 1, 2), without encoders."""
    v = normalize(torch.randn(2, 3, batch, WIDTH), dim=-1)
    p = normalize(torch.randn(classes, WIDTH), dim=-1)
    c = torch.arange(2 * batch).view(2, batch) % classes
    present = torch.ones(2, 3, batch, dtype=torch.bool)

    def run() -> object:
        mixed = mix(v, margin_weights(v, p, c, present), p[c])
        return move(p, mixed.flatten(0, 1), c.flatten())

    return run


def branched(classes: int, batch: int = 128) -> Callable[[], object]:
    """Heads and losses of a step of GET's second stage, without the image encoder."""
    how = Get()
    net = Branches(1280, WIDTH, classes, how, 0)
    v = torch.randn(2 * batch, 1280)
    labels = torch.where(torch.arange(batch) % 2 == 0, torch.arange(batch) % 7, -1).repeat(2)

    def run() -> object:
        h, cosines = net.head(v)
        terms = branch_loss(h, cosines, labels, 0.07, how.objective)
        total = torch.stack(list(terms.values())).sum()
        return torch.autograd.grad(total, list(net.head.parameters()))

    return run


def synthesised(classes: int) -> Callable[[], object]:
    """SHIP's features of so many classes, by the text encoder of the starter."""
    clip = starter()
    names = Classes.of([f"class {c}" for c in range(classes)])
    with torch.no_grad():
        t = class_features(clip, names.prompts, [PLAIN])
    maker = Generator(Vae(), clip, names, t, seed=0)
    each = torch.arange(classes)
    z, _ = maker.encode(t, each)

    @torch.no_grad()
    def run() -> object:
        return maker.decode(z, each)

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
    Case("LatteCLIP, weights and prototypes of a step", "classes", (500, 1000, 2000), weighted),
    Case("GET, heads and losses of a step", "classes", (500, 1000, 2000), branched),
    Case("SHIP, synthetic features", "classes", (50, 100, 200), synthesised),
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
    parser.add_argument(
        "--only", default="", help="cases with this text in their name; the results of others stay"
    )
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
    measured = {(row["what"], row["grows"]) for row in table}
    known = json.loads(RESULTS.read_text("utf-8")) if asked.only and RESULTS.is_file() else []
    kept = [row for row in known if (row["what"], row["grows"]) not in measured]
    RESULTS.write_text(json.dumps(kept + table, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
