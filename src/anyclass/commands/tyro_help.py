"""What tyro's help says of a command: the text on top, and its options in groups."""

import os
import re
from contextlib import redirect_stdout, suppress
from io import BytesIO, TextIOWrapper
from typing import Any, NamedTuple
from unittest.mock import patch

import tyro

TYRO_WIDTH = "128"
"""Columns of tyro's pages: the most at which it puts its boxes below each other."""


CHOICE = "One of {}. `--{} NAME --help` shows the options of each."
"""Help of an option that chooses a part."""


class Option(NamedTuple):
    """One option."""

    names: str
    """Its name with hyphens; a switch has two, separated by a comma."""
    metavar: str
    """What stands behind it."""
    help: str
    """What it does."""

    @property
    def name(self) -> str:
        """The first name, without hyphens."""
        return self.names.split(",")[0].removeprefix("--")


class Group(NamedTuple):
    """The options that tyro shows in one box."""

    title: str
    """Name of the part that they belong to; empty for the command itself."""
    about: str
    """What is said of them all."""
    options: list[Option]
    """The options, in the order of their declaration."""


def tyro_groups(declared: Any) -> tuple[str, list[Group]]:
    """What tyro's help says of a command: the text on top, and the options in their boxes."""
    shown = BytesIO()
    screen = TextIOWrapper(shown, encoding="utf-8", write_through=True)  # UTF-8: boxes are drawn
    with (
        patch.dict(os.environ, {"COLUMNS": TYRO_WIDTH}),
        redirect_stdout(screen),
        suppress(SystemExit),
    ):
        tyro.cli(declared, args=["--help"], prog="anyclass")
    head, *boxes = shown.getvalue().decode().split("╭─ ")
    about = head.partition("\n\n")[2].strip()
    return about, [_group(box) for box in boxes]


def _group(box: str) -> Group:
    """One box of tyro's help."""
    first, *lines = box.splitlines()
    title = first.partition("─")[0].strip().removesuffix("options").strip()
    rows = [line.strip("│ ") for line in lines if line.startswith("│")]
    about = ""
    for at, row in enumerate(rows):
        if row.startswith("───"):  # what stands above the rule is said of all options
            about = " ".join(rows[:at]).strip()
            rows = rows[at + 1 :]
            break
    found = list[Option]()
    for row in rows:
        if row.startswith("-"):
            head, *text = re.split(r"\s{2,}", row, maxsplit=1)
            found.append(_option(head, *text))
        else:
            last = found.pop()
            found.append(last._replace(help=f"{last.help} {row}".strip()))
    options = [_tidy(option) for option in found if "--help" not in option.names]
    if choice := re.search(r"--([\w-]+) NAME takes one of: (.+)\.$", about):
        options.insert(0, choice_of(choice[1], choice[2]))
        about = about[: choice.start()].strip()
    return Group(title, about, options)


def _option(head: str, text: str = "") -> Option:
    """An option from tyro's `--flag META` or `--flag, --no-flag`, and its help."""
    if ", " in head:
        return Option(head, "", text)
    name, _, metavar = head.partition(" ")
    return Option(name, metavar, text)


def choice_of(part: str, kinds: str) -> Option:
    """The option that chooses a part of a method or a command."""
    return Option(f"--{part}", "NAME", CHOICE.format(kinds, part))


def _tidy(option: Option) -> Option:
    """An option without what says nothing: the default None, both names of a switch that is off."""
    metavar = option.metavar.replace("PATH|STR", "PATH").replace("{None}|", "")
    metavar = metavar.replace("STR", "TEXT").replace("{auto}", "auto")
    metavar = re.sub(r"\[(.+) \[\1 \.\.\.\]\]", r"\1 ...", metavar)
    text = re.sub(r" *\(default: (None|False|''|\['None'\]|)\)$", "", option.help)
    text = text.replace("(default: True)", "(default: on)")
    text = re.sub(r"\(default: \['(.*)'\]\)$", r"(default: \1)", text)
    off = option.help.endswith("(default: False)")
    names = option.names.partition(",")[0] if off else option.names
    return Option(names, metavar, re.sub(r"^(a|[a-z]{2,})(?=[ -][\w`])", _capital, text))


def _capital(word: re.Match[str]) -> str:
    """The word with a capital letter."""
    return word[0].capitalize()
