"""Flags into an instance of a class, or into a call that waits to be made."""

import re
import sys
from contextlib import redirect_stderr
from functools import partial, wraps
from io import StringIO
from typing import Any

import tyro
from pydantic import ValidationError

from anyclass.commands.command_line import did_you_mean
from anyclass.errors import RequestError


def parse(what: Any, flags: list[str], program: str) -> Any:
    """Let tyro read the flags of a command.

    Args:
        what: a class whose fields are the flags, or a function whose arguments are.
        flags: the words of the command line behind the command.
        program: the words in front of them.

    Returns:
        An instance of the class, or the function with its arguments, to be called.

    Raises:
        RequestError: a value is refused, in the words of pydantic or tyro.
        SystemExit: tyro has printed its help.
    """

    @wraps(what)
    def later(*values: Any, **named: Any) -> Any:
        return partial(what, *values, **named)

    said = StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(what if isinstance(what, type) else later, args=flags, prog=program)
    except (SystemExit, ValidationError) as end:
        cause: BaseException | None = end
        while cause is not None and not isinstance(cause, ValidationError):
            cause = cause.__context__
        if cause is not None:  # pydantic's words instead of tyro's box around them
            from anyclass.commands.request import first_problem  # loads PyTorch

            raise RequestError(first_problem(cause)) from cause
        if isinstance(end, SystemExit) and not end.code:  # tyro has shown its help
            print(said.getvalue(), end="", file=sys.stderr)
            raise
        raise RequestError(f"{_sentence(said.getvalue())}`{program} --help` shows all") from end


def _sentence(box: str) -> str:
    """What tyro says in a box, as one line, with a guess at what was meant.

    The box is drawn with hyphens on a terminal that knows ASCII only.
    """
    lines = [line.strip("│|╭╮╰╯─+ ") for line in box.splitlines()[1:]]
    told = [line for line in lines if not re.search(r"^For full helptext|--help$|^-+$", line)]
    first, *_ = re.split(r" Argument helptext:| Got errors:", " ".join(filter(None, told)))
    sentence = _plain(first.rstrip(". "))
    choice = re.search(r"invalid choice '(.*?)'.*?\((.*)\)", sentence)
    words = re.findall(r"'(.*?)'", choice.group(2)) if choice else []
    hint = did_you_mean(choice.group(1), words) if choice else ""
    return f"{sentence}. {hint.replace('did', 'Did')}"


_KINDS = {"INT": "a whole number", "FLOAT": "a number"}
"""Type of a flag in tyro's words -> in words of people."""

_REFUSED = (
    (r"invalid literal for int\(\) with base 10: (?P<got>.*)", "INT"),
    (r"could not convert string to float: (?P<got>.*)", "FLOAT"),
    (r"no type matching (?P<kinds>.*) could be instantiated from \[(?P<got>.*)\]", ""),
)
"""What Python or tyro says of a value, and the type of the flag."""


def _plain(sentence: str) -> str:
    """What is wrong with the value of a flag, in words of people instead of Python's."""
    for pattern, kind in _REFUSED:
        found = re.fullmatch(rf"Error parsing (?P<flag>\S+): {pattern}", sentence)
        if found:
            kinds = found.groupdict().get("kinds", kind).replace("{None}|", "").split("|")
            wanted = " or ".join(_KINDS.get(name, name.strip("{}")) for name in kinds)
            return f"{found['flag']}: give {wanted}, not {found['got']}"
    return sentence
