"""While it is tested, the package checks types: of arguments, of results, the shapes of both."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError, install_import_hook

CODE = """
from jaxtyping import Float
from torch import Tensor

def plain(n: int) -> str:
    return "a" if n else n

def pairs(x: Float[Tensor, "B D"], y: Float[Tensor, "B"], good: bool) -> Float[Tensor, "D B"]:
    return x.T if good else x

def outer(n: int):
    def inner(x: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
        return x[:n]
    return inner(torch.zeros(3))

import torch
"""


def test_checked__refuses_wrong_arguments_and_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checked_example.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    with install_import_hook("checked_example", "type_checks.checked"):
        example = importlib.import_module("checked_example")
    sys.modules.pop("checked_example")
    assert example.plain(1) == "a"
    assert example.pairs(torch.zeros(3, 2), torch.zeros(3), True).shape == (2, 3)
    assert [example.outer(n).shape for n in (3, 4)] == [(3,), (3,)]
    wrong = [
        lambda: example.plain("1"),
        lambda: example.plain(0),
        lambda: example.pairs(torch.zeros(3, 2), torch.zeros(2), True),
        lambda: example.pairs(torch.zeros(3, 2), torch.zeros(3), False),
        lambda: example.outer(2),
    ]
    for call in wrong:
        with pytest.raises(TypeCheckError):
            call()
