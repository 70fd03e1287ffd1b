"""Images of any kind become one dataset; anything else is refused in one line."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anyclass.data.inputs import ImageSource, image_source, table_column
from anyclass.errors import RequestError


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (12 + seed, 17, 3), np.uint8)


def encoded(seed: int) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels(seed)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three images in two folders, not in alphabetical order."""
    found = [tmp_path / "b" / "2.png", tmp_path / "a" / "1.png", tmp_path / "b" / "0.png"]
    for i, path in enumerate(found):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(i))
    return found


def source(images: Any, column: str | None = None) -> ImageSource:
    found = image_source(images, column)
    assert isinstance(found, ImageSource)
    return found


def heights(images: Any, column: str | None = None) -> list[int]:
    """Heights of the images, in order: image i of `pixels` is 12 + i high."""
    dataset = source(images, column).dataset
    return [dataset.open(i)[1].height for i in range(len(dataset))]


def test_image_source__a_folder_stays_a_folder(tmp_path: Path) -> None:
    assert image_source(str(tmp_path)) == tmp_path


def test_image_source__files(files: list[Path]) -> None:
    assert source(files).dataset.files == ("b/2.png", "a/1.png", "b/0.png")
    assert heights(files) == [12, 13, 14]
    assert heights(map(str, files)) == [12, 13, 14]
    assert heights(np.array([str(file) for file in files])) == [12, 13, 14]
    assert source(files[1]).dataset.files == ("1.png",)
    assert heights(str(files[1])) == [13]


def test_image_source__pillow_arrays_and_tensors() -> None:
    batch = np.stack([pixels(2)] * 4)
    assert heights(Image.fromarray(pixels(1))) == [13]
    assert heights([Image.fromarray(pixels(i)) for i in (2, 0)]) == [14, 12]
    assert heights(pixels(1)) == [13]
    assert heights(batch) == [14] * 4
    assert heights([pixels(0), Image.fromarray(pixels(2)), encoded(1)]) == [12, 14, 13]
    assert heights(torch.zeros(3, 15, 17)) == [15]
    assert heights(torch.zeros(5, 3, 15, 17)) == [15] * 5
    assert source(batch).dataset.files == ("0", "1", "2", "3")


def test_image_source__a_list_of_files_and_images(files: list[Path]) -> None:
    assert heights([files[2], pixels(0)]) == [14, 12]


def test_image_source__a_mapping_names_the_images() -> None:
    assert source({"left": pixels(1), 7: pixels(0)}).dataset.files == ("left", "7")


def test_image_source__pandas(files: list[Path]) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"price": [3, 2, 1], "path": map(str, files)}, index=[9, 8, 7])
    assert heights(frame) == [12, 13, 14]
    assert source(frame).dataset.files == ("b/2.png", "a/1.png", "b/0.png")
    assert list(source(frame).index) == [9, 8, 7]
    held = pandas.DataFrame({"jpeg": [encoded(1), None], "n": [1, 2]}, index=["x", "y"])
    assert source(held).dataset.files == ("x", "y")
    assert source(held).dataset.open(0)[1].height == 13
    twice = held.set_index(pandas.Index([4, 4]))
    assert source(twice).dataset.files == ("0", "1")
    assert heights(frame["path"]) == [12, 13, 14]
    assert list(source(frame["path"]).index) == [9, 8, 7]
    named = frame.rename(columns={"path": "where"})
    assert heights(named, "where") == [12, 13, 14]
    with pytest.raises(RequestError, match=r"say which of 'price', 'where' holds .*image_column"):
        image_source(named)
    for usual in ("Bild", "Image Path", "Dateiname"):
        assert heights(frame.rename(columns={"path": usual})) == [12, 13, 14]
    with pytest.raises(RequestError, match=r"no column 'wher'; it has 'price', 'where'"):
        image_source(named, "wher")
    with pytest.raises(RequestError, match="a table without rows"):
        image_source(frame[:0])


def test_image_source__pyarrow(files: list[Path]) -> None:
    import pyarrow as pa

    paths = pa.table({"image_path": [str(file) for file in files]})
    assert heights(paths) == [12, 13, 14]
    held = pa.table({"id": [1, 2], "picture": [encoded(2), encoded(1)]})
    assert heights(held) == [14, 13]
    rows = [{"bytes": encoded(2), "path": None}, {"bytes": None, "path": str(files[0])}]
    assert heights(pa.table({"image": rows})) == [14, 12]


def test_image_source__a_data_set_of_hugging_face(files: list[Path]) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"label": datasets.ClassLabel(names=["kite", "disc"]), "photo": datasets.Image()}
    )
    rows = {"label": [1, 0, -1], "photo": [str(file) for file in files]}
    data = datasets.Dataset.from_dict(rows, features)
    assert heights(data) == [12, 13, 14]
    assert heights(data.with_format("numpy")) == [12, 13, 14]
    assert table_column(data, "label") == ([1, 0, -1], ["kite", "disc"])
    assert table_column(data, "other") is None
    both = datasets.DatasetDict({"train": data, "test": data})
    with pytest.raises(RequestError, match="splits 'train', 'test': choose one"):
        image_source(both)
    with pytest.raises(RequestError, match="is a stream"):
        image_source(data.to_iterable_dataset())
    paths = datasets.Dataset.from_dict({"image": [str(file) for file in files]})
    assert heights(paths) == [12, 13, 14]


def none() -> Iterator[Path]:
    yield from ()


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (3, "images is of type int: give a folder, a list of files or images"),
        ([], "images is empty: give at least one image"),
        (none(), "at least one image"),
        ({}, "at least one"),
        (np.zeros((4, 5)), r"images is an array of 4 x 5: give \(N, H, W, 3\)"),
        (np.zeros((3, 14, 15), np.uint8), "an array of 3 x 14 x 15"),
        (torch.zeros(2, 14, 15, 3), r"an array of 2 x 14 x 15 x 3: .*\(3, H, W\)"),
        ([Path(), "a.png"], r"lists a folder \(\.\)"),
    ],
)
def test_image_source__refuses(images: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        image_source(images)
