"""`export`: a finished run in other tools, checks before work, nothing overwritten."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import anyclass
from anyclass.cli import main
from anyclass.commands import export as module
from anyclass.commands.export import export
from anyclass.commands.fit import fit
from anyclass.errors import RequestError
from anyclass.exporting.onnx_model import OnnxCheck
from anyclass.files import check_manifest

KNOWN = "green ring/2.jpg"
Screen = pytest.CaptureFixture[str]


def test_export__everything_but_onnx(fitted: Any, tmp_path: Path) -> None:
    files = {"fiftyone": tmp_path / "fo.json", "label_studio": tmp_path / "tasks.json"}
    folders = {name: tmp_path / name for name in ("folders", "open_clip", "cleanlab")}
    said = export(fitted.run, **files, **folders)
    assert set(said) == {*files, *folders, "notes"}
    labelled = [r for r in pq.read_table(fitted.run / "predictions.parquet").to_pylist()]
    count = sum(row["status"] != "rejected" for row in labelled)
    assert said["fiftyone"]["samples"] == said["label_studio"]["tasks"] == count == 13
    assert said["folders"]["hard_links"] + said["folders"]["symbolic_links"] == count
    assert said["cleanlab"]["images"] == count
    names = json.loads((fitted.run / "classes.json").read_text("utf-8"))["names"]
    assert np.load(folders["cleanlab"] / "pred_probs.npy").shape == (count, len(names))
    assert said["open_clip"] == {
        "folder": str(folders["open_clip"]),
        "image_features": 0.0,
        "text_features": 0.0,
    }
    assert open_clip.create_model(f"local-dir:{folders['open_clip']}")
    assert "left out 1 row without a label" in said["notes"]
    assert check_manifest(fitted.run) == []


def test_export__predictions_of_other_images(fitted: Any, images: Path, tmp_path: Path) -> None:
    table = tmp_path / "new.csv"
    anyclass.predict(fitted.run, images, table)
    (images / "red square" / "0.jpg").unlink()
    said = export(fitted.run, folders=tmp_path / "out", images=images, predictions=table)
    assert said["folders"]["hard_links"] + said["folders"]["symbolic_links"] == 13
    assert said["notes"] == ["left out 1 row without an image"]


def test_export__images_that_torchvision_leaves_out(fitted: Any, tmp_path: Path) -> None:
    for name in ("a.HEIC", "b.gif", "c.jpg"):
        (tmp_path / name).write_bytes(b"x")
    table = tmp_path / "new.csv"
    table.write_text("file_name,label,score\na.HEIC,x,1\nb.gif,x,1\nc.jpg,x,1\n", encoding="utf-8")
    out = tmp_path / "out"
    said = export(fitted.run, folders=out, images=tmp_path, predictions=table)
    (note,) = said["notes"]
    assert f"leaves out 2 images in {out} by the ending (.gif, .heic)" in note


def test_export__cleanlab_of_other_labelled_images(
    fitted: Any, images: Path, tmp_path: Path
) -> None:
    said = export(fitted.run, cleanlab=tmp_path / "arrays", images=images, labels="folders")
    assert said["cleanlab"]["images"] == 14
    assert said["cleanlab"]["trained_on"] == 0
    assert said["notes"] == []


@pytest.mark.parametrize("labels", [None, "folders"])
def test_export__cleanlab_is_told_which_labels_were_trained_on(
    fitted: Any, tmp_path: Path, labels: str | None
) -> None:
    """Also where the folder of the run is given again."""
    run = Path(shutil.copytree(fitted.run, tmp_path / "run"))
    table = pq.read_table(run / "predictions.parquet")
    known = pc.equal(table["file_name"], KNOWN)
    status = pc.if_else(known, "given", table["status"])
    table = table.set_column(table.column_names.index("status"), "status", status)
    pq.write_table(table, run / "predictions.parquet")
    images = None if labels is None else fitted.images
    said = export(run, cleanlab=tmp_path / "arrays", images=images, labels=labels)
    assert said["cleanlab"]["trained_on"] == 1
    assert np.load(tmp_path / "arrays" / "trained_on.npy").sum() == 1
    assert said["notes"][0].startswith("1 of 13 labels in")


def test_export__a_target_that_cannot_be_stops_all(
    fitted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> None:
        raise RequestError("not trained")

    monkeypatch.setattr(module, "check_trained", refuse)
    with pytest.raises(RequestError, match="not trained"):
        export(fitted.run, open_clip=tmp_path / "model", folders=tmp_path / "sorted")
    assert list(tmp_path.iterdir()) == []


def test_export__onnx_gets_images_of_the_run(
    fitted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def write(classifier: Any, path: Path, images: list[Any]) -> OnnxCheck:
        seen.append([image.size for image in images])
        return OnnxCheck(12, {"probabilities": 1e-7})

    monkeypatch.setattr(module, "write_onnx", write)
    said = export(fitted.run, onnx=tmp_path / "model.onnx")
    assert len(seen[0]) == 7  # of the first 8, one is damaged
    assert said["onnx"]["largest_difference"] == {"probabilities": 1e-7}


def test_export__hub_gets_the_files_of_the_run(
    fitted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def upload(*given: Any) -> dict[str, str]:
        asked.extend(given)
        return {"repository": given[1], "url": "https://hub/x", "commit": "c"}

    monkeypatch.setattr(module, "upload", upload)
    said = export(fitted.run, hub="someone/shapes", revision="v2", public=True)
    assert asked[:2] == [fitted.run / "model", "someone/shapes"]
    assert asked[2] == (fitted.run / "model" / "README.md").read_text("utf-8")
    assert asked[3:] == ["v2", False]
    assert said["hub"]["url"] == "https://hub/x"
    assert any("needs the model at the same place" in note for note in said["notes"])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({}, "nothing to export: give one of --onnx FILE"),
        ({"onnx": "model.pt"}, r"--onnx model.pt: the file name must end in .onnx"),
        ({"fiftyone": "there.json"}, "there.json exists already: give another path to --fiftyone"),
        ({"label_studio": "half.json"}, "half.xml exists already"),
        ({"folders": "full"}, "--folders full: give a new folder, or an empty one"),
        ({"cleanlab": "there.json"}, "--cleanlab there.json: give a new folder"),
        (
            {"fiftyone": "a.json", "label_studio": "a.json"},
            "--label-studio and --fiftyone are both a.json: give each its own path",
        ),
        ({"hub": "no-owner"}, "'no-owner' is no repository of the hub: give OWNER/NAME"),
    ],
)
def test_export__refuses_before_anything_is_computed(
    fitted: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    targets: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "load_classifier", lambda *_: pytest.fail("it was loaded"))
    (tmp_path / "there.json").write_text("mine", encoding="utf-8")
    (tmp_path / "half.xml").write_text("mine", encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(RequestError, match=message):
        export(fitted.run, **targets)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert (tmp_path / "there.json").read_text("utf-8") == "mine"


def test_export__no_run(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="contains no run"):
        export(tmp_path, onnx=tmp_path / "model.onnx")


def test_export__images_that_moved(fitted: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(fitted.run, run)
    config = json.loads((run / "config.json").read_text("utf-8"))
    config["images"] = str(tmp_path / "moved")
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(RequestError, match="moved is no folder: give --images DIR"):
        export(run, folders=tmp_path / "out")
    said = export(run, folders=tmp_path / "out", images=fitted.images)
    assert said["folders"]["folder"] == str(tmp_path / "out")


def test_export__images_that_were_taken_out(fitted: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(fitted.run, run)
    config = json.loads((run / "config.json").read_text("utf-8"))
    (run / "config.json").write_text(json.dumps(config | {"images": None}), encoding="utf-8")
    with pytest.raises(RequestError, match="does not say where they are: give --images DIR"):
        export(run, cleanlab=tmp_path / "arrays")
    assert not (tmp_path / "arrays").exists()


def test_export__a_run_of_features_says_what_it_lacks(tmp_path: Path) -> None:
    x = np.random.Generator(np.random.PCG64(0)).normal(size=(30, 6)).astype(np.float32)
    labels = np.array(["a", "b", "c"])[np.arange(30) % 3]
    np.savez(tmp_path / "features.npz", x=x, labels=labels)
    run = tmp_path / "run"
    fit("auto", run, features=tmp_path / "features.npz")
    for target in ("onnx", "open_clip", "cleanlab"):
        path = tmp_path / ("model.onnx" if target == "onnx" else target)
        with pytest.raises(RequestError, match="has no model that reads images"):
            export(run, **{target: path})
    with pytest.raises(RequestError, match="it was fitted on features: give --images DIR"):
        export(run, folders=tmp_path / "out")


def test_command__lines_for_people(fitted: Any, tmp_path: Path, capsys: Screen) -> None:
    out = tmp_path / "out"
    assert main(["export", "--run", str(fitted.run), "--folders", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"folders       {out}: 13 hard and 0 symbolic links",
        "note          left out 1 row without a label",
    ]
    assert main(["export", "--run", str(fitted.run), "--folders", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"anyclass: --folders {out}: give a new folder, or an empty one\n"
    )


def test_command__onnx_line(
    fitted: Any, tmp_path: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = OnnxCheck(12, {"probabilities": 3.2e-7})
    monkeypatch.setattr(module, "write_onnx", lambda *_: check)
    path = tmp_path / "model.onnx"
    assert main(["export", "--run", str(fitted.run), "--onnx", str(path)]) == 0
    assert capsys.readouterr().out == (
        f"onnx          {path}: differs from PyTorch by at most 3e-07 on 12 images\n"
    )
