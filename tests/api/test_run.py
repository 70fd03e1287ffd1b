"""`Run`: what it predicts, keeps, saves and says."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import anyclass
from anyclass.errors import RequestError


def test_predict__rows_are_those_of_the_input(fit: Any) -> None:
    predictions = fit.run.predict(fit.images)
    assert len(predictions) == 14
    assert predictions.labels[1] is None
    assert predictions.reasons == {"1": "not an image: a value of type NoneType"}
    assert np.isnan(predictions.probabilities[1]).all()
    assert predictions.probabilities.dtype == np.float32
    others = np.delete(predictions.probabilities, 1, axis=0)
    np.testing.assert_allclose(others.sum(1), 1, atol=1e-5)
    best = [fit.run.classes_[c] for c in others.argmax(1)]
    assert [label for label in predictions if label is not None] == best
    assert fit.run.predict(fit.images[5]).labels == [predictions[5]]


def test_predict__is_the_classifier_itself(fit: Any) -> None:
    good = [image for image in fit.images if image is not None]
    assert np.array_equal(fit.run.predict_proba(good), fit.run.classifier.predict_proba(good))
    assert fit.run.predict(good).labels == fit.run.classifier.predict(good)


def test_predict__tables_out(fit: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"image": fit.images}, index=[f"i{k}" for k in range(14)])
    found = fit.run.predict(frame, output="pandas")
    assert list(found.index) == list(frame.index)
    assert list(found["file_name"]) == list(frame.index)
    assert found.loc["i1", "reason"].startswith("not an image")
    table = fit.run.predict(frame, output="arrow")
    assert isinstance(table, pa.Table)
    assert table["label"].to_pylist() == fit.run.predict(fit.images).labels
    proba = fit.run.predict_proba(frame, output="pandas")
    assert list(proba.columns) == ["file_name", *fit.run.classes_]
    assert proba.loc["i1"].isna().sum() == 4
    assert np.array_equal(proba[fit.run.classes_], fit.run.predict_proba(frame), equal_nan=True)
    with pytest.raises(RequestError, match="output='numpy': use 'default', 'pandas', 'arrow'"):
        fit.run.predict(frame).as_output("numpy")


def test_predict__leaves_out_low_scores(fit: Any) -> None:
    scores = fit.run.predict(fit.images).scores
    least = float(np.nanmedian(scores))
    found = fit.run.predict(fit.images, min_score=least)
    assert sum(label is None for label in found) > 1
    with pytest.raises(RequestError, match="^min_score=2.0: give a number between 0 and 1"):
        fit.run.predict(fit.images, min_score=2.0)


def test_predict__says_nothing_of_few_images(fit: Any, capfd: pytest.CaptureFixture[str]) -> None:
    fit.run.predict(fit.images)
    assert capfd.readouterr().err == ""
    fit.run.predict([fit.images[0]] * 65)
    assert "predicting: 65 images" in capfd.readouterr().err


def test_predict__asks_for_images(fit: Any) -> None:
    with pytest.raises(RequestError, match="give images"):
        fit.run.predict()


def test_evaluate__labels_of_any_kind(fit: Any) -> None:
    names = [label or "red square" for label in fit.labels]
    result = fit.run.evaluate(fit.images, names, prompt_ensemble=False)
    predicted = fit.run.predict(fit.images).labels
    fair = [label is None for label in fit.labels]  # the others were trained on
    rows = zip(predicted, names, fair, strict=True)
    right = [a == b for a, b, unseen in rows if unseen and a is not None]
    assert result["n"] == len(right) == 6
    assert result["accuracy"] == pytest.approx(np.mean(right))
    assert result["rejected"] == 1
    with pytest.raises(RequestError, match=r"no readable image has a label.*\(labels=\.\.\.\)"):
        fit.run.evaluate(fit.images, [None] * 14)
    with pytest.raises(RequestError, match="these labels are not in the list of classes: 'ring'"):
        fit.run.evaluate(fit.images, ["ring", *names[1:]])


def test_run__reads_what_is_in_its_folder(fit: Any) -> None:
    metrics = json.loads((fit.run.folder / "metrics.json").read_text())
    assert fit.run.metrics == metrics
    assert fit.run.report.read_text().startswith("<!doctype html>")
    assert fit.run.suspicious.column_names[:2] == ["file_name", "label"]
    assert fit.run.predictions.probabilities is None
    with pytest.raises(RequestError, match="keeps no probabilities"):
        fit.run.predictions.top(2)


def test_save_and_load__the_same_object(fit: Any, tmp_path: Path) -> None:
    assert fit.run.save(tmp_path / "kept") is fit.run
    for path in ("kept", "kept/model"):
        loaded = anyclass.load(tmp_path / path)
        assert loaded.predict(fit.images).labels == fit.run.predict(fit.images).labels
    loaded = anyclass.load(tmp_path / "kept")
    assert loaded.metrics == fit.run.metrics
    assert loaded.predictions.labels == fit.run.predictions.labels
    with pytest.raises(RequestError, match="kept is not empty: add overwrite=True or choose"):
        fit.run.save(tmp_path / "kept")
    fit.run.save(tmp_path / "kept", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(RequestError, match="mine is not empty: choose another"):
        fit.run.save(tmp_path / "mine", overwrite=True)
    with pytest.raises(RequestError, match="is a file: give a new folder"):
        fit.run.save(tmp_path / "mine" / "letter.txt")


def test_load__a_model_alone(fit: Any, tmp_path: Path) -> None:
    fit.run.classifier.save(tmp_path / "model")
    alone = anyclass.load(tmp_path / "model")
    assert alone.predict(fit.images[0]).labels == fit.run.predict(fit.images[0]).labels
    assert len(repr(alone).splitlines()) == 1
    assert "images" not in alone._repr_html_()
    with pytest.raises(RequestError, match="a classifier without its run"):
        _ = alone.metrics
    alone.save(tmp_path / "again")
    assert anyclass.load(tmp_path / "again").classes_ == fit.run.classes_


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere", "nowhere does not exist"), ("a.txt", "is a file"), ("empty", "contains no run")],
)
def test_load__refuses(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(RequestError, match=said):
        anyclass.load(tmp_path / name)


def test_repr__a_few_lines_without_tensors(fit: Any) -> None:
    said = repr(fit.run)
    assert said.splitlines()[0] == (
        "open-world, 4 classes: red square, blue disc, yellow kite, green ring"
    )
    assert len(said.splitlines()) <= 5
    assert "accuracy" in said
    assert "tensor" not in repr(fit.run.classifier)
    assert repr(fit.run.classifier).startswith("Classifier(open-world, 4 classes: 'red square'")


def test_predict__an_image_opened_by_pillow_stays_open(fit: Any, tmp_path: Path) -> None:
    Image.new("RGB", (20, 31), (200, 9, 9)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        first = fit.run.predict(image).labels
        assert fit.run.predict([image, image]).labels == first * 2


def test_run__edits_of_images_in_memory(fit: Any) -> None:
    """Their thumbnails stay, in a notebook and in the report; a class can be split."""
    known = [name if name in ("red square", "blue disc") else None for name in fit.labels]
    options = {key: value for key, value in fit.options.items() if key != "classes"}
    run = anyclass.fit(fit.images, labels=known, unknown=2, max_rejected=0.2, **options)
    count = run.report.read_text("utf-8").count("data:image/webp")
    assert count > 0
    first, second = (name for name in run.classes_ if name.startswith("discovered"))
    run.merge(first, second)
    assert run._repr_html_().count("data:image/webp") > 3
    assert run.report.read_text("utf-8").count("data:image/webp") > 3
    assert {f"{first}a", f"{first}b"} <= set(run.split(first).classes_)
    assert run.undo().undo().report.read_text("utf-8").count("data:image/webp") == count
    assert len(run.label_next(2)) == 2


def test_predict__a_file_that_is_given_twice(fit: Any, tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    Image.new("RGB", (9, 8), "red").save(good)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    found = fit.run.predict([bad, good, bad, good])
    assert found.names == ["bad.png", "good.png"] * 2
    assert found.labels[0] is None
    assert found.labels[2] is None
    assert found.labels[1] == found.labels[3] is not None
    anyclass.predict(fit.run.folder, [bad, good, bad, good], tmp_path / "p.csv", max_rejected=1)
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == found.names


def test_run__is_pickled_without_its_classifier(fit: Any) -> None:
    copy = pickle.loads(pickle.dumps(fit.run))  # noqa: S301 (written here)
    assert "classifier" not in vars(copy)
    assert copy.predict(fit.images[0]).labels == fit.run.predict(fit.images[0]).labels
    kept = pickle.loads(pickle.dumps(fit.run.predictions))  # noqa: S301 (written here)
    assert kept.labels == fit.run.predictions.labels
    alone = anyclass.load(fit.run.folder / "model", device="cpu")
    with pytest.raises(RequestError, match="cannot be pickled: load the run folder"):
        pickle.dumps(alone)
