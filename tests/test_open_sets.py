"""Image sets that are not in the papers' layout, on miniatures."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import open_sets  # noqa: E402
import paper_sets  # noqa: E402
import unsupervised  # noqa: E402


def test_saved_set__of_hugging_face_keeps_its_splits_and_classes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    kinds = datasets.ClassLabel(names=["red_toy", "big_dog"])
    features = datasets.Features({"label": kinds, "photo": datasets.Image()})
    splits = {"train": [1, 0, 1], "validation": [0], "test": [1, 1]}
    found = {}
    for base, (split, labels) in enumerate(splits.items()):
        photos = [Image.new("RGB", (10 + base, 5 + i), "red") for i in range(len(labels))]
        rows = {"label": labels, "photo": photos}
        found[split] = datasets.Dataset.from_dict(rows, features)
    datasets.DatasetDict(found).save_to_disk(str(tmp_path / "toys"))
    (name, read), *more = open_sets.available(tmp_path, "open").items()
    assert (name, more) == ("toys", [])
    train, val, test = read()
    assert train.classes.prompts == ("red toy", "big dog")
    assert [part.labels.tolist() for part in (train, val, test)] == list(splits.values())
    both = unsupervised.joined(train, val)
    assert [both.open(i)[1].size for i in range(4)] == [(10, 5), (10, 6), (10, 7), (11, 5)]
    assert test[np.array([1])].open(0)[1].size == (12, 6)
    assert open_sets.available(tmp_path, "paper") == {}


def draw(folder: Path, *files: str) -> None:
    """Images whose width tells the number at the end of their name."""
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12 + int(path.stem[-1]), 9), "teal").save(path)


def dtd(root: Path) -> None:
    (root / "dtd" / "labels").mkdir(parents=True)
    for part, i in {"train": 3, "val": 2, "test": 4}.items():
        files = [f"lined/{part}_{i}.jpg", f"dotted/{part}_1.jpg"]
        (root / "dtd" / "labels" / f"{part}1.txt").write_text("\n".join(files))
        draw(root / "dtd" / "images", *files)


def aircraft(root: Path) -> None:
    data = root / "data"
    draw(data / "images", *(f"0{i}.jpg" for i in range(1, 6)))
    (data / "variants.txt").write_text("707-320\nA330-200\n")
    (data / "images_variant_train.txt").write_text("02 A330-200\n01 707-320\n")
    (data / "images_variant_val.txt").write_text("03 A330-200\n")
    (data / "images_variant_test.txt").write_text("05 A330-200\n04 707-320\n")


def flowers(root: Path) -> None:
    draw(root / "jpg", *(f"image_{i:05}.jpg" for i in range(1, 7)))
    savemat(root / "setid.mat", {"trnid": [[2, 1]], "valid": [[3, 6]], "tstid": [[4, 5]]})
    savemat(root / "imagelabels.mat", {"labels": [[1, 2, 2, 102, 1, 3]]})


def food(root: Path) -> None:
    (root / "meta").mkdir(parents=True)
    train = {"beet_salad": ["beet_salad/2"], "apple_pie": ["apple_pie/1"]}
    test = {"apple_pie": ["apple_pie/3"], "beet_salad": ["beet_salad/4"]}
    for part, files in {"train": train, "test": test}.items():
        (root / "meta" / f"{part}.json").write_text(json.dumps(files))
        draw(root / "images", *(f"{file}.jpg" for (file,) in files.values()))


def pets(root: Path) -> None:
    draw(root / "images", "British_Shorthair_2.jpg", "British_Shorthair_3.jpg", "shiba_inu_1.jpg")
    (root / "annotations").mkdir()
    for part, i in {"trainval": 2, "test": 3}.items():
        lines = f"British_Shorthair_{i} 2 1 1\nshiba_inu_1 1 2 5\n"
        (root / "annotations" / f"{part}.txt").write_text(lines)


def cars(root: Path) -> None:
    (root / "devkit").mkdir(parents=True)
    rows = np.array([("2.jpg", 2), ("1.jpg", 1)], dtype=[("fname", object), ("class", object)])
    for part in ("train", "test"):
        draw(root / f"cars_{part}", "1.jpg", "2.jpg")
    savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": rows})
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": rows})
    names = np.array(["AM Hummer", "Audi TT v1.8"], dtype=object)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})


SETS: dict[str, Any] = {
    "DTD": (
        dtd,
        ("dotted", "lined"),
        ([1, 0], [1, 0], [1, 0]),
        "dtd/dtd/images/dotted/test_1.jpg",
    ),
    "FGVCAircraft": (
        aircraft,
        ("707-320", "A330-200"),
        ([1, 0], [1], [1, 0]),
        "fgvc-aircraft-2013b/data/images/04.jpg",
    ),
    "Flowers102": (
        flowers,
        ("pink primrose", "hard-leaved pocket orchid"),
        ([1, 0], [1, 2], [101, 0]),
        "flowers-102/jpg/image_00005.jpg",
    ),
    "Food101": (
        food,
        ("apple pie", "beet salad"),
        ([1, 0], [], [0, 1]),
        "food-101/images/beet_salad/4.jpg",
    ),
    "OxfordIIITPet": (
        pets,
        ("Shiba Inu", "British Shorthair"),
        ([1, 0], [], [1, 0]),
        "oxford-iiit-pet/images/shiba_inu_1.jpg",
    ),
    "StanfordCars": (
        cars,
        ("am hummer", "audi tt v1 8"),
        ([1, 0], [], [1, 0]),
        "stanford_cars/cars_test/1.jpg",
    ),
}
"""Who writes the miniature, the first prompts, the labels of each split, the last test image."""


@pytest.mark.parametrize("name", SETS)
def test_torchvision_set__keeps_its_splits_and_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each miniature is read by torchvision itself, which would check the sums of Flowers."""
    sums = {"label": ("imagelabels.mat", None), "setid": ("setid.mat", None)}
    monkeypatch.setattr("torchvision.datasets.Flowers102._file_dict", sums)
    write, prompts, labels, last = SETS[name]
    write(tmp_path / Path(open_sets.TORCHVISION_SETS[name].folder).parts[0])
    there = open_sets.available(tmp_path, "open")
    assert list(there) == [name]
    found = there[name]()
    assert found.train.classes.prompts[:2] == prompts
    assert tuple(part.labels.tolist() for part in found) == labels
    assert found.test.files[-1] == last
    assert found.test.open(1)[1].size == (12 + int(Path(last).stem[-1]), 9)
    assert len(unsupervised.joined(found.train, found.val)) == 2 + len(labels[1])
    assert open_sets.paper_name(name) in paper_sets.COOP_SETS
    assert open_sets.available(tmp_path, "paper") == {}


def test_torchvision_set__cifar_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cifar10:
        def __init__(self, root: str, train: bool) -> None:
            assert root == str(tmp_path)
            rows = 3 if train else 2
            self.data = np.arange(rows * 60, dtype=np.uint8).reshape(rows, 4, 5, 3)
            self.targets = [7, 0, 2][:rows]
            self.classes = [f"class {c}" for c in range(10)]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Cifar10)
    (tmp_path / "cifar-10-batches-py").mkdir()
    train, val, test = open_sets.available(tmp_path, "open")["CIFAR10"]()
    assert [part.labels.tolist() for part in (train, val, test)] == [[7, 0, 2], [], [7, 0]]
    assert np.array_equal(np.asarray(test.open(1)[1]), Cifar10(str(tmp_path), False).data[1])


def test_available__needs_the_file_of_a_split(tmp_path: Path) -> None:
    """Food-101 without CoOp's split is torchvision's; its images are in the same folder."""
    food(tmp_path / "food-101")
    assert list(open_sets.available(tmp_path, "open")) == ["Food101"]
    (tmp_path / "food-101" / "split_zhou_Food101.json").write_text("{}")
    assert list(open_sets.available(tmp_path, "open")) == ["food101", "Food101"]
