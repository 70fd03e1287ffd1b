"""Classes without a name: what `fit`, `plan`, `predict` and `evaluate` make of them."""

import html
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.cli import main
from anyclass.commands.evaluate import evaluate
from anyclass.commands.fit import fit
from anyclass.commands.num_classes import describe_estimate, estimate_unknown
from anyclass.commands.plan import plan
from anyclass.commands.predict import predict
from anyclass.data import ImageDataset
from anyclass.data.image import open_image
from anyclass.data.splits import hold_out
from anyclass.errors import RequestError
from anyclass.estimators.num_classes import Count
from anyclass.features.store import FeatureStore
from anyclass.methods import METHODS
from anyclass.methods.gcd_common import MlpShape
from anyclass.training.two_views import TwoViewTuning

KNOWN = {"red square": 5, "blue disc": 3}
NEW = ("discovered 1", "discovered 2")
KMEANS = METHODS["kmeans"]
SMALL = TwoViewTuning(tune="head", epochs=2, batch_size=8, lr=0.01, views=2)
SHAPE = MlpShape(mlp_width=16, h_width=8)


def table(images: Path, names: tuple[str, ...], path: Path) -> Path:
    """A table with the labels of some classes of `images`."""
    files = [(name, file.name) for name in names for file in sorted((images / name).iterdir())]
    rows = [f"{name}/{file},{name}" for name, file in files]
    path.write_text("\n".join(["file_name,label", *rows]) + "\n")
    return path


@pytest.fixture
def half(tmp_path: Path, images: Path, shapes: dict[str, Any]) -> dict[str, Any]:
    """The request for `images` with labels of two classes; two more have not even a name."""
    known = table(images, tuple(KNOWN), tmp_path / "labels.csv")
    return shapes | {"classes": None, "labels": str(known), "unknown": 2}


@pytest.fixture
def run(tmp_path: Path, half: dict[str, Any]) -> Path:
    """A finished run with discovered classes."""
    fit(KMEANS(semi_supervised=True), tmp_path / "run", **half)
    return tmp_path / "run"


