"""All image sets below a folder: those of the papers, and with `--suite open` any other.

    DATA/NAME/train, DATA/NAME/test      a folder per class
    DATA/NAME/dataset_dict.json          any set of Hugging Face, saved by `save_to_disk`
    DATA/food-101, flowers-102, ...      a set as torchvision downloads it, with the splits of its
                                         authors: `TORCHVISION_SETS`

A set that is not there is left out. Nothing is downloaded.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from paper_sets import COOP_SETS, Splits, coop_set, is_there, prompt_name, unique_classes

from anyclass.data import ImageDataset
from anyclass.data.inputs import ImageSource, image_source


class TorchvisionSet(NamedTuple):
    """One set of `torchvision.datasets`."""

    folder: str
    """Part of it by which it is recognised."""
    paper: str
    """Its name in `COOP_SETS`, whose template is used; "" if it is none of them."""
    train: Any
    """Value of its argument for the images to train on."""
    val: Any
    """That for the images to select on; None where there are none."""
    test: Any
    """That for the images to score on."""


TORCHVISION_SETS = {
    "CIFAR10": TorchvisionSet("cifar-10-batches-py", "", True, None, False),
    "CIFAR100": TorchvisionSet("cifar-100-python", "", True, None, False),
    "DTD": TorchvisionSet("dtd/dtd/labels", "dtd", "train", "val", "test"),
    "FGVCAircraft": TorchvisionSet(
        "fgvc-aircraft-2013b/data", "fgvc_aircraft", "train", "val", "test"
    ),
    "Flowers102": TorchvisionSet("flowers-102/setid.mat", "flowers102", "train", "val", "test"),
    "Food101": TorchvisionSet("food-101/meta", "food101", "train", None, "test"),
    "OxfordIIITPet": TorchvisionSet(
        "oxford-iiit-pet/annotations", "oxford_pets", "trainval", None, "test"
    ),
    "StanfordCars": TorchvisionSet(
        "stanford_cars/cars_test_annos_withlabels.mat", "stanford_cars", "train", None, "test"
    ),
}
"""Sets of image-text benchmarks that torchvision has, with their splits. Not CoOp's: these have the
same test images for aircraft, cars and pets alone."""


def folder_set(data: Path, name: str) -> Splits:
    """A set with `train` and `test`, a folder per class."""
    train = ImageDataset.read(data / name / "train", labels="folders")
    test = ImageDataset.read(data / name / "test", train.classes.names, "folders")
    return Splits(train, test[np.arange(0)], test)


class SplitImages(Mapping[str, Any]):
    """Images of all splits in one place: `train/3` is the image 3 of train, read when asked for."""

    def __init__(self, of_split: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the images of each split by their numbers."""
        self._of_split = of_split

    def __getitem__(self, name: str) -> Any:
        split, _, number = name.partition("/")
        return self._of_split[split][number]

    def __iter__(self) -> Iterator[str]:
        return (f"{split}/{number}" for split, some in self._of_split.items() for number in some)

    def __len__(self) -> int:
        return sum(map(len, self._of_split.values()))


def saved_set(data: Path, name: str) -> Splits:
    """A set of Hugging Face as `DatasetDict.save_to_disk` writes it: train, test, validation.

    Raises:
        ValueError: it has no column of classes.
    """
    from datasets import ClassLabel, load_from_disk

    found = load_from_disk(str(data / name))
    columns = [key for key, kind in found["train"].features.items() if isinstance(kind, ClassLabel)]
    if not columns:
        raise ValueError(f"{data / name} has no column of classes (ClassLabel)")
    names = found["train"].features[columns[0]].names
    classes = unique_classes([prompt_name(name, folder) for folder in names])
    images = SplitImages({split: in_memory(some) for split, some in found.items()})

    def part(split: str) -> ImageDataset:
        files = tuple(f"{split}/{i}" for i in range(len(found[split])))
        labels = np.array(found[split][columns[0]], dtype=np.int64)
        return ImageDataset(Path(), files, labels, classes, memory=images)

    test = part("test")
    val = part("validation") if "validation" in found else test[np.arange(0)]
    return Splits(part("train"), val, test)


def in_memory(split: Any) -> Mapping[str, Any]:
    """Images of a split of Hugging Face by their numbers."""
    source = image_source(split)
    assert isinstance(source, ImageSource)
    assert source.dataset.memory is not None
    return source.dataset.memory


def torchvision_set(data: Path, name: str) -> Splits:
    """A set as torchvision downloads it."""
    some = TORCHVISION_SETS[name]
    train, test = (torchvision_part(data, name, split) for split in (some.train, some.test))
    val = test[np.arange(0)] if some.val is None else torchvision_part(data, name, some.val)
    return Splits(train, val, test)


def torchvision_part(data: Path, name: str, split: Any) -> ImageDataset:
    """Images of one split in torchvision's order; `split` is a value of its argument."""
    from torchvision import datasets

    kind = getattr(datasets, name)
    if isinstance(split, bool):
        found = kind(str(data), train=split)
        source = image_source(found.data)
        assert isinstance(source, ImageSource)
        labels = np.array(found.targets, dtype=np.int64)
        return replace(source.dataset, labels=labels, classes=unique_classes(found.classes))
    found = kind(str(data), split=split)
    root = data.resolve()
    samples = [(Path(file).resolve().relative_to(root), label) for file, label in _samples(found)]
    files = tuple(file.as_posix() for file, _ in samples)
    labels = np.array([label for _, label in samples], dtype=np.int64)
    names = [prompt_name(paper_name(name), spelt) for spelt in found.classes]
    return ImageDataset(root, files, labels, unique_classes(names))


def _samples(found: Any) -> list[tuple[str | Path, int]]:
    """Files and labels, which torchvision has in private fields alone."""
    if hasattr(found, "_samples"):
        return list(found._samples)
    files = found._images if hasattr(found, "_images") else found._image_files
    return list(zip(files, found._labels, strict=True))


def paper_name(name: str) -> str:
    """Name of a set in the papers, for its template and settings."""
    return TORCHVISION_SETS[name].paper if name in TORCHVISION_SETS else name


def available(data: Path, suite: str) -> dict[str, Callable[[], Splits]]:
    """Readers of the sets below `data`, by name; those that are not the papers' if it is `open`."""
    found: dict[str, Callable[[], Splits]] = {
        name: partial(coop_set, data, name) for name in COOP_SETS if is_there(data, name)
    }
    if suite != "open":
        return found
    for name, some in TORCHVISION_SETS.items():
        if (data / some.folder).exists():
            found[name] = partial(torchvision_set, data, name)
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        if (folder / "dataset_dict.json").is_file():
            found.setdefault(folder.name, partial(saved_set, data, folder.name))
        elif (folder / "train").is_dir() and (folder / "test").is_dir():
            found.setdefault(folder.name, partial(folder_set, data, folder.name))
    return found
