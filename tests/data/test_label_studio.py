"""Labels out of Label Studio's exports."""

import json
from pathlib import Path
from typing import Any

import pytest

from anyclass.data import ImageDataset
from anyclass.data.label_studio import label_studio_rows
from anyclass.errors import RequestError


def choice(label: str, name: str = "label") -> dict[str, Any]:
    return {"from_name": name, "type": "choices", "value": {"choices": [label]}}


def task(name: str, *labels: str, **more: Any) -> dict[str, Any]:
    """A task of a JSON export: annotations of people, and a prediction that is no label."""
    guess = [{"result": [choice("guess")], "score": 0.4}]
    annotations = [{"result": [choice(label)], "was_cancelled": False} for label in labels]
    return {"data": {"file_name": name}, "annotations": annotations, "predictions": guess, **more}


def written(folder: Path, tasks: Any) -> Path:
    path = folder / "export.json"
    path.write_text(json.dumps(tasks), encoding="utf-8")
    return path


def test_label_studio_rows__annotations_are_labels_and_predictions_are_not(tmp_path: Path) -> None:
    cancelled = {"result": [choice("dog")], "was_cancelled": True}
    tasks = [
        task("b/1.png", "Häher"),
        task("b/2.png"),
        task("c.png", annotations=[cancelled, {"result": [choice("red square")]}]),
    ]
    rows = list(label_studio_rows(written(tmp_path, tasks)))
    assert rows == [
        {"file_name": "b/1.png", "label": "Häher"},
        {"file_name": "b/2.png", "label": ""},
        {"file_name": "c.png", "label": "red square"},
    ]


def test_label_studio_rows__short_json(tmp_path: Path) -> None:
    tasks = [
        {"file_name": "a.png", "label": "cat", "id": 7, "annotator": 1},
        {"file_name": "b.png", "label": {"choices": ["dog"]}},
        {"file_name": "c.png"},
    ]
    rows = [tuple(row.values()) for row in label_studio_rows(written(tmp_path, tasks))]
    assert rows == [("a.png", "cat"), ("b.png", "dog"), ("c.png", "")]


def test_label_studio_rows__the_address_of_a_local_file(tmp_path: Path) -> None:
    address = "/data/local-files/?d=photos/red%20square/0%2B1.png"
    tasks = [{"data": {"image": address}, "annotations": [{"result": [choice("x")]}]}]
    rows = list(label_studio_rows(written(tmp_path, tasks)))
    assert rows == [{"file_name": "red square/0+1.png", "label": "x"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "it is no export of Label Studio"),
        ([1], "it is no export of Label Studio"),
        ([{"data": {"text": "x"}}], "task 1 has neither file_name nor a local image"),
        ([{"file_name": "a.png", "label": ["x", "y"]}], "task 1 has several classes"),
        ([{"data": 7}], "task 1 has no data"),
    ],
)
def test_label_studio_rows__what_is_no_export(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(label_studio_rows(written(tmp_path, content)))


def test_dataset__labels_from_an_export(images: Path, tmp_path: Path) -> None:
    tasks = [task("red square/0.jpg", "big"), task("yellow kite/1.png", "small"), task("none.png")]
    dataset = ImageDataset.read(images, labels=written(tmp_path, tasks))
    found = {
        dataset.files[i]: dataset.classes.names[c] for i, c in enumerate(dataset.labels) if c >= 0
    }
    assert found == {"red square/0.jpg": "big", "yellow kite/1.png": "small"}
    assert any("none.png" in message for message in dataset.skipped)


def test_dataset__annotators_who_disagree(images: Path, tmp_path: Path) -> None:
    tasks = [task("red square/0.jpg", "big", "small")]
    with pytest.raises(
        RequestError, match="'red square/0.jpg' has two labels, 'big', 'small'. Keep one"
    ):
        ImageDataset.read(images, labels=written(tmp_path, tasks))


def test_dataset__json_that_is_none(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(RequestError, match=r"export\.json is damaged"):
        ImageDataset.read(images, labels=path)
