"""The type checker that jaxtyping's import hook applies to each function of the package.

jaxtyping makes two functions of each signature, one that checks the parameters before a call and
one that checks them again, with the result, after it. Here the second checks the result alone (the
axes that the parameters bound are still known), and checks of a function inside a function are
made once, not in each call of the outer one.
"""

from collections.abc import Callable
from typing import Any

from beartype import beartype

_made: dict[Any, Callable[..., Any]] = {}


def checked(signature: Callable[..., Any]) -> Callable[..., Any]:
    """Make the checks of one signature: of its parameters, or of its result."""
    hints = signature.__annotations__
    if hints.get("return", Any) is not Any:
        signature.__annotations__ = hints = {"return": hints["return"]}
    if "<locals>" not in signature.__qualname__:
        return beartype(signature)
    names = signature.__code__.co_varnames
    key = (signature.__module__, signature.__qualname__, names, tuple(hints.items()))
    try:
        if key not in _made:
            _made[key] = beartype(signature)
    except TypeError:  # a hint that cannot be hashed
        return beartype(signature)
    return _made[key]
