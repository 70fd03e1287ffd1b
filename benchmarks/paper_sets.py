"""Image sets of the papers, read from the files that their authors published.

    DATA/caltech-101, oxford_pets, ...   the eleven sets of CoOp, as its DATASETS.md lays them out,
                                         each with its `split_zhou_*.json`
    DATA/fgvc_aircraft                   images, `images_variant_*.txt`, `variants.txt`
    DATA/imagenet                        images/train, images/val, `classnames.txt`
    DATA/xlsa17/data/CUB, AWA2, FLO      `res101.mat`, `att_splits.mat` (Xian et al., TPAMI 2018);
                                         the images in the folders of `XIAN_IMAGES`

Other sets: `open_sets.py`.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anyclass.data import Classes, ImageDataset


class Splits(NamedTuple):
    """Images of a set, all with labels of the same classes."""

    train: ImageDataset
    """Images to train on."""
    val: ImageDataset
    """Images that the authors select on; empty where there are none."""
    test: ImageDataset
    """Images to score on."""


class CoopSet(NamedTuple):
    """One of the eleven sets of CoOp."""

    images: str
    """Folder of the images, below the folder of all sets."""
    split: str
    """File of the split, in the first folder of `images`."""
    classes: int
    """Number of classes."""
    sizes: tuple[int, int, int]
    """Published numbers of images to train, select and test on."""
    template: str
    """Prompt of CoOp and SHIP."""


PLAIN = "a photo of a {}."
COOP_SETS = {
    "caltech101": CoopSet(
        "caltech-101/101_ObjectCategories",
        "split_zhou_Caltech101.json",
        100,
        (4128, 1649, 2465),
        PLAIN,
    ),
    "oxford_pets": CoopSet(
        "oxford_pets/images",
        "split_zhou_OxfordPets.json",
        37,
        (2944, 736, 3669),
        "a photo of a {}, a type of pet.",
    ),
    "stanford_cars": CoopSet(
        "stanford_cars", "split_zhou_StanfordCars.json", 196, (6509, 1635, 8041), PLAIN
    ),
    "flowers102": CoopSet(
        "oxford_flowers/jpg",
        "split_zhou_OxfordFlowers.json",
        102,
        (4093, 1633, 2463),
        "a photo of a {}, a type of flower.",
    ),
    "food101": CoopSet(
        "food-101/images",
        "split_zhou_Food101.json",
        101,
        (50500, 20200, 30300),
        "a photo of {}, a type of food.",
    ),
    "fgvc_aircraft": CoopSet(
        "fgvc_aircraft/images", "", 100, (3334, 3333, 3333), "a photo of a {}, a type of aircraft."
    ),
    "sun397": CoopSet("sun397/SUN397", "split_zhou_SUN397.json", 397, (15880, 3970, 19850), PLAIN),
    "dtd": CoopSet(
        "dtd/images", "split_zhou_DescribableTextures.json", 47, (2820, 1128, 1692), "{} texture."
    ),
    "eurosat": CoopSet(
        "eurosat/2750",
        "split_zhou_EuroSAT.json",
        10,
        (13500, 5400, 8100),
        "a centered satellite photo of {}.",
    ),
    "ucf101": CoopSet(
        "ucf101/UCF-101-midframes",
        "split_zhou_UCF101.json",
        101,
        (7639, 1898, 3783),
        "a photo of a person doing {}.",
    ),
    "imagenet": CoopSet("imagenet/images", "", 1000, (1281167, 0, 50000), PLAIN),
}
"""The sets of CoOp's and SHIP's tables, with the templates of the latter."""

EUROSAT = {
    "AnnualCrop": "annual crop land",
    "Forest": "forest",
    "HerbaceousVegetation": "herbaceous vegetation land",
    "Highway": "highway or road",
    "Industrial": "industrial buildings",
    "Pasture": "pasture land",
    "PermanentCrop": "permanent crop land",
    "Residential": "residential buildings",
    "River": "river",
    "SeaLake": "sea or lake",
}
CALTECH = {"airplanes": "airplane", "faces": "face", "leopards": "leopard"}
CALTECH |= {"motorbikes": "motorbike"}

XIAN_IMAGES = {
    "CUB": "CUB_200_2011/images",
    "AWA2": "AWA2/JPEGImages",
    "FLO": "oxford_flowers/jpg",
}
"""Folders of the images of the generalized zero-shot sets."""


def coop_set(data: Path, name: str) -> Splits:
    """Read one of the eleven sets.

    What differs from the published split is printed.

    Raises:
        FileNotFoundError: the set is not there.
    """
    if name == "imagenet":
        found = _imagenet(data)
    elif name == "fgvc_aircraft":
        found = _aircraft(data)
    else:
        found = _listed(data, name)
    for line in check_sizes(name, found):
        print(line, file=sys.stderr)
    return found


def is_there(data: Path, name: str) -> bool:
    """Whether the images of one of the eleven sets, and the file of its split, are below `data`."""
    some = COOP_SETS[name]
    folder = data / Path(some.images).parts[0]
    return (data / some.images).is_dir() and (folder / some.split).exists()


def _listed(data: Path, name: str) -> Splits:
    """A set with a `split_zhou_*.json`."""
    some = COOP_SETS[name]
    root = data / some.images
    folder = data / Path(some.images).parts[0]
    listed: dict[str, list[list[Any]]] = json.loads((folder / some.split).read_text())
    rows = [row for part in listed.values() for row in part]
    named = {int(label): prompt_name(name, str(folder_name)) for _, label, folder_name in rows}
    classes = unique_classes([named[label] for label in sorted(named)])
    parts = [_part(root, listed[part], classes) for part in ("train", "val", "test")]
    return Splits(*parts)


def prompt_name(dataset: str, name: str) -> str:
    """Class name as the papers write it into prompts."""
    spaced = name.replace("_", " ")
    if dataset == "eurosat":
        return EUROSAT.get(name, spaced.lower())
    if dataset == "caltech101":
        return CALTECH.get(spaced.lower(), spaced.lower())
    if dataset == "ucf101":
        spaced = " ".join(re.findall(r"[A-Z]?[^A-Z\s]+|[A-Z]+(?![a-z])", spaced))
    return spaced.replace(".", " ").lower() if dataset in ("ucf101", "stanford_cars") else spaced


def unique_classes(names: Sequence[str]) -> Classes:
    """Classes with these prompts; names that repeat get a number, as ImageNet's two "missile"."""
    repeated = {name for name, count in Counter(names).items() if count > 1}
    seen = Counter[str]()
    labels = []
    for name in names:
        seen[name] += 1
        labels.append(f"{name} ({seen[name]})" if name in repeated else name)
    return Classes.of(labels, names, labels)


