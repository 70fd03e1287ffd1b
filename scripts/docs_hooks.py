"""Hooks of mkdocs: the command-line reference shows the help pages of the program itself."""

import io
import os
import re
from contextlib import redirect_stdout
from typing import Any

HELP = re.compile(r"^<!-- help: ?(.*?) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each comment `help: COMMAND` by what `anyclass COMMAND --help` prints."""
    return HELP.sub(lambda found: f"```text\n{help_page(found[1].split())}\n```", markdown)


def help_page(command: list[str]) -> str:
    """The help page of a command."""
    from anyclass.cli import main

    os.environ["COLUMNS"] = "80"
    os.environ["NO_COLOR"] = "1"
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = main([*command, "--help"])
    if code:
        raise RuntimeError(f"anyclass {' '.join(command)} --help ended with exit code {code}")
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue()).strip()
