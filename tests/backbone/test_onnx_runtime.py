"""ONNX Runtime is imported in one place."""

import ast
from pathlib import Path

import pytest

import anyclass
from anyclass.backbone import onnx_runtime
from anyclass.errors import RequestError
from tests.source import nodes

PACKAGE = Path(anyclass.__file__).parent


def imported(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, in functions too."""
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(f"{node.module}".split(".")[0])
    return names


def test_onnxruntime__is_imported_in_one_place() -> None:
    found = [path.name for path in PACKAGE.rglob("*.py") if "onnxruntime" in imported(path)]
    assert found == ["onnx_runtime.py"]


def test_onnx_runtime__not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runtime, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"ONNX export is not installed: pip install 'anyclass"):
        onnx_runtime.onnx_runtime("ONNX export")
