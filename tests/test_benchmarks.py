"""Files of benchmarks/ and scripts/ can be imported, and each benchmark prints its help."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
FILES = sorted([*BENCHMARKS.glob("*.py"), *(ROOT / "scripts").glob("*.py")])
COMMANDS = [file for file in FILES if file.parent == BENCHMARKS and "__main__" in file.read_text()]


@pytest.fixture(autouse=True)
def _modules_of_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks import each other as scripts do, from their own folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file__can_be_imported(file: Path) -> None:
    assert runpy.run_path(str(file), run_name="imported")["__doc__"]


@pytest.mark.parametrize("file", COMMANDS, ids=lambda file: file.name)
def test_benchmark__prints_its_help(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(file), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(file), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {file.name}")
