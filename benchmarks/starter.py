"""Zero-shot accuracy of the starter model on images that it was not trained on.

    python benchmarks/starter.py [--data DIR] [--split test] [--bridge FILE ...]

The demo's emoji in their 16 classes, and in every subset of 12 classes; with DIR also the datasets
cifar10, clothing and grocery with their coarse classes (DIR/SET/SPLIT/CLASS/*.jpg and
grocery/classes.csv). One template, no adaptation; `centred` subtracts the mean of the image
features of the same images. `--bridge` measures other bridges than the shipped one, for ablations.
The table goes to `results/starter.json`.
"""

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.backbone.starter import BRIDGE, assemble
from anyclass.commands.emoji import draw
from anyclass.data import ImageDataset
from anyclass.features.cache import Embedding
from anyclass.features.extract import image_features
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, class_features
from anyclass.files import cache_folder

RESULTS = Path(__file__).parent / "results" / "starter.json"
FEW = 12
"""Classes in each subset of the emoji."""


def silent(**_: Any) -> None:
    """Log nothing."""


def sets(data: Path | None, split: str) -> Iterator[tuple[str, ImageDataset, list[str]]]:
    """Name, labelled images and class names of each dataset; classes may share a name."""
    emoji = ImageDataset.read(draw(cache_folder("demo", "emoji")), labels="folders")
    yield "emoji", emoji, list(emoji.classes.names)
    if data is None:
        return
    for name in ("cifar10", "clothing", "grocery"):
        dataset = ImageDataset.read(data / name / split, labels="folders")
        names = list(dataset.classes.names)
        if name == "grocery":
            with (data / name / "classes.csv").open(encoding="utf-8") as table:
                coarse = {row["class"]: row["coarse_class"] for row in csv.DictReader(table)}
            names = [coarse[one].replace("-", " ") for one in names]
        yield name, dataset, names


@torch.no_grad()
def scores(
    clip: Backbone, dataset: ImageDataset, names: Sequence[str]
) -> tuple[Float[Tensor, "N C"], Float[Tensor, "N C"], Int[Tensor, " N"]]:
    """Cosines with the distinct names, plain and centred, and the true columns."""
    distinct = sorted(set(names))
    images = image_features(clip, FeatureStore(clip, dataset).embed(Embedding(), silent), "head")
    texts = class_features(clip, distinct, [PLAIN])
    right = torch.tensor([distinct.index(names[c]) for c in dataset.labels])
    return images @ texts.T, normalize(images - images.mean(0), dim=1) @ texts.T, right


def accuracy(cosines: Float[Tensor, "N C"], right: Int[Tensor, " N"]) -> float:
    """Accuracy in percent."""
    return 100 * float((cosines.argmax(1) == right).float().mean())


def over_choices(cosines: Float[Tensor, "N C"], right: Int[Tensor, " N"]) -> list[float]:
    """Accuracy for each subset of `FEW` classes and their images."""
    found = []
    for some in combinations(range(cosines.shape[1]), FEW):
        chosen = torch.tensor(some)
        kept = torch.isin(right, chosen)
        hit = chosen[cosines[kept][:, chosen].argmax(1)] == right[kept]
        found.append(100 * float(hit.float().mean()))
    return found


def row(clip: Backbone, data: Path | None, split: str) -> dict[str, Any]:
    """All results of one model."""
    figures: dict[str, Any] = {}
    for name, dataset, names in sets(data, split):
        plain, centred, right = scores(clip, dataset, names)
        figures[name] = round(accuracy(plain, right), 1)
        figures[f"{name}, centred"] = round(accuracy(centred, right), 1)
        if name == "emoji":
            each = over_choices(plain, right)
            figures[f"emoji, {FEW} classes"] = round(float(np.mean(each)), 1)
            figures[f"emoji, {FEW} classes, least and most"] = [
                round(min(each), 1),
                round(max(each), 1),
            ]
    return figures


def main() -> None:
    """Run the benchmark and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the datasets")
    parser.add_argument("--split", default="test", help="split to measure")
    parser.add_argument("--bridge", type=Path, nargs="+", default=[BRIDGE], help="bridge files")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results")
    asked = parser.parse_args()
    rows = []
    for bridge in asked.bridge:
        with TemporaryDirectory() as place:
            assemble(Path(place) / "model", bridge)
            clip = Backbone.load(f"local-dir:{place}/model")
            rows.append(
                {"bridge": bridge.stem, "split": asked.split} | row(clip, asked.data, asked.split)
            )
        print(json.dumps(rows[-1]), flush=True)
    asked.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
