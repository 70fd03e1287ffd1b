"""`fit`: the exact files, zero-shot beside, labels that only score, and nothing lost in a kill."""

import csv
import json
import os
import random
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from anyclass.commands.evaluate import evaluate
from anyclass.commands.fit import fit
from anyclass.commands.train import embed_readable
from anyclass.data import Classes, ImageDataset
from anyclass.errors import AnyclassError, ModelError, RequestError
from anyclass.features.store import FeatureStore
from anyclass.files import check_manifest, read_json
from anyclass.methods import METHODS
from anyclass.run.predictions import AllPredictions, log_of
from anyclass.run.progress import Progress
from anyclass.run.scoring import NO_LABELS, compare
from anyclass.training.tuning import Tuning

FILES = {
    "config.json",
    "environment.json",
    "classes.json",
    "metrics.json",
    "log.jsonl",
    "predictions.parquet",
    "predictions.csv",
    "rejected.csv",
    "descriptions.jsonl",
    "map.parquet",
    "report.html",
    "images.parquet",
    "manifest.json",
    "model/classifier.safetensors",
    "model/classifier.json",
    "model/README.md",
}
REPEATED = (  # what two equal runs write alike, byte for byte
    "images.parquet",
    "predictions.parquet",
    "predictions.csv",
    "rejected.csv",
    "descriptions.jsonl",
    "classes.json",
    "map.parquet",
    "model/classifier.safetensors",
    "model/classifier.json",
)
QUICK = METHODS["latteclip"](tuning=Tuning(tune="head", steps=12, views=2))
Shapes = dict[str, Any]
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def quick(tiny_clip: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `fit(QUICK, ...)` on the images of `shapes`, with seed 0."""
    from tests.conftest import draw_shapes, request_for

    folder = tmp_path_factory.mktemp("quick")
    fit(QUICK, folder / "run", **request_for(draw_shapes(folder / "images"), tiny_clip()))
    return folder / "run"


def result(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in REPEATED}


def table(run: Path) -> list[dict[str, Any]]:
    return pq.read_table(run / "predictions.parquet").to_pylist()


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text(encoding="utf-8"))


def test_fit__leaves_exactly_these_files(fitted: Any) -> None:
    found = {path.relative_to(fitted.run).as_posix() for path in fitted.run.rglob("*")}
    assert found - {"model", ".anyclass.lock"} == FILES
    assert set(read(fitted.run, "manifest.json")["files"]) == FILES - {"manifest.json"}
    assert check_manifest(fitted.run) == []


def test_fit__metrics_are_what_it_returns_and_add_up(fitted: Any) -> None:
    metrics = read(fitted.run, "metrics.json")
    assert metrics == fitted.metrics
    assert (metrics["n"], metrics["rejected"], metrics["scored"]) == (14, 1, 13)
    rows = [row for row in table(fitted.run) if row["status"] == "ok"]
    for key, column in (("adapted", "label"), ("zero_shot", "zero_shot_label")):
        right = [row[column] == row["true_label"] for row in rows]
        assert metrics[key]["accuracy"] == pytest.approx(sum(right) / 13)
        assert [row["n"] for row in metrics[key]["per_class"]] == [5, 2, 2, 4]
    moved = sum(row["label"] != row["zero_shot_label"] for row in rows)
    assert metrics["changed"] == pytest.approx(moved / 13)
    assert np.sum(metrics["confusion"]) == 13
    assert metrics["why_null"] is None
    assert set(metrics["seconds"]) == {"embed", "fit", "map", "total"}


def test_fit__a_rejected_image_keeps_its_row(fitted: Any) -> None:
    rows = table(fitted.run)
    files = sorted(p.relative_to(fitted.images).as_posix() for p in fitted.images.rglob("*.*"))
    assert [row["file_name"] for row in rows] == files
    bad = rows[files.index("blue disc/1.png")]
    assert bad["status"] == "rejected"
    assert bad["reason"].startswith("not an image")
    assert bad["true_label"] == "blue disc"
    assert {bad[key] for key in ("label", "score", "margin", "kind", "zero_shot_label")} == {None}
    assert all(row["true_label"] == row["file_name"].split("/")[0] for row in rows)
    with (fitted.run / "rejected.csv").open(newline="") as file:
        refused = list(csv.DictReader(file))
    assert [(row["file_name"], row["reason"]) for row in refused] == [
        ("blue disc/1.png", "not an image")
    ]


def test_fit__the_csv_says_what_the_parquet_says(fitted: Any) -> None:
    with (fitted.run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    exact = table(fitted.run)
    assert list(rows[0]) == list(exact[0])
    for row, truth in zip(rows, exact, strict=True):
        for key, value in truth.items():
            if isinstance(value, float):
                assert float(row[key]) == pytest.approx(value, rel=1e-5)
            else:
                assert row[key] == ("" if value is None else str(value))


def test_fit__records_what_was_asked_and_how(fitted: Any) -> None:
    config, environment = read(fitted.run, "config.json"), read(fitted.run, "environment.json")
    assert (config["asked"], config["method"]) == ("latteclip", "latteclip")
    assert config["images"] == str(fitted.images)
    assert config["fields"]["tuning"]["tune"] == "head"
    assert config["fields"]["captioner"]["kind"] == "vocabulary"
    assert read(fitted.run, "classes.json")["kinds"] == ["labelled"] * 4
    assert environment["model"]["id"] == fitted.model
    assert environment["packages"]["torch"]
    assert environment["threads"] == 1
    steps = [json.loads(line) for line in (fitted.run / "log.jsonl").read_text().splitlines()]
    assert [line["done"] for line in steps if line.get("stage") == "fit"] == list(range(1, 51))
    texts = [json.loads(t) for t in (fitted.run / "descriptions.jsonl").read_text().splitlines()]
    assert [t["class"] for t in texts if t["kind"] == "class"] == config["classes"]
    assert sum(t["kind"] == "image" for t in texts) == 13


def test_fit__the_card_says_limits_and_licence(fitted: Any) -> None:
    card = (fitted.run / "model" / "README.md").read_text()
    for words in ("read text in images", "licence", "seed 0", "red square", "a photo of a"):
        assert words in card


def test_fit__without_labels_nothing_is_known(tmp_path: Path, shapes: Shapes) -> None:
    metrics = fit(QUICK, tmp_path / "run", **shapes | {"labels": None}).metrics
    unknown = ("zero_shot", "zero_shot_ensemble", "adapted", "confusion", "calibration_error")
    assert {key: metrics[key] for key in unknown} == dict.fromkeys(unknown)
    assert metrics["why_null"] == NO_LABELS
    assert metrics["scored"] == 0
    assert metrics["changed"] is not None
    assert {row["true_label"] for row in table(tmp_path / "run")} == {None}
    assert (
        "Nobody can say how often these labels are right"
        in (tmp_path / "run" / "report.html").read_text()
    )


def test_fit__labels_only_score(tmp_path: Path, shapes: Shapes, images: Path) -> None:
    files = sorted(p.relative_to(images).as_posix() for p in images.rglob("*.*"))
    names = [file.split("/")[0] for file in files]
    known = {"truth": names, "permuted": random.Random(3).sample(names, len(names))}
    columns = {}
    for key, labels in known.items():
        path = tmp_path / f"{key}.csv"
        path.write_text(
            "".join(
                f"{f},{n}\n" for f, n in [("file_name", "label"), *zip(files, labels, strict=True)]
            )
        )
        run = tmp_path / key
        fit(QUICK, run, **shapes | {"labels": str(path)})
        written = pq.read_table(run / "predictions.parquet")
        assert written["true_label"].to_pylist() == labels
        columns[key] = (
            written.drop_columns(["true_label"]),
            (run / "model" / "classifier.safetensors").read_bytes(),
            (run / "descriptions.jsonl").read_bytes(),
        )
    assert columns["truth"] == columns["permuted"]


def test_fit__same_seed_same_bytes(tmp_path: Path, shapes: Shapes, quick: Path) -> None:
    for name, seed in (("two", 0), ("other", 5)):
        fit(QUICK, tmp_path / name, **shapes, seed=seed)
    assert result(quick) == result(tmp_path / "two")
    weights = "model/classifier.safetensors"
    assert result(quick)[weights] != result(tmp_path / "other")[weights]


def test_fit__the_order_of_the_folder_does_not_matter(
    tmp_path: Path, shapes: Shapes, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = os.walk

    def shuffled(*args: Any, **options: Any) -> Iterator[Any]:
        for folder, folders, files in walk(*args, **options):
            random.Random(1).shuffle(folders)
            yield folder, folders, random.Random(2).sample(files, len(files))

    monkeypatch.setattr("anyclass.data.dataset.os.walk", shuffled)
    fit(QUICK, tmp_path / "two", **shapes)
    assert result(quick) == result(tmp_path / "two")


def test_fit__zero_shot_is_the_baseline_itself(tmp_path: Path, shapes: Shapes) -> None:
    metrics = fit("zero-shot", tmp_path / "run", **shapes).metrics
    assert metrics["adapted"] == metrics["zero_shot"]
    assert metrics["changed"] == 0
    ensemble = fit(METHODS["zero-shot"](ensemble=True), tmp_path / "many", **shapes).metrics
    assert ensemble["adapted"] == metrics["zero_shot_ensemble"]
    assert ensemble["zero_shot"] == metrics["zero_shot"]


@pytest.mark.parametrize("kind", ["siglip", "huggingface"])
def test_fit__takes_every_kind_of_model(
    tmp_path: Path, shapes: Shapes, tiny_clip: Callable[..., str], kind: str
) -> None:
    tune = "tail" if kind == "siglip" else "head"
    method = METHODS["latteclip"](tuning=Tuning(tune=tune, steps=2, views=1), texts=("class",))
    metrics = fit(method, tmp_path / "run", **shapes | {"model": tiny_clip(kind)}).metrics
    assert metrics["n"] == metrics["scored"] == 14
    assert (
        fit("zero-shot", tmp_path / "zero", **shapes | {"model": tiny_clip(kind)}).metrics["n"]
        == 14
    )


def test_compare__warns_when_adapting_harmed() -> None:
    labels = np.array([0, 1, 2, 2, -1])
    right, wrong = log_of(np.eye(3)[[0, 1, 2, 2, 0]]), log_of(np.eye(3)[[0, 2, 2, 1, 0]])
    harmed = compare(labels, AllPredictions(right, wrong, wrong), Classes.of(("c", "a", "b")))
    assert harmed["warnings"] == [
        "adaptation lowers the accuracy (50.0%, zero-shot 100.0%): use zero-shot "
        "(`anyclass fit zero-shot`) or another method"
    ]
    assert (harmed["scored"], harmed["changed"]) == (4, 2 / 5)
    trained_on = np.array([False, True, False, True, False])
    predictions = AllPredictions(right, wrong, wrong)
    changed = compare(labels, predictions, Classes.of(("c", "a", "b")), trained_on)["changed"]
    assert changed == 0, "the labels of the two that differ were trained on"
    everything = compare(labels, predictions, Classes.of(("c", "a", "b")), np.ones(5, bool))
    assert everything["changed"] is None
    assert harmed["confusion"] == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]
    assert (
        compare(labels, AllPredictions(wrong, wrong, right), Classes.of(("c", "a", "b")))[
            "warnings"
        ]
        == []
    )
    unlabelled = compare(
        np.full(5, -1), AllPredictions(right, wrong, wrong), Classes.of(("c", "a", "b"))
    )
    assert (unlabelled["warnings"], unlabelled["adapted"]) == ([], None)


def test_fit__says_what_auto_took_and_what_was_lost(
    tmp_path: Path, shapes: Shapes, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "red square" / "2.jpg").write_bytes(b"")
    fit("auto", tmp_path / "run", **shapes)
    said = capsys.readouterr().err
    assert said.startswith("auto chooses open-world: 4 classes with labels (14 images)")
    assert "rejected red square/2.jpg: not an image" in said


def test_fit__a_class_without_a_readable_image_is_only_named(
    tmp_path: Path, shapes: Shapes, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (images / "yellow kite").iterdir():
        path.write_bytes(b"torn")
    fit("open-world", tmp_path / "run", **shapes, max_rejected=0.5)
    classes = read_json(tmp_path / "run" / "classes.json")
    kinds = dict(zip(classes["names"], classes["kinds"], strict=True))
    assert kinds.pop("yellow kite") == "named"
    assert set(kinds.values()) == {"labelled"}
    said = capsys.readouterr().err
    assert "only the name is known of 'yellow kite': no image with that label is readable" in said


def test_fit__says_which_names_are_one_to_the_model(
    tmp_path: Path, shapes: Shapes, capsys: pytest.CaptureFixture[str]
) -> None:
    """No list of similar names has these: only the model knows that it reads no further."""
    long = " ".join(["large red square"] * 6)
    names = {"classes": ("\U0001f984", "\U0001f9ad", long, "disc"), "labels": None}
    fit("zero-shot", tmp_path / "run", **shapes | names)
    said = capsys.readouterr().err
    assert "1 pair of class names are one and the same to the model: \U0001f9ad" in said
    assert "1 class name fill the text encoder, which reads no further: large red" in said


def test_fit__too_many_rejected(tmp_path: Path, shapes: Shapes, images: Path) -> None:
    for i in (1, 2):
        (images / "red square" / f"{i}.{'png' if i % 2 else 'jpg'}").write_bytes(b"torn")
    with pytest.raises(AnyclassError) as lost:
        fit(QUICK, tmp_path / "run", **shapes)
    assert lost.value.exit_code == 1
    assert str(lost.value) == (
        "2 of 14 images cannot be used, more than --max-rejected allows (10%).\n"
        "The first is red square/1.png (not an image: none of JPEG, PNG, WEBP, BMP, TIFF, GIF, "
        "AVIF, HEIF): repair such files, leave them out, or raise --max-rejected"
    )
    (images / "red square" / "2.jpg").unlink()
    assert fit(QUICK, tmp_path / "run", **shapes).metrics["rejected"] == 1, "the same call goes on"


def test_fit__nothing_left_to_learn_from(
    tmp_path: Path, shapes: Shapes, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in images.rglob("*.*"):
        path.write_bytes(b"torn")
    with pytest.raises(AnyclassError, match="14 of 14 .* so there is nothing to learn from"):
        fit(QUICK, tmp_path / "run", **shapes, max_rejected=1)
    assert "and 11 more; `anyclass plan --audit DIR` lists all in audit" in capsys.readouterr().err
    assert not (tmp_path / "run" / "rejected.csv").exists()


def test_readable__tells_three_rejected_images_and_where_all_of_them_are(
    images: Path, tiny_backbone: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted(images.rglob("*.*"))[:5]:
        path.write_bytes(b"torn")
    store = FeatureStore(tiny_backbone(), ImageDataset.read(images))
    with Progress() as log:
        kept, lost = embed_readable(store, "head", 0.5, log)
    assert (len(kept), len(lost)) == (9, 5)
    lines = [line for line in capsys.readouterr().err.splitlines() if "rejected" in line]
    assert [line.partition(":")[0] for line in lines[:3]] == [
        f"rejected {row.file_name}" for row in lost[:3]
    ]
    assert lines[3:] == ["rejected: and 2 more; fit lists all in rejected.csv"]


def test_fit__a_model_that_is_not_there_leaves_the_old_run(tmp_path: Path, shapes: Shapes) -> None:
    run = tmp_path / "run"
    wrong = shapes | {"model": f"local-dir:{tmp_path}"}
    with pytest.raises(ModelError, match="open_clip_config.json"):
        fit(QUICK, run, **wrong)
    fit(QUICK, run, **shapes)
    before = result(run)
    with pytest.raises(ModelError):
        fit(QUICK, run, overwrite=True, **wrong)
    assert result(run) == before
    assert check_manifest(run) == []
    with pytest.raises(RequestError, match="is finished"):
        fit(QUICK, run, **shapes)


def in_a_child(work: Callable[[], object]) -> int:
    """Do `work` in a forked process; returns how it ended, as `os.waitstatus_to_exitcode` says."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_fit__goes_on_after_a_kill_with_equal_bytes(
    tmp_path: Path, shapes: Shapes, quick: Path, save_every_step: None
) -> None:
    def die(**numbers: Any) -> None:
        if numbers.get("stage") == "fit" and numbers["done"] == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    run = tmp_path / "run"
    assert in_a_child(lambda: fit(QUICK, run, callback=die, **shapes)) == -signal.SIGKILL
    assert not (run / "manifest.json").exists()
    steps: list[int] = []
    fit(QUICK, run, callback=lambda **n: steps.append(n.get("step", -1)), **shapes)
    assert [step for step in steps if step >= 0] == list(range(6, 12)), "from the last saved step"
    assert result(run) == result(quick)
    assert not (run / "unfinished").exists()


