"""The help pages of the command line, read from `help.json`; nothing heavy is imported.

Options are declared as fields of classes in modules that import torch. `help_pages.py` renders them
once, when they change (`make help-pages`); a test renders them anew and compares.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from anyclass.commands.command_line import CommandLine, did_you_mean
from anyclass.errors import RequestError

PAGES = Path(__file__).with_name("help.json")
"""`sections`: name -> its lines; `pages`: command line -> names of the sections of its page."""

OVERVIEW = """anyclass: train an image classifier from a folder and whatever you know:
labels, class names, or neither.

  anyclass plan [METHOD]   audit the images; show what a fit would do
  anyclass fit METHOD      fit a method to a folder; writes a run folder
  anyclass describe        write what a captioner says of each image
  anyclass embed           write the features of a model into a file
  anyclass predict         label the images of a folder with a run
  anyclass evaluate        score a run on labelled images, beside zero-shot
  anyclass rename          name discovered classes, from RUN/classes.csv
  anyclass report          write the report of a run again
  anyclass serve           review labels in the browser, predict for programs
  anyclass export          write a run for other tools: ONNX, hub, open_clip, ...
  anyclass demo            try it: draw emoji, classify them, write a report
  anyclass models          list the models that --model takes

Start with auto, which takes whatever you know:

  anyclass fit auto --images photos --classes names.txt --out run

`anyclass COMMAND --help` shows the options of a command. `anyclass fit --help`
lists the methods, `anyclass fit METHOD --help` shows the options of one.
--json, anywhere, prints the result as one JSON object.
"""
"""The page of `anyclass --help`."""

PLAN = """Show what this fit would do: the method and the reason, time, disk, and
questions to a language model; and what looks wrong in the images: copies,
similar class names, conflicting labels. No image is decoded and nothing is
written without --audit. `anyclass fit` takes the same options, except those
of the audit.
"""
"""What `plan` says on a page of `fit`."""

AUDIT = "plan: Audit"
"""Section that only the pages of `plan` have."""


FEATURE_FLAGS = ("--features", "--extra", "--class-text", "--logit-scale")
"""Options of `fit` that most methods do not show: they say so where they are given one."""


class Page(NamedTuple):
    """One help page."""

    text: str
    """The page as it is printed."""
    flags: tuple[str, ...]
    """The options on it, with their hyphens."""


def methods() -> tuple[str, ...]:
    """Names that `plan` and `fit` take for METHOD, `auto` first."""
    words = [name.split() for name in _read()["pages"]]
    return tuple(word[1] for word in words if word[0] == "fit" and len(word) == 2)


def page(line: CommandLine) -> Page | None:
    """The page of a command line; None where no page is stored for these parts."""
    names = _read()["pages"].get(key(line.command, line.method, line.parts))
    if names is None:
        return None
    sections = ["\n".join(_read()["sections"][name]) for name in names]
    text = "\n\n".join(sections) + "\n"
    if line.command == "plan":
        text = _page_of_plan(text, line.method)
    return Page(text, tuple(re.findall(r"^  (?:--[\w.-]+, )?(--[\w.-]+)", text, re.MULTILINE)))


def _page_of_plan(text: str, method: str) -> str:
    """A page of `fit` as one of `plan`, with the audit before what the method does."""
    usage, about, rest = text.split("\n\n", 2)
    usage = usage.replace("anyclass fit", "anyclass plan", 1)
    audit = "\n".join(_read()["sections"][AUDIT])
    if method:
        about = f"What `anyclass fit {method}` does:\n\n{about}"
    else:
        about = "Start with auto. `anyclass plan METHOD --help` shows the options of a method."
    return f"{usage}\n\n{PLAN}\n{audit}\n\n{about}\n\n{rest}"


def key(command: str, method: str, parts: dict[str, str]) -> str:
    """Name of a page; `plan` shares those of `fit`."""
    words = ["fit" if command == "plan" else command, method]
    words += [f"--{part} {name}" for part, name in sorted(parts.items())]
    return " ".join(filter(None, words))


def check_flags(line: CommandLine, known: Page) -> None:
    """Refuse an option that is not on the page.

    Raises:
        RequestError: with the option that looks most alike.
    """
    unshown = FEATURE_FLAGS if line.command in ("fit", "plan") else ()
    plain = {_plain(flag) for flag in (*known.flags, *unshown)}
    for word in line.flags:
        flag = word.partition("=")[0]
        if word.startswith("--") and word != "--" and _plain(flag) not in plain:
            hint = did_you_mean(flag, known.flags)
            raise RequestError(
                f"no option is called {flag}: {hint}`{line.program} --help` shows all"
            )


def _plain(flag: str) -> str:
    """An option without `no-`, which a switch may have, and with hyphens."""
    return re.sub(r"(^--|\.)no-", r"\1", flag.replace("_", "-"))


@cache
def _read() -> dict[str, dict[str, list[str]]]:
    """The content of the file."""
    content: dict[str, dict[str, list[str]]] = json.loads(PAGES.read_text("utf-8"))
    return content
