"""Labels of any kind reach their images; what does not fit is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from anyclass.data import ImageDataset
from anyclass.data.label_inputs import read_images
from anyclass.errors import RequestError

NAMES = ("kite", "disc", "arc")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images in two folders: `x/0.png`, `x/3.png`, `y/1.png`, `y/2.png`."""
    for name in ("x/0", "y/1", "y/2", "x/3"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (5, 4), (40 * int(name[-1]), 9, 9)).save(path)
    return tmp_path


def given(images: Any, labels: Any, classes: Any = None, **more: Any) -> list[str | None]:
    """The label of each image by name."""
    dataset = read_images(images, classes, labels, **more)
    names = [*dataset.classes.names, None]
    return [names[c] for c in dataset.labels]


def arrays(count: int = 3) -> list[Any]:
    return [np.full((4, 5, 3), i, np.uint8) for i in range(count)]


@pytest.mark.parametrize(
    "labels",
    [
        ["disc", None, "arc"],
        ["disc", "", "arc"],
        ("disc", float("nan"), "arc"),
        np.array(["disc", "", "arc"]),
        [1, -1, 2],
        [1.0, float("nan"), 2.0],
        np.array([1, -1, 2]),
        torch.tensor([1, -1, 2]),
        {"0": "disc", "2": "arc"},
        {0: 1, 2: 2},
    ],
)
def test_read_images__labels_in_order(labels: Any) -> None:
    assert given(arrays(), labels, NAMES) == ["disc", None, "arc"]
    dataset = read_images(arrays(), NAMES, labels)
    assert dataset.classes.kinds == ("named", "labelled", "labelled")
    assert dataset.memory is not None


def test_read_images__labels_are_the_classes_where_no_others_are_given() -> None:
    dataset = read_images(arrays(), None, ["b", None, "a"], unknown=2)
    assert dataset.classes.names == ("a", "b")
    assert dataset.classes.unknown == 2


def test_read_images__a_folder_with_labels_by_path(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    wanted = ["kite", None, "disc", None]  # x/0, x/3, y/1, y/2
    by_path = {"x/0.png": "kite", root / "y" / "1.png": "disc"}
    assert given(root, by_path) == wanted
    assert given(str(root), {"x/0.png": 0, "y/1.png": 1}, NAMES) == wanted
    series = pandas.Series(["kite", "disc", None], ["x/0.png", "y/1.png", "y/2.png"])
    assert given(root, series) == wanted
    frame = pandas.DataFrame({"file_name": ["x/0.png", "y/1.png"], "label": ["kite", "disc"]})
    assert given(root, frame) == wanted
    assert given(root, pa.Table.from_pandas(frame)) == wanted
    other = frame.rename(columns={"label": "class"})
    assert given(root, other, columns=("file_name", "class")) == wanted
    assert given(root, other) == wanted, "the column is guessed"
    with pytest.raises(RequestError, match="labels has no column 'label'"):
        given(root, frame.rename(columns={"label": "q"}).assign(r=1))
    monkeypatch.chdir(root / "y")
    assert given(root, {"1.png": "disc"}) == [None, None, "disc", None]


def test_read_images__files_with_labels(root: Path) -> None:
    pandas = pytest.importorskip("pandas")
    files = [root / "y" / "2.png", root / "x" / "0.png"]
    assert given(files, ["arc", "kite"]) == ["arc", "kite"]
    assert given(files, {str(files[1]): "kite"}) == [None, "kite"]
    assert given(files, "folders") == ["y", "x"]
    assert given(files[0], "folders") == ["y"]
    table = root / "labels.csv"
    table.write_text("file_name,label\nx/0.png,kite\ny/1.png,disc\n")
    assert given(files, table) == [None, "kite"]
    assert given(files, pandas.Series(["a", "b"])) == ["a", "b"]


def test_read_images__a_column_of_the_images_own_table(root: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"path": [str(root / "y/1.png"), str(root / "x/0.png")], "kind": ["disc", None]}
    )
    assert given(frame, "kind") == ["disc", None]
    assert given(pa.Table.from_pandas(frame), "kind") == ["disc", None]
    category = frame.assign(kind=frame["kind"].astype("category"))
    assert given(category, "kind") == ["disc", None]


