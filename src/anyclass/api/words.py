"""Messages in the words of Python: `labels=...` where the command line says `--labels FILE`."""

import json
import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from anyclass.errors import AnyclassError, ImageError

_FLAG = re.compile(
    r"(?<![\w-])--(no-)?([a-z][a-z-]*[a-z])"
    r"(?: ([A-Z][A-Z_|]*|\d[\d.]*|auto\b|folders\b|[a-z]+(?:,[a-z]+)+))?"
)
_COMMAND = re.compile(r"(`anyclass [^`]*`)")
_SWITCHES = {"overwrite", "allow-pickle"}
_RENAMED = {"from": "from_run"}

P = ParamSpec("P")
T = TypeVar("T")


def in_python(message: str) -> str:
    """Write flags as arguments; whole commands in backticks stay."""
    parts = _COMMAND.split(message)
    parts[::2] = [_FLAG.sub(_argument, part) for part in parts[::2]]
    return "".join(parts)


def names_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Let the errors of a function name arguments instead of flags."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except ImageError:
            raise
        except AnyclassError as error:
            error.args = tuple(in_python(str(part)) for part in error.args)
            raise

    return call


def _argument(flag: re.Match[str]) -> str:
    """An argument with its value."""
    no, word, value = flag.groups()
    name = _RENAMED.get(word, word.replace("-", "_"))
    if no:
        return f"{name}=False"
    if word in _SWITCHES:
        return f"{name}=True"
    if not value:
        return name
    if value[0].isdigit():
        return f"{name}={value}"
    if "," in value:
        return f"{name}={json.dumps(value.split(','))}"
    return f"{name}=..." if value.isupper() else f'{name}="{value}"'
