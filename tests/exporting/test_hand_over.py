"""What labelling tools get: class folders, FiftyOne, Label Studio, cleanlab."""

import csv
import errno
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.representation import Representation
from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError
from anyclass.exporting.cleanlab import write_cleanlab
from anyclass.exporting.fiftyone import write_fiftyone
from anyclass.exporting.folders import write_folders
from anyclass.exporting.label_studio import labelling_config, write_label_studio
from anyclass.exporting.predictions import LabelledPredictions, prediction
from anyclass.files import slug
from anyclass.log import silent
from anyclass.run.columns import COMPARED
from anyclass.run.tables import write_table

NAMES = ("red square", "Häher & <co>", "=1+1", "..")
EMPTY = dict.fromkeys(COMPARED.names)


def row(file: str, label: str | None, score: float | None, **more: Any) -> dict[str, Any]:
    status = "ok" if label else "rejected"
    return EMPTY | {"file_name": file, "label": label, "score": score, "status": status} | more


@pytest.fixture
def table(images: Path, tmp_path: Path) -> Path:
    """Predictions of some of the shapes: predicted, given, rejected, gone, and outside."""
    (tmp_path / "outside.png").write_bytes(b"x")
    rows = [
        row("red square/0.jpg", "red square", 0.75, zero_shot_label="=1+1", zero_shot_score=0.5),
        row("red square/1.png", "Häher & <co>", 0.5, familiarity=0.25, true_label="red square"),
        row("blue disc/0.jpg", "=1+1", 1.0, status="given", true_label="=1+1")
        | {"opinion": "..", "opinion_score": 0.625, "label_quality": 0.125},
        row("blue disc/1.png", None, None),
        row("green ring/0.jpg", "..", 0.25),
        row("gone.jpg", "..", 0.25),
        row("../outside.png", "..", 0.25),
    ]
    for ending in ("parquet", "csv"):
        write_table(tmp_path / f"table.{ending}", rows, COMPARED)
    return tmp_path / "table.parquet"


@pytest.fixture
def predictions(table: Path, images: Path) -> LabelledPredictions:
    return LabelledPredictions.read(table, images)


def test_read__rows_with_a_label_and_an_image(
    predictions: LabelledPredictions, images: Path
) -> None:
    files = ["red square/0.jpg", "red square/1.png", "blue disc/0.jpg", "green ring/0.jpg"]
    assert [found["file_name"] for found in predictions.rows] == files
    assert predictions.left_out() == [
        "left out 1 row without a label",
        "left out 2 rows without an image",
    ]
    assert predictions.path(predictions.rows[0]) == images.resolve() / files[0]
    guesses = [("red square", 0.75), ("Häher & <co>", 0.5), ("..", 0.625), ("..", 0.25)]
    assert [prediction(found) for found in predictions.rows] == guesses


def test_read__csv_says_the_same(
    table: Path, images: Path, predictions: LabelledPredictions
) -> None:
    assert LabelledPredictions.read(table.with_suffix(".csv"), images) == predictions


@pytest.mark.parametrize(
    "text",
    [
        'file_name,label,score\nred square/0.jpg,x,"0,75"\n',
        "file_name;label;score\nred square/0.jpg;x;0,75\n",
        "file_name,label,score\nred square/0.jpg,x,0.75,more\n",
        "file_name,label,score\n,x,0.5\nred square/0.jpg,x,0.75\n",
    ],
    ids=["decimal comma", "semicolons", "a cell too many", "no file name"],
)
def test_read__csv_that_a_spreadsheet_saved(images: Path, tmp_path: Path, text: str) -> None:
    table = tmp_path / "edited.csv"
    table.write_text(text, encoding="utf-8")
    found = LabelledPredictions.read(table, images).rows
    assert found == [{"file_name": "red square/0.jpg", "label": "x", "score": 0.75}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file_name,label,score\na,x,high\n", r"row 1: score is 'high', which is no num"),
        ("file_name,label,score\na,é,1\n".encode("latin-1"), "is not UTF-8: save it again"),
    ],
)
def test_read__csv_that_is_damaged(
    images: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "edited.csv").write_bytes(content)
    with pytest.raises(RequestError, match=message):
        LabelledPredictions.read(tmp_path / "edited.csv", images)