def test_read_images__a_class_label_of_hugging_face(root: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["kite", "disc"])}
    )
    rows = {"image": [str(root / "x/0.png")] * 3, "label": [1, -1, 0]}
    data = datasets.Dataset.from_dict(rows, features)
    assert given(data, "label") == ["disc", None, "kite"]
    assert given(data, None, NAMES) == [None] * 3


def test_read_images__keeps_the_labels_of_a_dataset(root: Path) -> None:
    before = ImageDataset.read(root, ["y", "x", "z"], "folders")
    after = read_images(before)
    assert after.classes == before.classes
    assert after.labels.tolist() == before.labels.tolist() == [1, 1, 0, 0]


def test_read_images__prompts_of_classes() -> None:
    prompts = {"kite": ["a toy kite", "paper kite"], "disc": "disc"}
    dataset = read_images(arrays(), prompts, ["kite", None, None])
    assert dataset.classes.names == ("kite", "disc")
    assert dataset.classes.all_prompts == (("a toy kite", "paper kite"), ("disc",))
    assert read_images(dataset).classes == dataset.classes
    assert read_images(arrays(), dataset.classes).classes.all_prompts[0][1] == "paper kite"


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        (["a"], None, "labels has 1 values for 3 images"),
        ([0, 1, 1], None, r"labels holds numbers such as 0: .*classes=\[\.\.\.\]"),
        ([0, 1, 3], NAMES, "labels holds 3, no index of the 3 classes; -1 is no label"),
        ([0.5, 1, 1], NAMES, "labels holds 0.5: a label is a class name or its index"),
        ([float("inf"), 1, 1], NAMES, "labels holds inf: a label is a class name or its index"),
        ([["a"], "b", "c"], None, r"labels holds \['a'\]"),
        (["kite", "ring", None], NAMES, "these labels are not in the list of classes: 'ring'"),
        (
            ["kit", "zebra", "Disc"],
            NAMES,
            "3 images have one of them: '0' and 2 more. "
            "Did you mean 'disc' by 'Disc', 'kite' by 'kit'. Add",
        ),
        (["kite", "zebra", "disc"], NAMES, "1 image has one of them: '1'. Add them to"),
        (5, None, "labels is of type int"),
        ({}, None, "labels is empty"),
        ({"9": "a"}, None, "labels labels no row|labels no"),
        ("folders", None, "needs files"),
        (["a", "b", "c"], [1, 2], r"class names must be text, not int \(1\)"),
    ],
)
def test_read_images__refuses(labels: Any, classes: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_images(arrays(), classes, labels)


def test_read_images__a_list_for_a_folder_has_no_order(root: Path) -> None:
    with pytest.raises(RequestError, match="a folder, which has no order: give a mapping"):
        read_images(root, None, ["a", "b", "c", "d"])


def test_labels__a_misspelt_column_is_told_with_the_columns_of_the_images(root: Path) -> None:
    table = pa.table({"path": [str(root / "x/0.png")], "Klasse": ["kite"]})
    assert given(table, "Klasse") == ["kite"]
    with pytest.raises(RequestError, match="labels='Klass' is no column of images, which have "):
        given(table, "Klass")
    with pytest.raises(RequestError, match="'path', 'Klasse', and no file"):
        given(table, "Klass")


def test_read_images__a_series_of_labels_goes_by_the_index_of_the_images(root: Path) -> None:
    pandas = pytest.importorskip("pandas")
    files = [root / "x/0.png", root / "y/1.png", root / "y/2.png"]
    for index in ([10, 5, 7], ["k", "l", "m"]):
        frame = pandas.DataFrame({"path": files, "class": ["disc", None, "arc"]}, index=index)
        for labels in (frame["class"], frame["class"].iloc[::-1]):
            assert given(frame, labels, NAMES) == ["disc", None, "arc"]
            assert given(frame["path"], labels, NAMES) == ["disc", None, "arc"]
    other = pandas.Series(["disc", None, "arc"], index=[0, 1, 2])
    assert given(frame, other, NAMES) == ["disc", None, "arc"]


def test_read_images__a_set_of_classes_is_sorted() -> None:
    names = {f"class {letter}" for letter in "zyxwvutsrq"}
    assert read_images(arrays(), names).classes.names == tuple(sorted(names))
