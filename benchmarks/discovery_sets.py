"""Image sets of category discovery, with the known classes of the published splits.

    DATA/cifar-10-batches-py, cifar-100-python   as torchvision unpacks them
    DATA/imagenet/images/train                   a folder per WordNet id (ImageNet-100)
    DATA/CUB_200_2011                            images.txt, image_class_labels.txt ...
    DATA/stanford_cars                           cars_train, devkit/cars_meta.mat,
                                                 devkit/cars_train_annos.mat
    DATA/fgvc_aircraft                           images, `images_variant_trainval.txt`
    DATA/herbarium19/small-train                 a folder per class
    DATA/NAME/train                              any other set: the first half of its classes is
                                                 known

Half of the images of the known classes are labelled, by the published draw in the published order
of the images. Class lists: GCD (Vaze et al., CVPR 2022) and the Semantic Shift Benchmark.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from open_sets import torchvision_part
from paper_sets import unique_classes

from anyclass.data import ImageDataset
from anyclass.data.splits import discovery_split

CLASS_LISTS = Path(__file__).with_name("discovery_classes.json")
"""Known classes of each set, and the novel ones by difficulty; easy: all others."""


class Discovery(NamedTuple):
    """One set of the benchmark."""

    dataset: ImageDataset
    """Training images, some of the known classes labelled."""
    truth: Any
    """True classes (N,), known ones first."""
    known: int
    """Number of known classes."""


def discovery_set(data: Path, name: str) -> Discovery:
    """Read a set and hide its labels as published.

    Raises:
        FileNotFoundError: the set is not there.
    """
    images = READERS[name](data) if name in READERS else _folders(data / name / "train")
    known = known_classes(name, len(images.classes))
    return Discovery(*discovery_split(images, known), len(known))


def known_classes(name: str, classes: int) -> list[int]:
    """Indices of the known classes; for ImageNet-100 among its 100 classes in order."""
    lists: dict[str, dict[str, Any]] = json.loads(CLASS_LISTS.read_text())
    if name == "cifar100":
        return list(range(80))
    if name == "imagenet100":
        every = sorted(lists[name]["known"] + lists[name]["novel"])
        return [every.index(c) for c in lists[name]["known"]]
    if name in lists:
        return list(lists[name]["known"])
    return list(range((classes + 1) // 2))


def available(data: Path, suite: str) -> list[str]:
    """Names of the sets below `data`; `open`: also those in class folders."""
    there = [name for name, folder in FOLDERS.items() if (data / folder).is_dir()]
    if suite != "open":
        return there
    own = [
        path.name for path in sorted(data.iterdir()) if path.is_dir() and (path / "train").is_dir()
    ]
    return there + [name for name in own if name not in there]


def _folders(root: Path, kept: Sequence[int] | None = None) -> ImageDataset:
    """Class folders in order of their names, images in order of theirs; or some of the folders."""
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    folders = folders if kept is None else [folders[c] for c in kept]
    files = []
    labels = []
    for c, folder in enumerate(folders):
        images = sorted(path.name for path in folder.iterdir() if path.is_file())
        files += [f"{folder.name}/{image}" for image in images]
        labels += [c] * len(images)
    return _dataset(root, files, labels, [folder.name for folder in folders])


def _imagenet100(data: Path) -> ImageDataset:
    lists = json.loads(CLASS_LISTS.read_text())["imagenet100"]
    return _folders(data / "imagenet" / "images" / "train", sorted(lists["known"] + lists["novel"]))


def _cub(data: Path) -> ImageDataset:
    """CUB in the order of images.txt."""
    root = data / "CUB_200_2011"

    def table(name: str) -> dict[str, str]:
        lines = (root / name).read_text().splitlines()
        return dict(line.split(" ", 1) for line in lines if line.strip())

    train = {image for image, used in table("train_test_split.txt").items() if used == "1"}
    of = table("image_class_labels.txt")
    files = {i: file for i, file in table("images.txt").items() if i in train}
    labels = [int(of[i]) - 1 for i in files]
    names = [name.split(".", 1)[-1].replace("_", " ") for name in table("classes.txt").values()]
    return _dataset(root / "images", list(files.values()), labels, names)


def _cars(data: Path) -> ImageDataset:
    """Stanford Cars in the order of the annotations."""
    from scipy.io import loadmat

    root = data / "stanford_cars"
    rows = loadmat(root / "devkit" / "cars_train_annos.mat", squeeze_me=True)["annotations"]
    names = loadmat(root / "devkit" / "cars_meta.mat", squeeze_me=True)["class_names"]
    files = [str(name) for name in np.atleast_1d(rows)["fname"]]
    labels = [int(c) - 1 for c in np.atleast_1d(rows)["class"]]
    return _dataset(root / "cars_train", files, labels, [str(name) for name in names])


def _aircraft(data: Path) -> ImageDataset:
    """FGVC-Aircraft in the order of `images_variant_trainval.txt`, variants by name."""
    root = data / "fgvc_aircraft"
    lines = (root / "images_variant_trainval.txt").read_text().splitlines()
    pairs = [line.split(" ", 1) for line in lines if line.strip()]
    names = sorted({name.strip() for _, name in pairs})
    labels = [names.index(name.strip()) for _, name in pairs]
    return _dataset(root / "images", [f"{image}.jpg" for image, _ in pairs], labels, names)


def _dataset(
    root: Path, files: Sequence[str], labels: Sequence[int], names: Sequence[str]
) -> ImageDataset:
    known = np.array(labels, dtype=np.int64)
    return ImageDataset(root.resolve(), tuple(files), known, unique_classes(names))


READERS: dict[str, Callable[[Path], ImageDataset]] = {
    "cifar10": lambda data: torchvision_part(data, "CIFAR10", True),
    "cifar100": lambda data: torchvision_part(data, "CIFAR100", True),
    "imagenet100": _imagenet100,
    "cub": _cub,
    "stanford_cars": _cars,
    "fgvc_aircraft": _aircraft,
    "herbarium19": lambda data: _folders(data / "herbarium19" / "small-train"),
}
FOLDERS = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "imagenet100": "imagenet/images/train",
    "cub": "CUB_200_2011",
    "stanford_cars": "stanford_cars/devkit",
    "fgvc_aircraft": "fgvc_aircraft/images",
    "herbarium19": "herbarium19/small-train",
}
"""Folders by which the sets are recognised."""
