"""Makes a feature file for `open_world.py` from an image folder.

    python benchmarks/embed_set.py FOLDER --out NAME.npz [--model starter] [--most 4000]

FOLDER holds `train/` and `test/`, with a folder per class in each. Features are cached as in any
run of `anyclass`.

Letters: M negative texts, D dimensions.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from anyclass.backbone import Backbone
from anyclass.data import ImageDataset
from anyclass.data.nouns import some_nouns
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, class_features

NEGATIVES = 2000
"""Number of nouns kept as negative texts, about."""


def embed(folder: Path, model: str = "starter", most: int | None = None) -> dict[str, Any]:
    """Arrays of a feature file from an image folder with `train/` and `test/`.

    Args:
        folder: image folder; the classes are the folders in `train/`.
        model: the model, as for `--model`.
        most: largest number of images per split, drawn at random.
    """
    clip = Backbone.load(model)
    arrays: dict[str, Any] = {"scale": float(clip.logit_scale.detach()), "model": model}
    names: list[str] | None = None
    for split in ("train", "test"):
        dataset = ImageDataset.read(folder / split, classes=names, labels="folders")
        names = list(dataset.classes.names)
        if most and len(dataset) > most:
            chosen = np.random.default_rng(0).permutation(len(dataset))[:most]
            dataset = dataset[np.sort(chosen)]
        store = FeatureStore(clip, dataset)
        x = store.image_features("head", _silent)
        h = store.backbone_features("head", _silent).to(x)
        arrays |= {f"{split}_x": x.numpy(), f"{split}_h": h.numpy()}
        arrays[f"{split}_y"] = np.asarray(dataset.labels)
        if split == "train":
            arrays["text"] = store.class_features([PLAIN]).numpy()
            arrays["names"] = np.array(names)
            arrays["negatives"] = _nouns(clip, names)
    return arrays


def _silent(**_: Any) -> None:
    """Take a row of a log and keep nothing."""


def _nouns(clip: Backbone, names: Sequence[str]) -> Float[np.ndarray, "M D"]:
    """Text features of the package's nouns, without those that are class names."""
    words = [word for word in some_nouns(NEGATIVES) if word not in names]
    with torch.no_grad():
        features: np.ndarray = class_features(clip, words, [PLAIN]).numpy()
    return features


def main() -> None:
    """Write the file of a set from an image folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="image folder with train/ and test/")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--model", default="starter", help="model, as for `anyclass fit --model`")
    parser.add_argument("--most", type=int, help="largest number of images per split")
    asked = parser.parse_args()
    np.savez(asked.out, **embed(asked.folder, asked.model, asked.most))


if __name__ == "__main__":
    main()
