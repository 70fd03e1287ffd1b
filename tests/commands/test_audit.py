"""`audit` and `plan --audit`: what is found by the real commands, and what is written."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

import anyclass
from anyclass.cli import main
from anyclass.commands.audit import ORDER, audit
from anyclass.commands.fit import fit
from anyclass.commands.plan import plan
from anyclass.errors import RequestError

Screen = pytest.CaptureFixture[str]


@pytest.fixture
def messy(images: Path) -> Path:
    """The labelled shapes, with a copy under another label, a dark, an empty and a broken image."""
    shutil.copy(images / "blue disc" / "0.jpg", images / "red square" / "copy.jpg")
    Image.new("RGB", (50, 40), (9, 9, 9)).save(images / "blue disc" / "dark.png")
    (images / "blue disc" / "broken.png").write_bytes(b"no image")
    return images


@pytest.fixture
def evaluation(images: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    shutil.copy(images / "red square" / "1.png", folder / "again.png")
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "new.png")
    return folder


def test_audit__finds_what_is_wrong(
    messy: Path, evaluation: Path, shapes: dict[str, Any], tmp_path: Path
) -> None:
    found = anyclass.audit(evaluation=evaluation, out=tmp_path / "found", **shapes)
    files = {issue: [row["file_name"] for row in found[issue]] for issue in ORDER}
    assert files["in-evaluation"] == ["red square/1.png"]
    assert files["conflicting-labels"] == ["blue disc/0.jpg", "red square/copy.jpg"]
    assert files["exact-copies"] == ["red square/copy.jpg"]
    assert files["unreadable"] == ["blue disc/broken.png"]
    assert files["dark"] == ["blue disc/dark.png"]
    assert "blue disc/dark.png" in files["uninformative"]
    assert {row["issue"] for row in found.rows} <= set(ORDER)
    with (tmp_path / "found" / "audit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["issue"], row["file_name"]) for row in rows] == [
        (row["issue"], row["file_name"] or "") for row in found.rows
    ]
    with pytest.raises(RequestError, match=r"audit\.csv exists"):
        audit(out=tmp_path / "found", **shapes)


def test_audit__without_the_model(
    messy: Path, shapes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyclass.commands.request.Request.backbone", None)
    found = audit(model_checks=False, **shapes)
    assert found["dark"]
    assert found["suspicious-label"] == found["never-predicted"] == []


def test_audit__of_labels_that_are_not_listed(
    images: Path, shapes: dict[str, Any], tmp_path: Path, capsys: Screen
) -> None:
    repeated = ("kite", "kite")
    shapes |= {"classes": ("red square", "Blue Discs", "green diamond", *repeated)}
    found = audit(model_checks=False, **shapes)
    rows = found["label-not-in-list"]
    assert {(row["label"], row["other"]) for row in rows} >= {("blue disc", "Blue Discs")}
    with pytest.raises(RequestError, match=r"not in the list.*--audit DIR` lists"):
        plan(**shapes)
    with pytest.raises(RequestError, match=r"not in the list.*listed in .*audit\.csv"):
        plan(audit=tmp_path / "found", audit_model=False, **shapes)
    with (tmp_path / "found" / "audit.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) >= len(rows)


def test_plan__looks_at_files_without_decoding_them(
    messy: Path, evaluation: Path, shapes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyclass.data.image.open_bytes", None)
    monkeypatch.setattr("anyclass.commands.request.Request.backbone", None)
    found = plan(evaluation=evaluation, **shapes)["audit"]
    issues = [finding["issue"] for finding in found["findings"]]
    assert issues == ["in-evaluation", "conflicting-labels", "exact-copies"]
    assert found["out"] is None
    assert not list(messy.rglob("audit*"))


def test_plan__audits_on_the_command_line(
    messy: Path, evaluation: Path, shapes: dict[str, Any], tmp_path: Path, capsys: Screen
) -> None:
    out = tmp_path / "found"
    line = ["plan", "--images", str(messy), "--labels", "folders", "--model", shapes["model"]]
    line += ["--engine", "torch", "--audit", str(out), "--eval", str(evaluation)]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "1 image of the evaluation folder is a copy of an image to fit on" in said
    assert said.endswith(f": {out}/audit.csv, {out}/audit.json\n")
    assert main(line) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*line, "--overwrite", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["audit"]
    written = json.loads((out / "audit.json").read_text())
    assert shown["findings"] == written["findings"]


def test_audit__of_features(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    centres = 4 * draw.normal(size=(3, 11))
    truth = np.repeat(np.arange(3), 12)
    x = centres[truth] + draw.normal(size=(36, 11))
    labels = truth.copy()
    labels[5] = 2
    names = ["kite", "boat", "Kites"]
    table = [names[c] for c in labels]
    found = audit(features=x.astype(np.float32), labels=table, classes=names)
    kites = [int(row["file_name"].split()[-1]) for row in found["similar-names"]]
    assert kites == np.flatnonzero(labels == 2).tolist()
    assert [row["other"] for row in found["suspicious-label"]] == ["kite"]
    asked = {"features": x.astype(np.float32), "labels": table, "classes": names}
    (finding,) = plan(**asked)["audit"]["findings"]
    assert finding["issue"] == "similar-names"
    for command in (plan, audit):
        with pytest.raises(RequestError, match="--eval compares images"):
            command(evaluation=tmp_path, **asked)


def test_audit__texts_that_are_alike_or_cut(images: Path, shapes: dict[str, Any]) -> None:
    long = "red square " + "red " * 40
    shapes |= {"classes": ("red square", "red  square", "blue disc", long.strip()), "labels": None}
    found = audit(**shapes)
    assert [row["label"] for row in found["equal-text"]] == ["red  square"]
    assert [row["label"] for row in found["cut-name"]] == [long.strip()]
    assert [row["label"] for row in found["similar-names"]] == ["red  square"]
    never = [row["label"] for row in found["never-predicted"]]
    assert "red  square" in never, "of two equal texts the second never wins"


def test_audit__lists_the_labelled_files_of_equal_texts(
    images: Path, shapes: dict[str, Any]
) -> None:
    """The second of two equal texts is never predicted, so its images are found by file."""
    (images / "blue disc").rename(images / "red  square")
    shapes |= {"classes": ("red square", "red  square", "yellow kite", "green ring")}
    found = audit(**shapes)
    files = sorted(path.relative_to(images).as_posix() for path in images.glob("red  square/*"))
    for issue in ("equal-text", "never-predicted", "similar-names"):
        second = [row for row in found[issue] if row["label"] == "red  square"]
        assert [row["file_name"] for row in second] == files, issue
    assert "\n  red  square (red square)\n" in str(found)


def test_audit__finds_a_wrong_label_of_an_image(tmp_path: Path, shapes: dict[str, Any]) -> None:
    """Discs of two colours, one of them in the folder of the other colour."""
    for name, colour in (("red disc", (210, 30, 30)), ("green disc", (20, 170, 60))):
        (tmp_path / "discs" / name).mkdir(parents=True)
        for i in range(8):
            disc = Image.new("RGB", (40 + i, 36), (8 * i, 60, 90))
            ImageDraw.Draw(disc).ellipse((4, 3, 33, 30), fill=colour)
            disc.save(tmp_path / "discs" / name / f"{i}.png")
    wrong = tmp_path / "discs" / "red disc" / "8.png"
    (tmp_path / "discs" / "green disc" / "5.png").rename(wrong)
    shapes |= {"images": tmp_path / "discs", "classes": ("red disc", "green disc")}
    row, *others = audit(**shapes)["suspicious-label"]
    assert (row["file_name"], row["label"]) == ("red disc/8.png", "red disc")
    assert row["other"] == "green disc"
    assert all(row["value"] < other["value"] / 2 for other in others), "the clearest stands on top"


@pytest.fixture
def labelled_run(images: Path, shapes: dict[str, Any], tmp_path: Path) -> Path:
    """A run with all labels of two classes; the other two are named."""
    files = [path for path in sorted(images.rglob("*.*")) if path.parent.name[0] in "rb"]
    rows = [f"{path.relative_to(images).as_posix()},{path.parent.name}" for path in files]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["file_name,label", *rows]) + "\n")
    fit("auto", tmp_path / "run", **shapes | {"labels": table})
    return tmp_path / "run"


def test_evaluate__knows_images_of_the_fit_by_content(
    labelled_run: Path, images: Path, tmp_path: Path
) -> None:
    """Copies under other names: labels that were trained on are left out, the others are said."""
    other = tmp_path / "other"
    trained_on = 0
    for folder in sorted(path for path in images.iterdir() if path.is_dir()):
        (other / folder.name).mkdir(parents=True)
        for i, path in enumerate(sorted(folder.iterdir())):
            shutil.copy(path, other / folder.name / f"renamed{i}{path.suffix}")
            trained_on += folder.name[0] in "rb"
    result = anyclass.evaluate(labelled_run, other, engine="torch")
    assert result["n"] == 14 - trained_on
    assert f"left out {trained_on} labels that the run was trained on" in result["warnings"]
    assert any(
        f"{14 - trained_on} of {14 - trained_on} images are images of the fit" in w
        for w in result["warnings"]
    )
    for path in list(other.rglob("*.*")):
        if path.parent.name[0] not in "rb":
            path.unlink()
    result = anyclass.evaluate(labelled_run, other, engine="torch")
    assert any(warning.startswith("every label was trained on") for warning in result["warnings"])


def test_fit__says_that_files_have_the_same_content(
    messy: Path, shapes: dict[str, Any], tmp_path: Path, capsys: Screen
) -> None:
    fit("zero-shot", tmp_path / "run", **shapes, prompt_ensemble=False)
    said = capsys.readouterr().err.splitlines()
    (line,) = [line for line in said if "copy of 1 other image" in line]
    assert "different labels" in line
    assert "`anyclass plan --audit DIR` lists them" in line
