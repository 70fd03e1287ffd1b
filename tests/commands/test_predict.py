"""`predict` labels any folder, a row for each image; `evaluate` scores, zero-shot beside it."""

import csv
import json
import re
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, save_file

from anyclass import Classifier
from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Prediction
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.representation import Representation
from anyclass.cli import main
from anyclass.commands.evaluate import evaluate
from anyclass.commands.fit import fit
from anyclass.commands.predict import check_out, load_classifier, predict
from anyclass.data import ImageDataset, Rejection
from anyclass.errors import AnyclassError, ModelError, RequestError, StorageError
from anyclass.features import stream
from anyclass.features.text import PLAIN, class_features
from anyclass.files import csv_text
from anyclass.run.columns import PREDICTION
from anyclass.run.tables import rejected_row, write_table
from anyclass.training.tuning import Tuning
from tests.conftest import SHAPES, Killed, draw_shape

ROWS = 1000
COLUMNS = ["file_name", "label", "score", "rank", "runner_up", "margin", "kind", "status"]
COLUMNS += ["reason", "familiarity", "predicted_label", "confirmed"]
KEYS = {"accuracy", "zero_shot_accuracy", "zero_shot_ensemble_accuracy", "mean_per_class", "n"}
KEYS |= {"rejected", "per_class", "confusion", "calibration_error", "controls"}
KEYS |= {"warnings", "majority"}

ALIVE = "anyclass.files.temporary._alive"


@pytest.fixture
def run(fitted: Any) -> Path:
    return Path(fitted.run)