def check_sizes(name: str, found: Splits) -> list[str]:
    """What differs from the published split, one sentence each."""
    some = COOP_SETS[name]
    sizes = tuple(len(part) for part in found)
    wrong = []
    if len(found.train.classes) != some.classes:
        wrong.append(f"{name}: {len(found.train.classes)} classes instead of {some.classes}")
    if sizes != some.sizes:
        wrong.append(f"{name}: {sizes} images instead of {some.sizes}")
    return wrong


def xian_set(data: Path, name: str) -> Splits:
    """Read a generalized zero-shot set: `val` holds the test images of the seen classes.

    The classes that only `test` has are the unseen ones.
    """
    from scipy.io import loadmat

    folder = data / "xlsa17" / "data" / name
    root = data / XIAN_IMAGES[name]
    images = loadmat(folder / "res101.mat")
    splits = loadmat(folder / "att_splits.mat")
    paths = [str(cell[0]) for cell in images["image_files"].ravel()]
    files = [_below(path, root.name) for path in paths]
    labels = images["labels"].ravel().astype(int) - 1
    names = [str(cell[0]) for cell in splits["allclasses_names"].ravel()]
    classes = unique_classes([re.sub(r"^\d+\.", "", n).replace("_", " ") for n in names])
    parts = []
    for key in ("trainval_loc", "test_seen_loc", "test_unseen_loc"):
        rows = splits[key].ravel().astype(int) - 1  # 1-based
        parts.append(_dataset(root, [files[i] for i in rows], labels[rows], classes))
    return Splits(*parts)


def _part(root: Path, rows: Iterable[Sequence[Any]], classes: Classes) -> ImageDataset:
    """Images of one list of a split file, in its order."""
    label_of = [(row[0], int(row[1])) for row in rows]
    files = [file for file, _ in label_of]
    labels = [label for _, label in label_of]
    return _dataset(root, files, labels, classes)


def _dataset(
    root: Path, files: Sequence[str], labels: Sequence[int] | Any, classes: Classes
) -> ImageDataset:
    known = np.array(labels, dtype=np.int64)
    return ImageDataset(root.resolve(), tuple(files), known, classes)


def _aircraft(data: Path) -> Splits:
    """FGVC-Aircraft by its own lists of variants."""
    lists = data / "fgvc_aircraft"
    names = (lists / "variants.txt").read_text().split("\n")
    classes = unique_classes([name.strip() for name in names if name.strip()])
    parts = []
    for part in ("train", "val", "test"):
        lines = (lists / f"images_variant_{part}.txt").read_text().splitlines()
        pairs = [line.split(" ", 1) for line in lines if line.strip()]
        labels = [classes.names.index(name.strip()) for _, name in pairs]
        files = [f"{image}.jpg" for image, _ in pairs]
        parts.append(_dataset(lists / "images", files, labels, classes))
    return Splits(*parts)


def _imagenet(data: Path) -> Splits:
    """ImageNet in folders of WordNet ids, with CoOp's class names; `val` is the test split."""
    root = data / "imagenet" / "images"
    lines = (data / "imagenet" / "classnames.txt").read_text().splitlines()
    names = dict(line.strip().split(" ", 1) for line in lines if line.strip())
    classes = unique_classes([names[wnid] for wnid in sorted(names)])
    parts = []
    for part in ("train", "val"):
        files = []
        labels = []
        for c, wnid in enumerate(sorted(names)):
            images = sorted(path.name for path in (root / part / wnid).iterdir())
            files += [f"{part}/{wnid}/{image}" for image in images]
            labels += [c] * len(images)
        parts.append(_dataset(root, files, labels, classes))
    return Splits(parts[0], parts[0][np.arange(0)], parts[1])


def _below(path: str, folder: str) -> str:
    """The part of a path after a folder, as in the lists of other machines."""
    parts = path.replace("\\", "/").split("/")
    return "/".join(parts[parts.index(folder) + 1 :]) if folder in parts else parts[-1]
