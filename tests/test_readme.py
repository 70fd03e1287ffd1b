"""Every command and every Python block of the README works, on small images and a tiny model."""

import csv
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from anyclass.classifier.classifier import Classifier
from anyclass.cli import COMMANDS, main
from anyclass.exporting.onnx_model import OnnxCheck
from anyclass.run.columns import COMPARED, PREDICTION

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The lines of all shell blocks, as arguments."""
    lines = "\n".join(blocks("sh")).splitlines()
    return [argv for line in lines if (argv := shlex.split(line, comments=True))]


@pytest.fixture
def place(
    tmp_path: Path,
    images: Path,
    names: Path,
    tiny_clip: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """What the README takes for granted; the starter is a tiny model and the demo draws little."""
    for folder in ("photos", "more_photos", "labelled_photos"):
        shutil.copytree(images, tmp_path / folder)
    write_labels(tmp_path / "labels.csv", images, "green ring", "red square")
    write_labels(tmp_path / "checked.csv", images, "yellow kite")
    starter = Path(tiny_clip().removeprefix("local-dir:"))
    monkeypatch.setattr("anyclass.backbone.starter.starter_folder", lambda: starter)
    few = {"bird": "🐓🐔🐤", "shoe": "👞👟"}
    monkeypatch.setattr("anyclass.commands.emoji.IMAGES", few)
    monkeypatch.setattr("anyclass.commands.demo.IMAGES", few)
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("anyclass.backbone.engine._fastest", lambda clip: "torch")
    monkeypatch.setattr("anyclass.commands.serve._serve", lambda *_: None)  # it would not end
    monkeypatch.setattr("anyclass.commands.models._reference_speed", lambda device: 40.0)
    monkeypatch.setattr("anyclass.commands.models._starter_speed", lambda device: 66.0)
    monkeypatch.setattr("anyclass.commands.export.write_onnx", write_nothing)  # it takes seconds
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_nothing(classifier: Classifier, path: Path, *_: object) -> OnnxCheck:
    path.touch()
    return OnnxCheck(4, {"probabilities": 0.0})


def write_labels(table: Path, images: Path, *classes: str) -> None:
    files = [path.relative_to(images) for path in sorted(images.glob("*/*"))]
    rows = [f"{file.as_posix()},{file.parent}" for file in files if file.parent.name in classes]
    table.write_text("\n".join(["file_name,label", *rows]) + "\n")


def test_readme__says_that_the_starter_is_weak_before_the_first_command() -> None:
    before = " ".join(README.split("```")[0].split())
    mention = before.index("`starter`")
    said = before.index("The starter is weak: use it for first tries")
    assert mention < said < mention + 250
    assert "docs/models.md" in before


def test_readme__every_command_works(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = [argv[1:] for argv in commands() if argv[0] == "anyclass"]
    assert {argv[0] for argv in ours} == set(COMMANDS), "the README shows every command"
    for argv in ours:
        assert main(argv) == 0, argv
        assert capsys.readouterr().out
    assert Path("predictions.csv").read_text().count("\n") == 1 + 14
    assert Path("demo-run/report.html").is_file()


def test_predictions__go_back_in_as_labels(place: Path) -> None:
    request = ["--images", "photos", "--classes", "names.txt"]
    assert main(["fit", "zero-shot", *request, "--out", "run"]) == 0
    again = [*request, "--labels", "run/predictions.csv", "--out", "run2"]
    assert main(["fit", "zero-shot", *again]) == 0
    with Path("run/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with Path("run2/predictions.csv").open(newline="") as file:
        assert {row["true_label"] for row in csv.DictReader(file)} == {""}, "predictions alone"
    for row in rows[:5]:
        row["confirmed"] = "yes"
    with Path("checked.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    again = ["--from", "run", "--labels", "checked.csv", "--out", "run3"]
    assert main(["fit", "zero-shot", *again]) == 0
    with Path("run3/predictions.csv").open(newline="") as file:
        labels = [row["true_label"] for row in csv.DictReader(file)]
    assert labels == [row["label"] for row in rows[:5]] + [""] * 9


def test_readme__every_python_block_works(place: Path) -> None:
    for code in blocks("python"):
        found: dict[str, object] = {}
        exec(compile(code, "README.md", "exec"), found)
        assert found["probabilities"].shape == (14, 4)  # type: ignore[attr-defined]
        assert found["labels"].labels[0] in found["run"].classes_  # type: ignore[attr-defined]
    assert Path("saved_run/manifest.json").is_file()


def test_readme__every_other_line_is_known() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    for argv in commands():
        if argv[0] == "make":
            done = subprocess.run([*argv[:1], "-n", *argv[1:]], cwd=ROOT, capture_output=True)
            assert done.returncode == 0, done.stderr
        else:
            words = argv[1:] if argv[0] == "uv" else argv
            assert argv[0] == "anyclass" or words[:2] == ["pip", "install"]
    wanted = set(re.findall(r"(?:anyclass|\.)\[(\w+)\]", README))
    assert wanted
    assert wanted <= extras
    for target in ("demo", "test"):
        assert ["make", target] in commands()


def test_readme__describes_every_column_of_predictions() -> None:
    page = README.split("## predictions.csv")[1].split("\n## ")[0]
    head = re.findall(r"^\| (file_name \|.+) \|$", page, re.MULTILINE)[0]
    assert [cell.strip() for cell in head.split("|")] == COMPARED.names
    cells = re.findall(r"^\| (`.+?`) \| ", page, re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(cells)) == COMPARED.names
    assert "first twelve columns" in page
    assert len(PREDICTION.names) == 12


def test_readme__the_files_of_a_run_are_those_of_a_run(fitted: object) -> None:
    said = README.split("A run folder holds")[1].split("A run that discovered")[0]
    named = set(re.findall(r"`([\w.]+)/?`", said))
    run: Path = fitted.run  # type: ignore[attr-defined]
    assert named == {path.name for path in run.iterdir() if not path.name.startswith(".")}
    with (run / "predictions.csv").open(newline="") as file:
        assert csv.DictReader(file).fieldnames == COMPARED.names