def changed(run: Path, to: Path, name: str, **values: Any) -> Path:
    """A copy of a run with other values in one of its JSON files."""
    shutil.copytree(run, to)
    value = json.loads((to / name).read_text())
    (to / name).write_text(json.dumps(value | values))
    return to


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_predict__holds_no_row_that_is_done(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Of images, `benchmarks/predict_memory.py` measures the same, over 200,000."""
    many = tmp_path / "many"
    many.mkdir()
    for i in range(640):
        (many / f"{i:04}.png").hardlink_to(images / "red square" / "1.png")
    held = {}

    def guessed(self: Classifier, dataset: ImageDataset) -> Iterator[Prediction]:
        tracemalloc.start()
        for start in range(0, len(dataset), 32):
            index = list(range(start, start + 32))
            yield Prediction(index, torch.full((32, 4), 0.25), None, [])

    def note(done: int, **_: Any) -> None:
        held[done] = tracemalloc.get_traced_memory()[0]

    monkeypatch.setattr("anyclass.run.tables.ROWS", 32)
    monkeypatch.setattr(Classifier, "stream", guessed)
    try:
        predict(run, many, tmp_path / f"table.{ending}", callback=note)
    finally:
        tracemalloc.stop()
    assert (held[640] - held[128]) / 512 < 100, "bytes for each row"


def test_predict__a_row_for_each_image(run: Path, images: Path, tmp_path: Path) -> None:
    (images / "yellow kite" / "0.jpg").write_bytes(b"torn")
    out = tmp_path / "labels.parquet"
    said = predict(run, images, out)
    table = pq.read_table(out)
    assert table.column_names == COLUMNS
    rows = table.to_pylist()
    files = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.*"))
    assert [row["file_name"] for row in rows] == files
    bad = rows.pop(files.index("yellow kite/0.jpg"))
    assert (bad["status"], bad["label"], bad["score"]) == ("rejected", None, None)
    assert bad["reason"].startswith("not an image")
    files.remove("yellow kite/0.jpg")

    classifier = Classifier.load(run / "model")
    probabilities = classifier.predict_proba([images / file for file in files])
    order = np.argsort(-probabilities, axis=1)
    names = np.array(classifier.classes_)
    assert [row["label"] for row in rows] == names[order[:, 0]].tolist()
    assert [row["predicted_label"] for row in rows] == names[order[:, 0]].tolist()
    assert {row["confirmed"] for row in rows} == {row["familiarity"] for row in rows} == {None}
    assert [row["runner_up"] for row in rows] == names[order[:, 1]].tolist()
    top = np.take_along_axis(probabilities, order, axis=1)
    assert [row["score"] for row in rows] == pytest.approx(top[:, 0].tolist())
    assert [row["margin"] for row in rows] == pytest.approx((top[:, 0] - top[:, 1]).tolist())
    by_rank = sorted(rows, key=lambda row: row["rank"])
    assert [row["rank"] for row in by_rank] == list(range(1, 14))
    scores = [row["score"] for row in by_rank]
    assert scores == sorted(scores) and bad["rank"] is None
    counts = {name: int((names[order[:, 0]] == name).sum()) for name in names[order[:, 0]]}
    assert said == {"n": 14, "rejected": 1, "unsure": 0, "out": str(out), "classes": counts}


def test_predict__csv_and_parquet_say_the_same(run: Path, images: Path, tmp_path: Path) -> None:
    shutil.copy(images / "red square" / "0.jpg", images / "=1+1, 'x'.jpg")
    for ending in ("csv", "parquet"):
        predict(str(run), str(images), str(tmp_path / f"labels.{ending}"))
    with (tmp_path / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    exact = pq.read_table(tmp_path / "labels.parquet").to_pylist()
    assert rows[0]["file_name"] == "'=1+1, 'x'.jpg"
    for row, truth in zip(rows, exact, strict=True):
        assert csv_text(row["file_name"]) == truth["file_name"]
        assert row["label"] == truth["label"]
        assert float(row["score"]) == pytest.approx(truth["score"], rel=1e-5)


def test_predict__labels_images_of_the_run_as_the_run_did(fitted: Any, tmp_path: Path) -> None:
    predict(fitted.run, fitted.images, tmp_path / "labels.parquet", engine="torch")
    again = pq.read_table(tmp_path / "labels.parquet").to_pylist()
    then = pq.read_table(fitted.run / "predictions.parquet").to_pylist()
    for row, before in zip(again, then, strict=True):
        assert row["label"] == before["label"]
        assert row["score"] == pytest.approx(before["score"], abs=1e-5)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_write_table__asks_for_rows_as_it_writes(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not more than one Parquet group is ever held, and it is on its way when the next begins."""
    monkeypatch.setattr("anyclass.run.tables.ROWS", ROWS)
    count, sizes = 2 * ROWS + 3, []
    path = tmp_path / f"table.{ending}"

    def rows() -> Iterator[dict[str, Any]]:
        for i in range(count):
            if i % ROWS == 1:
                sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
            yield rejected_row(Rejection(f"{i}.png", "missing", ""))

    write_table(path, rows(), PREDICTION)
    assert sizes == sorted(set(sizes)), "the file grows while rows are asked for"
    assert len(sizes) == 3
    if ending == "parquet":
        file = pq.ParquetFile(path)
        assert [file.metadata.row_group(i).num_rows for i in range(3)] == [ROWS, ROWS, 3]
        assert pq.read_table(path)["file_name"].to_pylist() == [f"{i}.png" for i in range(count)]
    else:
        assert path.read_text().splitlines()[-1] == f"{count - 1}.png,,,,,,,rejected,missing,,,"


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batches of three images; remembers how many were computed."""
    computed = []
    real = stream.run_halving

    def run_halving(run: Any, x: Any) -> Any:
        computed.append(len(x))
        return real(run, x)

    monkeypatch.setattr(stream, "BATCH", 3)
    monkeypatch.setattr(stream, "run_halving", run_halving)
    return computed


def test_predict__computes_images_in_memory_once(
    run: Path, batches: list[int], tmp_path: Path
) -> None:
    drawn = [draw_shape(shape, 0) for shape in SHAPES.values()]
    result = predict(run, drawn, tmp_path / "seen.csv", device="cpu", engine="torch")
    with (tmp_path / "seen.csv").open(newline="") as file:
        ranks = [int(row["rank"]) for row in csv.DictReader(file)]
    assert result["n"] == sum(batches) == len(drawn)
    assert sorted(ranks) == list(range(1, len(drawn) + 1))


def stopped(run: Path, images: Path, out: Path, at: int) -> None:
    """Predict until so many images are done, then die."""

    def die(**row: Any) -> None:
        if row.get("stage") == "predict" and row["done"] >= at:
            raise Killed

    with pytest.raises(Killed):
        predict(run, images, out, device="cpu", engine="torch", callback=die)
    assert not out.exists()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_predict__goes_on_after_a_kill(
    run: Path,
    images: Path,
    tmp_path: Path,
    ending: str,
    batches: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (images / "blue disc" / "1.png").write_bytes(b"no image")
    how = {"device": "cpu", "engine": "torch"}
    wanted = predict(run, images, tmp_path / f"whole.{ending}", **how)
    batches.clear()
    out = tmp_path / "new" / f"table.{ending}"
    stopped(run, images, out, at=9)
    (left,) = out.parent.glob(".anyclass-*.rows")
    with left.open("a") as file:
        file.write('{"stamps": "cut o')  # the kill hit a line
    monkeypatch.setattr(
        "anyclass.files.temporary._alive", lambda made: False
    )  # it was another process
    batches.clear()
    assert predict(run, images, out, **how) == wanted | {"out": str(out)}
    assert sum(batches) == 14 - 9, "nothing is computed twice"
    assert out.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("change", ["image", "images", "threshold", "alive"])
def test_predict__goes_on_with_the_same_request_only(
    run: Path,
    images: Path,
    tmp_path: Path,
    change: str,
    batches: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "table.csv"
    stopped(run, images, out, at=9)
    if change != "alive":
        monkeypatch.setattr(ALIVE, lambda made: False)
    least = 0.5 if change == "threshold" else 0.0
    if change == "image":  # of the second batch
        path = images / sorted(p.relative_to(images).as_posix() for p in images.rglob("*.*"))[4]
        shutil.copy(images / "red square" / "0.jpg", path)
    if change == "images":
        shutil.copy(images / "red square" / "0.jpg", images / "more.jpg")
    batches.clear()
    how = {"device": "cpu", "engine": "torch", "min_score": least}
    predict(run, images, out, **how)
    assert sum(batches) == {"image": 11, "images": 15}.get(change, 14)
    predict(run, images, tmp_path / "whole.csv", **how)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    left = list(tmp_path.glob(".anyclass-*.rows"))
    assert len(left) == (change == "alive"), "that of a process that may still run"


def test_predict__too_many_rejected_still_writes(run: Path, images: Path, tmp_path: Path) -> None:
    for path in (images / "red square").iterdir():
        path.write_bytes(b"torn")
    out = tmp_path / "labels.csv"
    with pytest.raises(AnyclassError, match="5 of 14 .* reasons are in .*labels.csv") as lost:
        predict(run, images, out)
    assert lost.value.exit_code == 1
    assert out.read_text().count("rejected") == 5
    assert predict(run, images, out, overwrite=True, max_rejected=0.5)["rejected"] == 5


def test_predict__all_rejected(run: Path, images: Path, tmp_path: Path) -> None:
    for path in images.rglob("*.*"):
        path.write_bytes(b"torn")
    said = predict(run, images, tmp_path / "labels.parquet", max_rejected=1.0)
    assert (said["rejected"], said["classes"]) == (14, {})
    assert pq.read_table(tmp_path / "labels.parquet")["status"].to_pylist() == ["rejected"] * 14


def test_predict__never_writes_over_a_file(run: Path, images: Path, tmp_path: Path) -> None:
    mine = tmp_path / "labels.csv"
    mine.write_text("mine")
    with pytest.raises(RequestError, match="labels.csv exists already: .*--overwrite"):
        predict(run, images, mine)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"out": "labels.txt"}, "labels.txt: the file name must end in .csv or .parquet"),
        ({"out": "names.txt/labels.csv"}, "no file can be written there"),
        ({"out": "folder.csv"}, "no file can be written there"),
        ({"max_rejected": -1.0}, "--max-rejected -1.0: give a number"),
        ({"max_rejected": 10.0}, "--max-rejected 10.0: give a number"),
        ({"device": "tpu"}, "--device tpu cannot be used here"),
        ({"images": "nowhere"}, "nowhere does not exist"),
        ({"run": "nowhere"}, "nowhere contains no run: `anyclass fit"),
    ],
)
def test_predict__refuses(
    run: Path,
    images: Path,
    names: Path,
    options: dict[str, Any],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(names.parent)
    Path("folder.csv").mkdir()
    before = sorted(names.parent.rglob("*"))
    with pytest.raises(RequestError, match=said):
        predict(**{"run": run, "images": images, "out": "labels.csv"} | options)
    assert sorted(names.parent.rglob("*")) == before


def test_check_out__a_read_only_folder_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_out(tmp_path / "new" / "labels.csv", False, [".csv"])
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(StorageError, match=r"labels\.csv cannot be written: Permission denied"):
        check_out(tmp_path / "new" / "labels.csv", False, [".csv"])


def test_load__an_unfinished_run(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    with pytest.raises(RequestError, match="contains an unfinished run"):
        load_classifier(tmp_path / "run")


def test_load__a_method_of_another_version(run: Path, tmp_path: Path) -> None:
    copy = changed(run, tmp_path / "run", "model/classifier.json", method="ship2")
    with pytest.raises(ModelError, match="'ship2', which is unknown to this version"):
        load_classifier(copy)


def test_evaluate__scores_labelled_images(fitted: Any, images: Path) -> None:
    (images / "green ring" / "2.jpg").write_bytes(b"torn")
    found = evaluate(fitted.run, images)
    assert set(found) == KEYS
    classifier = Classifier.load(fitted.run / "model")
    files = [p for p in sorted(images.rglob("*.*")) if p.read_bytes() != b"torn"]
    truth = np.array([classifier.classes_.index(path.parent.name) for path in files])
    right = classifier.predict_proba(files).argmax(1) == truth
    assert found["accuracy"] == pytest.approx(right.mean())
    by_class = [right[truth == c].mean() for c in range(4)]
    assert found["mean_per_class"] == pytest.approx(np.mean(by_class))
    assert [row["accuracy"] for row in found["per_class"]] == pytest.approx(by_class)
    assert (found["n"], found["rejected"], np.sum(found["confusion"])) == (13, 1, 13)

    clip = Backbone.load(fitted.model, engine="torch")
    named = class_features(clip, classifier.classes_, [PLAIN])
    head = CosineHead(named, clip.logit_scale.detach())
    zero_shot = Classifier(Representation((clip,)), head, classifier.classes, "zero-shot")
    right = zero_shot.predict_proba(files).argmax(1) == truth
    assert found["zero_shot_accuracy"] == pytest.approx(right.mean())


def test_evaluate__says_what_the_run_said(fitted: Any) -> None:
    found, then = evaluate(fitted.run, fitted.images, engine="torch"), fitted.metrics
    assert found["accuracy"] == then["adapted"]["accuracy"]
    assert found["zero_shot_accuracy"] == then["zero_shot"]["accuracy"]
    assert found["zero_shot_ensemble_accuracy"] == then["zero_shot_ensemble"]["accuracy"]
    assert found["calibration_error"] == pytest.approx(then["calibration_error"], abs=1e-6)


def test_evaluate__a_table_of_some_images(run: Path, images: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("file_name,label\nimages/red square/0.jpg,blue disc\n")
    found = evaluate(run, images, str(labels))
    assert found["n"] == 1
    assert [row["n"] for row in found["per_class"]] == [0, 1, 0, 0]
    assert [row["accuracy"] for row in found["per_class"]][0] is None


@pytest.mark.parametrize("tune", ["tail", "all"])
def test_evaluate__whatever_was_trained(shapes: dict[str, Any], tmp_path: Path, tune: str) -> None:
    from anyclass.methods import METHODS

    method = METHODS["latteclip"](
        tuning=Tuning(tune=tune, steps=3, views=1, lr=1e-3), texts=("class",)
    )
    metrics = fit(method, tmp_path / "run", **shapes).metrics
    found = evaluate(tmp_path / "run", shapes["images"])
    assert found["accuracy"] == metrics["adapted"]["accuracy"]
    assert found["zero_shot_accuracy"] == metrics["zero_shot"]["accuracy"]


def test_evaluate__nothing_to_score_with(run: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    shutil.copy(images / "red square" / "0.jpg", tmp_path / "flat")
    with pytest.raises(RequestError, match=r"no readable image .* \(--labels FILE\)"):
        evaluate(run, tmp_path / "flat")
    for path in images.rglob("*.*"):
        path.write_bytes(b"torn")
    with pytest.raises(RequestError, match="no readable image of .* has a label"):
        evaluate(run, images)


def test_evaluate__labels_that_are_no_classes(run: Path, images: Path) -> None:
    (images / "red square").rename(images / "red box")
    with pytest.raises(
        RequestError, match="these labels are not in the list of classes: 'red box'"
    ):
        evaluate(run, images)


def test_predict__a_model_that_has_moved(shapes: dict[str, Any], tmp_path: Path) -> None:
    """The run says where its model was, takes the place where it is, and no other model."""
    images = shapes["images"]
    home = Path(shapes["model"].removeprefix("local-dir:"))
    old = tmp_path / "old"
    shutil.copytree(home, old)
    run = tmp_path / "run"
    fit("zero-shot", run, **shapes | {"model": f"local-dir:{old}"})
    before = predict(run, images, tmp_path / "before.csv", engine="torch")
    shutil.rmtree(old)
    for command in (lambda: predict(run, images), lambda: evaluate(run, images)):
        with pytest.raises(ModelError, match=r"old, which is no longer there: .*--model local-"):
            command()
    found = predict(run, images, tmp_path / "after.csv", engine="torch", model=shapes["model"])
    assert found["classes"] == before["classes"]
    after = tmp_path / "after.csv"
    assert after.read_bytes() == (tmp_path / "before.csv").read_bytes()
    assert evaluate(run, images, engine="torch", model=shapes["model"])["n"] == 14
    other = tmp_path / "other"
    shutil.copytree(home, other)
    (weights,) = other.glob("*.safetensors")
    tensors = load_file(weights)
    tensors["visual.proj"] = tensors["visual.proj"][::-1].copy()
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ModelError, match=r"does not match local-dir:.*other: its weights differ"):
        predict(run, images, tmp_path / "p.csv", engine="torch", model=f"local-dir:{other}")


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize("kind", ["siglip", "timm", "nothing", "nowhere"])
def test_predict__another_model_is_one_line(
    run: Path, images: Path, tmp_path: Path, tiny_clip: Any, capsys: Any, command: str, kind: str
) -> None:
    """`serve` and `export` take no model: they use that of the run."""
    nothing = {"nothing": "no-model", "nowhere": f"local-dir:{tmp_path / 'nowhere'}"}
    model = nothing.get(kind) or tiny_clip(kind)
    words = [command, "--run", str(run), "--images", str(images), "--model", model]
    words += ["--out", str(tmp_path / "table.csv")] if command == "predict" else []
    assert main([*words, "--engine", "torch"]) == 2
    line = capsys.readouterr().err.rstrip().splitlines()[-1]
    words_of = {"nothing": "no model is called", "nowhere": "nowhere"}
    expected = words_of.get(kind, f"does not match {model}: .*; load the model it was fitted on")
    assert re.match(f"anyclass: .*{expected}", line), line
    assert not (tmp_path / "table.csv").exists()