def test_folders__an_image_that_is_listed_twice(images: Path, tmp_path: Path) -> None:
    twice = 2 * [row("red square/0.jpg", "x", 0.5)]
    write_table(tmp_path / "twice.csv", twice, COMPARED)
    found = LabelledPredictions.read(tmp_path / "twice.csv", images)
    said = write_folders(tmp_path / "out", found)
    assert said["hard_links"] + said["symbolic_links"] == 1
    assert (tmp_path / "out" / "x" / "0.jpg").samefile(images / "red square" / "0.jpg")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.csv", "does not exist"),
        ("other.csv", "is no table of predictions"),
        ("broken.parquet", "cannot be read as Parquet"),
    ],
)
def test_read__what_is_no_table(images: Path, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(RequestError, match=message):
        LabelledPredictions.read(tmp_path / name, images)


def test_read__where_the_images_are(table: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"it was fitted on features: give --images DIR"):
        LabelledPredictions.read(table, None)
    with pytest.raises(RequestError, match=r"nowhere is no folder: give --images DIR"):
        LabelledPredictions.read(table, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"no labelled image in .*, such as 'red square/0.jpg'"):
        LabelledPredictions.read(table, tmp_path / "empty")


def test_folders__links_by_class(
    predictions: LabelledPredictions, images: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in images.rglob("*.*")}
    out = tmp_path / "sorted"
    said = write_folders(out, predictions)
    assert said == {
        "folder": str(out),
        "hard_links": 4,
        "symbolic_links": 0,
        "other_endings": {},
    }
    with (out / "classes.csv").open(encoding="utf-8", newline="") as file:
        folder_of = {r["class"].removeprefix("'"): r["folder"] for r in csv.DictReader(file)}
    assert folder_of == {name: name if name == "red square" else slug(name) for name in NAMES}
    assert {path.name for path in out.iterdir()} == {*folder_of.values(), "classes.csv"}
    for found in predictions.rows:
        (link,) = (
            path
            for path in (out / folder_of[found["label"]]).iterdir()
            if path.samefile(predictions.path(found))
        )
        assert link.name == Path(found["file_name"]).name
    assert {path: path.read_bytes() for path in images.rglob("*.*")} == before


def test_folders__names_of_images_become_no_file_names(tmp_path: Path) -> None:
    names = ("a/b.JPG", "a/b.jpg", "b/b.jpg", "a b.x y", "Ä (1).jpg", "c", "d.tar.gz?", "nul.png")
    for name in names:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(name.encode())
    rows = [row(name, "x", 0.5) for name in names]
    said = write_folders(tmp_path / "out", LabelledPredictions(tmp_path / "images", rows, 0, 0))
    link_of = {link.read_bytes().decode(): link for link in (tmp_path / "out" / "x").iterdir()}
    assert set(link_of) == set(names)
    kept = {"a b.x y", "Ä (1).jpg", "c"}  # two b.jpg, a question mark, a name of Windows
    assert {name for name, link in link_of.items() if link.name == Path(name).name} == kept
    for name in link_of.keys() - kept:
        assert re.fullmatch(r"[a-z0-9_-]+-[0-9a-f]{12}(\.\w{1,5})?", link_of[name].name)
    assert said["other_endings"] == {"": 3}


def test_folders__classes_that_differ_by_case_alone(tmp_path: Path) -> None:
    labels = ("Hose", "hose", "Kurze Hose", "CON", "Classes.csv", "a-0123456789ab")
    rows = []
    for i, label in enumerate(labels):
        (tmp_path / f"{i}.heic").write_bytes(b"x")
        rows.append(row(f"{i}.heic", label, 0.5))
    said = write_folders(tmp_path / "out", LabelledPredictions(tmp_path, rows, 0, 0))
    found = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert found == {"Kurze Hose", "hose", *map(slug, labels)} - {slug("Kurze Hose")}
    assert len({name.casefold() for name in found}) == len(labels)
    assert said["other_endings"] == {".heic": 6}


def test_folders__torchvision_reads_them(predictions: LabelledPredictions, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    write_folders(tmp_path / "sorted", predictions)
    found = ImageFolder(str(tmp_path / "sorted"))
    assert found.classes == sorted([NAMES[0], *map(slug, NAMES[1:])])
    assert len(found) == 4
    assert found[0][0].size


def test_folders__symbolic_links_on_another_disk(
    predictions: LabelledPredictions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", elsewhere)
    said = write_folders(tmp_path / "sorted", predictions)
    assert (said["hard_links"], said["symbolic_links"]) == (0, 4)
    links = [path for path in (tmp_path / "sorted").rglob("*") if path.is_symlink()]
    assert {path.resolve() for path in links} == {predictions.path(r) for r in predictions.rows}


def test_fiftyone__samples(predictions: LabelledPredictions, tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    assert write_fiftyone(path, predictions, NAMES, "a run")["samples"] == 4
    content = json.loads(path.read_text("utf-8"))
    assert (content["name"], content["default_classes"]) == ("a run", list(NAMES))
    samples = content["samples"]
    assert {frozenset(sample) for sample in samples} == {frozenset(content["sample_fields"])}
    assert all(Path(sample["filepath"]).is_file() for sample in samples)
    kind = {"_cls": "Classification"}
    assert samples[0]["prediction"] == kind | {"label": "red square", "confidence": 0.75}
    assert samples[0]["zero_shot"] == kind | {"label": "=1+1", "confidence": 0.5}
    assert samples[0]["ground_truth"] is None
    assert samples[1]["ground_truth"] == kind | {"label": "red square", "confidence": None}
    assert samples[1]["familiarity"] == 0.25
    assert samples[2]["tags"] == ["given"]
    assert samples[2]["prediction"] == kind | {"label": "..", "confidence": 0.625}


def test_label_studio__tasks_and_configuration(
    predictions: LabelledPredictions, images: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tasks.json"
    said = write_label_studio(path, predictions, NAMES, "anyclass gda")
    assert (said["tasks"], said["annotated"]) == (4, 1)
    assert said["document_root"] == str(images.resolve().parent)
    config = fromstring((tmp_path / "tasks.xml").read_text("utf-8"))
    assert [choice.get("value") for choice in config.iter("Choice")] == list(NAMES)
    tasks = json.loads(path.read_text("utf-8"))
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=images/red%20square/0.jpg"
    guess = tasks[1]["predictions"][0]
    assert (guess["model_version"], guess["score"]) == ("anyclass gda", 0.5)
    assert guess["result"][0]["value"] == {"choices": ["Häher & <co>"]}
    assert "annotations" not in tasks[1]
    assert tasks[2]["annotations"][0]["result"][0]["value"] == {"choices": ["=1+1"]}
    assert tasks[2]["predictions"][0]["result"][0]["value"] == {"choices": [".."]}


def test_label_studio__what_was_exported_reads_back(
    predictions: LabelledPredictions, images: Path, tmp_path: Path
) -> None:
    """Somebody confirms the first task; the annotation of the given label was there before."""
    path = tmp_path / "tasks.json"
    write_label_studio(path, predictions, NAMES, "anyclass gda")
    tasks = json.loads(path.read_text("utf-8"))
    tasks[0]["annotations"] = [{"result": tasks[0]["predictions"][0]["result"]}]
    path.write_text(json.dumps(tasks), encoding="utf-8")
    dataset = ImageDataset.read(images, NAMES, path)
    found = {dataset.files[i]: NAMES[c] for i, c in enumerate(dataset.labels) if c >= 0}
    assert found == {"red square/0.jpg": "red square", "blue disc/0.jpg": "=1+1"}


def test_labelling_config__escapes_names() -> None:
    text = labelling_config(['a"b', "<x>"])
    assert [choice.get("value") for choice in fromstring(text).iter("Choice")] == ['a"b', "<x>"]


@pytest.fixture
def classifier(tiny_backbone: Callable[..., Backbone]) -> Classifier:
    weights = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    head = CosineHead(normalize(weights, dim=1), 20.0)
    classes = Classes.of(("yellow kite", "red square", "blue disc"))
    return Classifier(Representation((tiny_backbone(),)), head, classes, "zero-shot")


def test_cleanlab__arrays(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    (images / "blue disc" / "0.jpg").write_bytes(b"torn")
    kept = ("blue disc/0.jpg", "blue disc/1.png", "red square/3.png", "yellow kite/0.jpg")
    given = ("blue disc", "red square", "red square", None)
    dataset = ImageDataset.with_labels(images, kept, given, classifier.classes_)
    known = frozenset({"red square/3.png"})
    out = tmp_path / "arrays"
    said = write_cleanlab(out, classifier, dataset, known, silent)
    wanted = {"images": 2, "classes": 3, "trained_on": 1, "rejected": 1}
    assert said == {"folder": str(out), **wanted}
    p = np.load(out / "pred_probs.npy")
    labels = np.load(out / "labels.npy")
    files = [images / name for name in kept[1:3]]
    np.testing.assert_allclose(p, classifier.predict_proba(files), rtol=1e-4)
    x = np.load(out / "features.npy")
    assert x.dtype == np.float32
    with torch.no_grad():
        rows = [found for _, found, _ in classifier.representation.stream(dataset[[1, 2]])]
    np.testing.assert_allclose(x, torch.cat(rows).numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)
    assert (labels.dtype, labels.tolist()) == (np.int64, [1, 1])
    assert np.load(out / "trained_on.npy").tolist() == [False, True]
    assert (out / "classes.txt").read_text("utf-8").split("\n")[:-1] == classifier.classes_
    with (out / "images.csv").open(encoding="utf-8", newline="") as file:
        names = [(found["file_name"], found["label"]) for found in csv.DictReader(file)]
    assert names == [("blue disc/1.png", "red square"), ("red square/3.png", "red square")]


def test_cleanlab__no_label(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    dataset = ImageDataset.read(images, classifier.classes_)
    with pytest.raises(RequestError, match="no image has one: give labelled images"):
        write_cleanlab(tmp_path / "arrays", classifier, dataset, frozenset(), silent)
