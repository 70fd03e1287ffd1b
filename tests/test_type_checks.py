"""While it is tested, the package checks types: of arguments, of results, the shapes of both."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError, install_import_hook
from type_checks import CALLS, begin_test

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


LOOP = """
from jaxtyping import Float
from torch import Tensor

class Tower:
    @staticmethod
    def first(x: Float[Tensor, "B D"]) -> Float[Tensor, " D"]:
        return x[0]

    def second(self, x: Float[Tensor, "B D"]) -> Float[Tensor, " D"]:
        return x[1]

def third(x: Float[Tensor, "B D"]) -> Float[Tensor, " D"]:
    return x[2]

def outer(count: int, x: Float[Tensor, "..."]):
    def inner(x: Float[Tensor, "B D"]) -> Float[Tensor, " D"]:
        return x[0]
    return [inner(x) for _ in range(count)]

import torch
"""


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """`example(code)`: a module of that code, its types checked; it starts as a test does."""
    monkeypatch.syspath_prepend(tmp_path)

    def module(code: str) -> Any:
        (tmp_path / "checked_example.py").write_text(code)
        with install_import_hook("checked_example", "type_checks.checked"):
            found = importlib.import_module("checked_example")
        begin_test()
        return found

    yield module
    sys.modules.pop("checked_example")
    begin_test()


def test_checked__refuses_wrong_arguments_and_results(example: Callable[[str], Any]) -> None:
    module = example(CODE)
    assert module.plain(1) == "a"
    assert module.pairs(torch.zeros(3, 2), torch.zeros(3), True).shape == (2, 3)
    assert [module.outer(n).shape for n in (3, 4)] == [(3,), (3,)]
    wrong = [
        lambda: module.plain("1"),
        lambda: module.plain(0),
        lambda: module.pairs(torch.zeros(3, 2), torch.zeros(2), True),
        lambda: module.pairs(torch.zeros(3, 2), torch.zeros(3), False),
        lambda: module.outer(2),
    ]
    for call in wrong:
        with pytest.raises(TypeCheckError):
            call()


def test_checked__the_first_calls_of_each_test(example: Callable[[str], Any]) -> None:
    module = example(LOOP)
    good, bad = torch.zeros(3, 2), torch.zeros(3)
    tower = module.Tower()
    for call in (tower.first, module.Tower.first, tower.second, module.third):
        begin_test()
        for _ in range(CALLS - 1):
            call(good)
        with pytest.raises(TypeCheckError):
            call(bad)
        call(good)
        assert call(bad).shape == ()
        begin_test()
        with pytest.raises(TypeCheckError):
            call(bad)


def test_checked__a_function_inside_a_function_always(example: Callable[[str], Any]) -> None:
    module = example(LOOP)
    assert len(module.outer(2 * CALLS, torch.zeros(3, 2))) == 2 * CALLS
    with pytest.raises(TypeCheckError):
        module.outer(1, torch.zeros(3))
