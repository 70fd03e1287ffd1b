"""The type checker that jaxtyping's import hook applies to each function of the package.

jaxtyping makes two functions of each signature, one that checks the parameters before a call and
one that checks them again, with the result, after it. Here the second checks the result alone (the
axes that the parameters bound are still known), and checks of a function inside a function are
made once, not in each call of the outer one.

In each test the first `CALLS` calls of a function are checked, not the many that follow in a loop
of training; `begin_test` starts the count again.
"""

import sys
from collections import Counter
from collections.abc import Callable
from types import FunctionType
from typing import Any

from beartype import beartype

CALLS = 2
"""How many calls of a function are checked in a test."""

_made: dict[Any, Callable[..., Any]] = {}
_calls: Counter[tuple[str, str]] = Counter()
"""Checked calls in this test, by module and qualified name."""
_unchecked: set[FunctionType] = set()
"""Functions that were called often enough in this test."""


def begin_test() -> None:
    """Check the next `CALLS` calls of each function."""
    _calls.clear()
    while _unchecked:
        del _unchecked.pop().__no_type_check__


def checked(signature: Callable[..., Any]) -> Callable[..., Any]:
    """Make the checks of one signature: of its parameters, or of its result."""
    hints = signature.__annotations__
    if hints.get("return", Any) is not Any:
        signature.__annotations__ = {"return": hints["return"]}
        return _check(signature)
    return _counted(_check(signature))


def _counted(check: Callable[..., Any]) -> Callable[..., Any]:
    """Check parameters and count the call; after `CALLS` of them its function is left alone."""
    place = (check.__module__, check.__qualname__)

    def check_and_count(*args: Any, **kwargs: Any) -> None:
        check(*args, **kwargs)
        _calls[place] += 1
        if _calls[place] >= CALLS:
            _leave_alone(*place)

    return check_and_count


def _leave_alone(module: str, qualname: str) -> None:
    """Mark a function as one that jaxtyping calls without a check.

    What is not found by its name is still checked: a function in a function, one behind a cache.
    """
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(name)
        found = getattr(found, "__func__", None) or getattr(found, "fget", None) or found
    if isinstance(found, FunctionType):
        found.__no_type_check__ = True
        _unchecked.add(found)


def _check(signature: Callable[..., Any]) -> Callable[..., Any]:
    """Beartype's check of a signature, made once for a function inside a function."""
    if "<locals>" not in signature.__qualname__:
        return beartype(signature)
    hints, names = signature.__annotations__, signature.__code__.co_varnames
    key = (signature.__module__, signature.__qualname__, names, tuple(hints.items()))
    try:
        if key not in _made:
            _made[key] = beartype(signature)
    except TypeError:  # a hint that cannot be hashed
        return beartype(signature)
    return _made[key]