def test_fit__other_images_do_not_continue_old_training(
    tmp_path: Path, shapes: Shapes, images: Path, save_every_step: None
) -> None:
    def stop(**numbers: Any) -> None:
        if numbers.get("stage") == "fit" and numbers["done"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(QUICK, tmp_path / "run", callback=stop, **shapes)
    (images / "yellow kite" / "1.png").unlink()
    steps: list[int] = []
    fit(QUICK, tmp_path / "run", callback=lambda **n: steps.append(n.get("step", -1)), **shapes)
    assert [step for step in steps if step >= 0] == list(range(12))
    fit(QUICK, tmp_path / "whole", **shapes)
    assert result(tmp_path / "run") == result(tmp_path / "whole")


def test_fit__two_processes_one_folder(tmp_path: Path, shapes: Shapes) -> None:
    run, refused = tmp_path / "run", []

    def meanwhile(**numbers: Any) -> None:
        if numbers.get("stage") == "fit" and numbers["done"] == 3:
            code = in_a_child(lambda: fit(QUICK, run, **shapes))
            refused.append(code)
            with pytest.raises(RequestError, match=f"in use by process {os.getpid()} on"):
                fit(QUICK, run, **shapes)

    fit(QUICK, run, callback=meanwhile, **shapes)
    assert refused == [99]
    assert check_manifest(run) == []


def test_fit__the_saved_weights_are_unit_prototypes(fitted: Any) -> None:
    weights = load_file(fitted.run / "model" / "classifier.safetensors")["weights"]
    assert weights.shape == (4, 24)
    assert np.linalg.norm(weights, axis=1) == pytest.approx(np.ones(4), abs=1e-5)


def test_fit_and_evaluate__leave_the_prompt_ensemble_out(
    shapes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = ("a template without a place for the class",)
    monkeypatch.setattr("anyclass.run.predict.OPENAI_TEMPLATES", refused)
    run = tmp_path / "run"
    metrics = fit("zero-shot", run, **shapes, prompt_ensemble=False).metrics
    assert metrics["zero_shot_ensemble"] is None
    assert metrics["zero_shot"] == metrics["adapted"]
    assert "many templates" not in (run / "report.html").read_text(encoding="utf-8")
    how = {"device": "cpu", "engine": "torch", "prompt_ensemble": False, "min_score": 0.1}
    found = evaluate(run, shapes["images"], **how)
    assert found["zero_shot_ensemble_accuracy"] is None
    assert found["accuracy"] == pytest.approx(metrics["adapted"]["accuracy"])
