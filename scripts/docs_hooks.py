"""Hooks of mkdocs: help pages and lists of methods come from the program itself."""

import io
import os
import re
from contextlib import redirect_stdout
from typing import Any

HELP = re.compile(r"^<!-- help: ?(.*?) -->$", re.MULTILINE)
CLASSES = "<!-- classes of the methods -->"


def on_config(config: Any) -> Any:
    """Add the pages of all methods to the navigation."""
    section = next(entry["Methods"] for entry in config["nav"] if "Methods" in entry)
    for heading, methods in by_situation():
        pages = [{kind.info.title: f"methods/{stem(kind)}.md"} for kind in methods]
        section.append({heading: pages})
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each comment `help: COMMAND` by what `anyclass COMMAND --help` prints.

    The comment `CLASSES` becomes the classes of all methods.
    """
    if CLASSES in markdown:
        markdown = markdown.replace(CLASSES, classes_of_methods())
    return HELP.sub(lambda found: f"```text\n{help_page(found[1].split())}\n```", markdown)


def classes_of_methods() -> str:
    """The classes of all methods, for mkdocstrings."""
    parts = []
    for heading, methods in by_situation():
        parts.append(f"## Methods: {heading[0].lower()}{heading[1:]}\n\n")
        parts += [f"::: {kind.__module__}.{kind.__name__}\n\n" for kind in methods]
    return "".join(parts)


def by_situation() -> list[tuple[str, list[Any]]]:
    """Headings, and the methods below each."""
    from anyclass.methods import METHODS, Situation

    found = []
    for place in Situation:
        kinds = [kind for kind in METHODS.values() if kind.info.situations[0] == place]
        found.append((place.heading, kinds))
    return found


def stem(kind: type) -> str:
    """Name of the file of a method and of its page, without the ending."""
    return kind.__module__.rpartition(".")[2]


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