@pytest.fixture(scope="module")
def finished(fitted: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with discovered classes, fitted once; not to be changed."""
    folder = tmp_path_factory.mktemp("discovered")
    images = shutil.copytree(fitted.images, folder / "images")
    shutil.copy(images / "blue disc" / "0.jpg", images / "blue disc" / "1.png")  # it is damaged
    known = table(images, tuple(KNOWN), folder / "labels.csv")
    asked = {"images": images, "labels": str(known), "unknown": 2, "model": fitted.model}
    how = KMEANS(semi_supervised=True)
    fit(how, folder / "run", device="cpu", engine="torch", **asked)
    return folder / "run"


def test_plan__auto_says_what_is_known(half: dict[str, Any]) -> None:
    chosen = plan("auto", **half)
    assert (chosen["method"], chosen["unknown"], chosen["minutes"]) == ("open-world", 2, None)
    assert chosen["why"] == ["2 classes with labels (8 images), 2 unknown classes"]
    assert chosen["embeddings"] == 14


def test_fit__auto_clusters_where_nothing_is_known(tmp_path: Path, half: dict[str, Any]) -> None:
    metrics = fit("auto", tmp_path / "run", **half | {"labels": None, "unknown": 4}).metrics
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["method"], metrics["scored"], metrics["changed"]) == ("open-world", 0, None)
    assert "so all images are clustered" in config["why"][0]
    assert metrics["zero_shot"] is None
    assert metrics["controls"] == {}
    rows = (tmp_path / "run" / "predictions.csv").read_text().splitlines()
    assert {row.split(",")[1] for row in rows[1:]} <= {f"discovered {i}" for i in range(1, 5)}
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize("name", ["get", "gcd"])
def test_fit__each_method_leaves_a_run_that_predicts_and_scores(
    tmp_path: Path, half: dict[str, Any], images: Path, name: str
) -> None:
    fields: dict[str, Any] = {"tuning": SMALL, "head": SHAPE}
    fields |= {"get": {"tes_epochs": 1, "words": 2}, "gcd": {"rows": 32}}.get(name, {})
    metrics = fit(METHODS[name](**fields), tmp_path / "run", **half).metrics
    saved = json.loads((tmp_path / "run" / "classes.json").read_text())
    assert saved["names"] == ["blue disc", "red square", *NEW]
    assert saved["kinds"] == ["labelled", "labelled", "unknown", "unknown"]
    assert "every label was trained on" in metrics["warnings"][0]
    assert metrics["discovery"]["old_fixed"] is None, "no label is left that it does not know"
    assert not any("more often" in warning for warning in metrics["warnings"])
    assert set(metrics["controls"]) == {"kmeans", "kmeans_with_labels"}
    found = evaluate(tmp_path / "run", images)
    assert set(found["controls"]) == {"kmeans", "kmeans_with_labels"}
    assert 0 < found["all"] <= 1
    assert found["n"] == 6, "the other labels were trained on"
    labels = predict(tmp_path / "run", images, tmp_path / "p.csv")["classes"]
    assert sum(labels.values()) == 14
    assert set(labels) <= set(saved["names"])


def test_fit__mean_score_is_what_clusterings_agree_on(finished: Path, tmp_path: Path) -> None:
    expected = json.loads((finished / "metrics.json").read_text())["expected"]
    rows = pq.read_table(finished / "predictions.parquet").to_pylist()
    scores = {row["file_name"]: row["score"] for row in rows if row["status"] == "ok"}
    assert len(scores) == expected["unlabelled"]
    assert np.mean(list(scores.values())) == pytest.approx(expected["accuracy"], abs=1e-5)
    assert expected["mean_score"] == pytest.approx(expected["accuracy"], abs=1e-5)
    images = Path(json.loads((finished / "config.json").read_text())["images"])
    out = tmp_path / "again.parquet"
    predict(finished, images, out)
    again = {row["file_name"]: row["score"] for row in pq.read_table(out).to_pylist()}
    assert {name: again[name] for name in scores} == pytest.approx(scores, abs=1e-4)


def test_fit__a_given_temperature_is_kept(tmp_path: Path, half: dict[str, Any]) -> None:
    result = fit(KMEANS(semi_supervised=True, temperature=0.05), tmp_path / "run", **half)
    assert "accuracy" not in result.metrics["expected"]
    assert result.classifier.head.scale == pytest.approx(20)


def test_fit__hidden_labels_are_never_read(
    tmp_path: Path, half: dict[str, Any], images: Path
) -> None:
    """Held-out labels that are all wrong change the scores and nothing else."""
    half |= {"holdout": 0.25}
    method = METHODS["simgcd"](tuning=SMALL, head=SHAPE)
    right = fit(method, tmp_path / "right", **half).metrics
    assert right["scored"] == 2
    dataset = ImageDataset.read(images, None, half["labels"], 2)
    hidden = (dataset.labels >= 0) & (hold_out(dataset, 0.25, 0).labels < 0)
    lines = Path(half["labels"]).read_text()
    for file in np.array(dataset.files)[hidden]:
        name = file.split("/")[0]
        other = next(known for known in KNOWN if known != name)
        lines = lines.replace(f"{file},{name}", f"{file},{other}")
    Path(half["labels"]).write_text(lines)
    wrong = fit(method, tmp_path / "wrong", **half).metrics
    assert wrong["scored"] == 2
    first, second = (
        (tmp_path / name / "model" / "classifier.safetensors").read_bytes()
        for name in ("right", "wrong")
    )
    assert first == second
    assert wrong["adapted"]["accuracy"] + right["adapted"]["accuracy"] <= 1
    assert right["discovery"]["old_fixed"] == right["adapted"]["accuracy"]
    for name in ("kmeans", "kmeans_with_labels"):
        assert right["controls"][name]["n"] == 2


def test_fit__the_number_of_classes_is_estimated(tmp_path: Path, half: dict[str, Any]) -> None:
    half |= {"unknown": "auto"}
    features = plan("auto", **half)
    metrics = fit(KMEANS(), tmp_path / "run", **half).metrics
    found = metrics["classes_estimated"]
    assert {k["classes"] for k in found["curve"]} <= {2, 3}  # at most a quarter of 14 images
    assert found["classes"] == 2 + found["unknown"]
    assert found["range"][0] <= found["classes"] <= found["range"][1]
    assert found["why"].startswith(f"about {found['classes']} classes, ")
    assert "an estimate" in found["why"]
    assert features["classes_estimated"] == found
    assert features["unknown"] == found["unknown"]
    assert found["why"] in features["remarks"]
    assert html.escape(found["why"]) in (tmp_path / "run" / "report.html").read_text()


def test_fit__an_estimate_survives_a_kill(
    tmp_path: Path, half: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    half |= {"unknown": "auto"}
    with monkeypatch.context() as now:
        now.setattr(KMEANS, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            fit(KMEANS(), tmp_path / "run", **half)
    monkeypatch.setattr("anyclass.commands.num_classes.count_classes", stopped)
    again = fit(KMEANS(), tmp_path / "run", **half).metrics
    monkeypatch.undo()
    fresh = fit(KMEANS(), tmp_path / "fresh", **half).metrics
    assert again["classes_estimated"] == fresh["classes_estimated"]
    assert again["adapted"] == fresh["adapted"]


def stopped(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("model", ["ViT-L-14/openai", "hf-hub:a/b"])
def test_plan__downloads_no_model_to_count(half: dict[str, Any], model: str) -> None:
    said = plan("auto", **half | {"unknown": "auto", "model": model})
    assert (said["unknown"], said["classes_estimated"]) == ("auto", None)
    assert said["remarks"][0].startswith("fit estimates the number of classes before training")


@pytest.mark.parametrize("part", ["head", "tail"])
def test_estimate_unknown__uses_both_spaces_and_stores_the_estimate(
    half: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: Any
) -> None:
    seen: list[Any] = []

    def count(x: Any, labels: Any, log: Any, *, extra: Any, seed: int) -> Count:
        seen.append((x, extra, labels, seed))
        return Count(5, (3, 7), {2: 0.1, 5: 0.9, 7: 0.85}, 0.02)

    monkeypatch.setattr("anyclass.commands.num_classes.count_classes", count)
    clip = Backbone.load(half["model"], engine="torch")
    dataset = ImageDataset.read(half["images"], None, half["labels"])
    for _ in range(2):
        data = FeatureStore(clip, dataset)
        about = estimate_unknown(data, part, 3, lambda **_: None, tmp_path)
        assert data.dataset.with_unknown(about["unknown"]).classes.total == 5
        assert (about["classes"], about["unknown"], about["score"]) == (5, 3, 0.9)
    assert len(seen) == 1, "kept for a run that is continued"
    found_x, found_h, labels, seed = seen[0]
    images = [open_image(dataset.root / file) for file in dataset.files]
    pixels = clip.preprocessing.normalise(torch.stack(list(map(clip.preprocessing.view, images))))
    x, h = clip.projected(pixels, "all"), clip.pooled(pixels, "all")
    close = partial(torch.testing.assert_close, atol=2e-2, rtol=2e-2)  # the cache is half precision
    close(found_x, normalize(x, dim=-1))
    close(found_h, h)
    assert (labels.tolist(), seed) == (dataset.labels.tolist(), 3)


def test_describe_estimate__explains_the_range() -> None:
    found = Count(8, (6, 10), {4: 0.5, 6: 0.88, 8: 0.9, 10: 0.82}, 0.03)
    about = describe_estimate(found, labelled=98, names=5)
    assert (about["classes"], about["unknown"], about["range"]) == (8, 3, [6, 10])
    assert (about["score"], about["margin"], about["labelled_images"]) == (0.9, 0.03, 98)
    assert [row["classes"] for row in about["curve"]] == [4, 6, 8, 10]
    assert about["why"].startswith("about 8 classes, 3 of them without a name: an estimate")
    assert "6 to 10 are plausible" in about["why"]
    assert "6 to 10 fit nearly as well" in describe_estimate(found, labelled=0, names=5)["why"]
    assert describe_estimate(found, 100, 10)["unknown"] == 0, "names are not given up"
    assert describe_estimate(found, 100, 10)["classes"] == 10


def test_holdout__serves_methods_that_need_names(
    tmp_path: Path, half: dict[str, Any], shapes: dict[str, Any]
) -> None:
    named = half | {"classes": shapes["classes"], "unknown": 0, "holdout": 0.25}
    metrics = fit("open-world", tmp_path / "run", **named).metrics
    assert metrics["scored"] == 2
    assert "discovery" not in metrics
    assert not any("trained on" in warning for warning in metrics["warnings"])


@pytest.mark.parametrize("name", ["ship", "zero-shot", "latteclip"])
def test_fit__other_methods_refuse(half: dict[str, Any], name: str) -> None:
    refusal = f"^{name} needs a name for every class.*auto, open-world, get"
    with pytest.raises(RequestError, match=refusal):
        plan(name, **half)


def test_plan__counts_without_any_label(half: dict[str, Any]) -> None:
    said = plan("auto", **half | {"labels": None, "unknown": "auto"})
    found = said["classes_estimated"]
    assert said["unknown"] == found["unknown"] == found["classes"]
    assert found["labelled_images"] == 0
    assert "an estimate from how well the images group" in found["why"]
    assert "unknown classes, their number to be estimated" in said["why"][0]


def test_evaluate__new_names_are_the_new_classes(
    run: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(run, images)
    assert (found["n"], found["n_old"]) == (6, 0), "the labels of 8 images were trained on"
    assert (found["old"], found["old_fixed"], found["zero_shot_accuracy"]) == (None, None, None)
    assert found["all"] == found["new"]
    assert set(found["assignment"]) == {*KNOWN, *NEW}
    assert set(found["assignment"].values()) <= {"yellow kite", "green ring", None}
    assert "accuracy" not in found
    assert found["protocol"] == "transductive"
    assert found["warnings"][:2] == [
        "left out 8 labels that the run was trained on",
        "6 of 6 images are images of the fit, which did not use their labels: scores of new images "
        "may be lower",
    ]
    images.rename(images.with_name("others"))
    assert main(["evaluate", "--run", str(run), "--images", f"{images.with_name('others')}"]) == 0
    said = capsys.readouterr().out
    assert "6 images, which the run was fitted on; each class counts as the true class" in said
    assert "zero-shot among the known names" in said


def test_evaluate__new_classes_alone(run: Path, images: Path) -> None:
    for name in KNOWN:
        for file in (images / name).iterdir():
            file.unlink()
        (images / name).rmdir()
    found = evaluate(run, images)
    assert (found["old"], found["old_fixed"], found["zero_shot_accuracy"]) == (None, None, None)
    assert found["new"] == found["all"]


def test_evaluate__where_all_have_a_name_strangers_stay_an_error(
    tmp_path: Path, shapes: dict[str, Any], images: Path
) -> None:
    fit("zero-shot", tmp_path / "run", **shapes)
    (images / "red square").rename(images / "cube")
    with pytest.raises(RequestError, match="these labels are not in the list of classes: 'cube'"):
        evaluate(tmp_path / "run", images)


def test_zero_shot__has_no_share_in_classes_without_a_name(finished: Path) -> None:
    rows = (finished / "predictions.csv").read_text().splitlines()
    place = rows[0].split(",").index("zero_shot_label")
    assert {row.split(",")[place] for row in rows[1:]} <= set(KNOWN)
    kinds = rows[0].split(",").index("kind")
    labels = {row.split(",")[1]: row.split(",")[kinds] for row in rows[1:]}
    assert {labels[name] for name in KNOWN} == {"labelled"}
    assert {kind for name, kind in labels.items() if name in NEW} == {"unknown"}


def test_least_score__no_label_goes_back_in_as_none(
    tmp_path: Path, finished: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished
    sure = predict(run, images, tmp_path / "sure.parquet")
    assert sure["unsure"] == 0
    import pyarrow.parquet as pq

    scores = np.array(pq.read_table(tmp_path / "sure.parquet")["score"])
    least = float(np.median(scores))
    out = tmp_path / "some.csv"
    flags = ["--run", str(run), "--images", str(images), "--min-score", repr(least)]
    assert main(["predict", *flags, "--out", str(out)]) == 0
    unsure = int((scores < np.float32(least)).sum())
    assert unsure > 0
    assert f"{unsure:7d}  unsure, without a label" in capsys.readouterr().out
    text = out.read_text()
    assert text.count(",unsure,below --min-score") == unsure
    back = ImageDataset.read(images, None, out)
    assert (back.labels < 0).all(), "what the run predicted is no label"
    column = ImageDataset.read(images, None, out, label_column="predicted_label")
    assert (column.labels < 0).sum() == unsure
    found = evaluate(run, images, min_score=least)["sure"]
    files = pq.read_table(tmp_path / "sure.parquet")["file_name"].to_pylist()
    other = "blue disc/1.png"  # damaged in the folder of the fit, so no label of it was trained on
    hidden = np.array([file.split("/")[0] not in KNOWN or file == other for file in files])
    kept = int((scores[hidden] >= np.float32(least)).sum())
    assert (found["n"], found["share"]) == (kept, kept / 7), "among those without a given label"
    assert 0 <= found["all"] <= 1
    assert evaluate(run, images, min_score=1.0)["sure"]["n"] == 0
    with pytest.raises(RequestError, match="--min-score 2.0: give a number between 0 and 1"):
        predict(run, images, tmp_path / "p.csv", min_score=2.0)


def test_cli__one_command(
    tmp_path: Path, half: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--images", str(half["images"]), "--labels", half["labels"], "--model", half["model"]]
    flags += ["--engine", "torch", "--device", "cpu"]
    small = "--epochs 1 --views 2 --tune head --mlp-width 8 --h-width 4 --tes-epochs 1".split()
    small += "--batch-size 8 --lr 0.01".split()
    out = ["--out", str(tmp_path / "run")]
    auto = ["--unknown", "auto"]
    assert main(["plan", "get", *flags, *auto]) == 0
    assert "about " in capsys.readouterr().out
    some = ["--unknown", "2", "--holdout", "0.25"]
    assert main(["fit", "get", *flags, *small, *out, *some]) == 0
    said = capsys.readouterr().out
    assert "2 of them labelled" in said
    assert "k-means with labels" in said
    assert main(["plan", *flags, "--unknown", "2"]) == 0
    assert "; 2 unknown" in capsys.readouterr().out
