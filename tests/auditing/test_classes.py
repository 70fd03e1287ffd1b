"""Findings about names, numbers of labels and folders."""

from pathlib import Path

import numpy as np

from anyclass.auditing.classes import class_findings, remarks, unlisted_labels
from anyclass.auditing.findings import Finding
from anyclass.data import Classes, ImageDataset


def dataset(labels: list[int], names: list[str], files: list[str] | None = None) -> ImageDataset:
    files = files or [f"{i}.jpg" for i in range(len(labels))]
    used = {names[c] for c in labels if c >= 0}
    return ImageDataset(Path("x"), tuple(files), np.array(labels), Classes.of(names, labelled=used))


def found(data: ImageDataset) -> dict[str, Finding]:
    return {finding.issue: finding for finding in class_findings(data)}


def test_class_findings__names_that_look_alike() -> None:
    rows = found(dataset([-1], ["Red Panda", "dog", "red_panda"]))["similar-names"].rows
    assert rows == [
        {
            "label": "red_panda",
            "other": "Red Panda",
            "detail": "differ in spaces, hyphens or underscores",
        }
    ]


def test_class_findings__list_the_labelled_files_of_similar_names() -> None:
    data = dataset([2, 0, -1, 2, 1], ["Red Panda", "dog", "red_panda"])
    report = found(data)["similar-names"]
    rows = [(row["file_name"], row["label"], row["other"]) for row in report.rows]
    assert rows == [("0.jpg", "red_panda", "Red Panda"), ("3.jpg", "red_panda", "Red Panda")]
    assert report.first == "red_panda (Red Panda)"
    assert report.summary == "1 pair of class names that look alike"


def test_class_findings__one_image_and_small_classes() -> None:
    labels = [0] * 31 + [1] * 3 + [2] + [3] * 4 + [-1] * 5
    reports = found(dataset(labels, ["kite", "boat", "ant", "dog", "eel"]))
    assert reports["one-image-class"].rows == [{"file_name": "34.jpg", "label": "ant"}]
    small = reports["imbalance"]
    rows = [(row["file_name"], row["label"], row["value"]) for row in small.rows]
    boats = [(f"{i}.jpg", "boat", 3.0) for i in (31, 32, 33)]
    assert rows == [("34.jpg", "ant", 1.0), *boats]
    assert small.first == "ant, boat"
    assert "2 classes with less than a tenth" in small.summary
    assert "'kite', 31" in small.summary


def test_class_findings__nothing_wrong() -> None:
    assert class_findings(dataset([0, 0, 1, 1, -1], ["kite", "boat"])) == []
    assert class_findings(dataset([-1, -1], [])) == []


def test_class_findings__folders_for_evaluation_in_a_fit() -> None:
    files = ["Test_Data/a.jpg", "train/testing/b.jpg", "train/tested/c.jpg", "d/test.jpg"]
    report = found(dataset([-1] * 4, ["kite"], files))["evaluation-folder"]
    assert [row["file_name"] for row in report.rows] == files[:2]
    assert "Test_Data, testing" in report.summary


def test_remarks__are_a_line_each() -> None:
    (line,) = remarks(dataset([0, 0, 1], ["kite", "boat"]))
    assert line == "1 class has one labelled image: 2.jpg"


def test_unlisted_labels__names_the_nearest_class() -> None:
    report = unlisted_labels({"a.jpg": "Kites", "b.jpg": "Kites", "c.jpg": "zebra"}, ["kite", "x"])
    assert [row["other"] for row in report.rows] == ["kite", "kite", None]
    assert report.summary == (
        "2 labels of 3 images are not in the list of classes: 'Kites' (2), 'zebra' (1)"
    )
