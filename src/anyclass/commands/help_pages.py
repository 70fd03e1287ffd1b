"""Renders `help.json`, the help pages, from the declarations of all options.

    python -m anyclass.commands.help_pages      or: make help-pages

tyro knows the options of a command. What people need first stands first here: input, output and
model, then the options of the command's own, then the rest.
"""

import json
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from anyclass.captioning import CAPTIONERS
from anyclass.commands.command_line import PARTS
from anyclass.commands.demo import demo
from anyclass.commands.embed import embed
from anyclass.commands.evaluate import evaluate
from anyclass.commands.export import export
from anyclass.commands.flags import (
    AuditFlags,
    describe_command,
    fit_command,
    part_kinds,
    rename_command,
)
from anyclass.commands.help import AUDIT, FEATURE_FLAGS, PAGES, key
from anyclass.commands.models import models
from anyclass.commands.predict import predict
from anyclass.commands.report import report
from anyclass.commands.serve import serve
from anyclass.commands.tyro_help import Group, Option, choice_of, tyro_groups
from anyclass.files import write_text
from anyclass.methods import METHODS, Situation
from anyclass.report.words import METHOD_WORDS

WIDTH = 80
"""Columns of a page."""

INDENT = 26
"""Columns in front of the help of an option."""


GROUPS = {
    "Input": (
        "run",
        "images",
        "classes",
        "labels",
        "unknown",
        "holdout",
        "names",
        "features",
        "extra",
        "class-text",
        "logit-scale",
    ),
    "Output": ("out", "overwrite"),
    "Model": ("model",),
    "Options": (),
    "Further options": (
        "file-column",
        "label-column",
        "seed",
        "device",
        "engine",
        "precision",
        "decoding",
        "max-rejected",
        "allow-pickle",
    ),
}
"""Heading -> its options, in the order of a page; `Options` takes all that stand nowhere else."""

ABOUT_FIT = """Fit a method to a folder of images and write a run folder. Start with auto. \
`anyclass fit METHOD --help` shows the options of a method."""

ABOUT_AUTO = """Fit open-world with its defaults to whatever is known of the classes: labels, \
names, the number of unknown ones, or any mix. `anyclass plan` shows what is known.

Writes a run folder with the model, the predictions, the scores and a report."""


def render() -> dict[str, dict[str, list[str]]]:
    """All pages, as `help.json` holds them: a section that occurs twice is kept once."""
    pages = dict[str, list[str]]()
    sections = dict[str, list[str]]()
    names = dict[str, str]()
    for page, texts in _all_pages():
        pages[page] = []
        for text in texts:
            name = names.setdefault(text, f"{page}: {text.partition(chr(10))[0]}")
            sections[name] = text.split("\n")
            pages[page].append(name)
    sections[AUDIT] = _audit().split("\n")
    return {"pages": pages, "sections": sections}


def _all_pages() -> Iterator[tuple[str, list[str]]]:
    """Name of each page, and its sections."""
    yield "fit", _list_of_methods()
    for method in ("auto", *METHODS):
        yield _page("fit", method, {}, fit_command(method))
    for method in METHODS:
        for part, kinds in part_kinds(method).items():
            for kind in kinds:
                chosen = {part: kind}
                yield _page("fit", method, chosen, fit_command(method, chosen))
    yield _page("describe", "", {}, describe_command())
    yield _page("rename", "", {}, rename_command())
    for captioner in CAPTIONERS:
        chosen = {"captioner": captioner}
        yield _page("describe", "", chosen, describe_command(captioner))
        yield _page("rename", "", chosen, rename_command(captioner))
    functions: tuple[Any, ...] = (
        embed,
        predict,
        evaluate,
        report,
        serve,
        export,
        demo,
        models,
    )
    for function in functions:
        yield _page(function.__name__, "", {}, function)


def _page(command: str, method: str, parts: dict[str, str], declared: Any) -> tuple[str, list[str]]:
    """Name of the page of one command line, and its sections."""
    about, groups = tyro_groups(declared)
    own = groups[0].options
    chosen_method = METHODS.get(method)
    if chosen_method and not chosen_method.info.takes_features:
        own = [option for option in own if option.names not in FEATURE_FLAGS]
    if command == "rename" and not parts:
        own.append(choice_of("captioner", ", ".join(CAPTIONERS)))
    program = " ".join(["anyclass", command, *filter(None, [method])])
    chosen = [f"--{part} {name}" for part, name in parts.items()]
    needed = [
        f"{option.names} {option.metavar}"
        for group in groups
        for option in group.options
        if option.help.endswith("(required)")
    ]
    names = {option.name for option in own}
    if "images" in names and command not in ("describe", "embed", "export"):
        needed.append("--images PATH")  # or --features, where the method takes them
    usage = " ".join(["usage:", program, *chosen, *needed, "[options]"])
    head = [_fold(usage, "  "), _paragraphs(ABOUT_AUTO if method == "auto" else about)]
    return key(command, method, parts), [*head, *_all_options(method, own, groups[1:])]


def _all_options(method: str, own: list[Option], groups: list[Group]) -> list[str]:
    """The options of a command under their headings, then those of its parts."""
    sections = list[str]()
    placed = {name for options in GROUPS.values() for name in options}
    for heading, members in GROUPS.items():
        if heading == "Options":
            title = f"Options of {method}" if method else heading
            rest = [option for option in own if option.name not in placed]
            sections += _section(title, "", rest)
            for group in groups:
                sections += _section(_title(group), group.about, group.options)
        else:
            sections += _section(heading, "", _ordered(own, members))
    return sections


def _ordered(options: list[Option], names: tuple[str, ...]) -> list[Option]:
    """Options with these names, in the order of the names."""
    return sorted(
        (option for option in options if option.name in names),
        key=lambda option: names.index(option.name),
    )


def _title(group: Group) -> str:
    """Heading of the options of a part."""
    of_part = group.title in PARTS["fit"]
    return f"Options of --{group.title}" if of_part else f"Options of {group.title}"


def _section(heading: str, about: str, options: list[Option]) -> list[str]:
    """A heading with its options, as one text; nothing where there is none."""
    if not options:
        return []
    lines = [f"{heading}:", *([_fold(about, "  ", "  ")] if about else [])]
    for option in options:
        head = f"  {option.names} {option.metavar}".rstrip()
        text = wrap(option.help, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False)
        if len(head) > INDENT - 2 or not text:
            lines.append(head)
        else:
            lines.append(head.ljust(INDENT) + text.pop(0))
        lines += [" " * INDENT + line for line in text]
    return ["\n".join(lines)]


def _paragraphs(text: str) -> str:
    """Paragraphs, each folded to the width of a page."""
    return "\n\n".join(_fold(paragraph, "") for paragraph in text.split("\n\n"))


def _fold(text: str, further: str, first: str = "") -> str:
    """One paragraph, folded to the width of a page."""
    lines = wrap(text.strip(), WIDTH, initial_indent=first, subsequent_indent=further)
    return "\n".join(lines)


def _audit() -> str:
    """The options that only `plan` has."""
    _, groups = tyro_groups(AuditFlags)
    return "".join(_section("Audit", "", groups[0].options))


def words_of_methods() -> dict[str, Any]:
    """What reports need of the methods, which they do not load: words, and who ignores labels."""
    kinds = ("shares", "metrics", "baselines", "settings")
    words: dict[str, dict[str, str]] = {kind: {} for kind in kinds}
    for kind in METHODS.values():
        for name, some in words.items():
            some.update(getattr(kind.info, name))
    ignore = [name for name, kind in METHODS.items() if not kind.info.uses_labels]
    return {**words, "ignore_labels": ignore}


def _list_of_methods() -> list[str]:
    """The page of `anyclass fit --help`: methods by what is known of the classes."""
    sections = ["usage: anyclass fit METHOD --images PATH [options]", _paragraphs(ABOUT_FIT)]
    for situation in Situation:
        names = [name for name, kind in METHODS.items() if kind.info.situations[0] == situation]
        abouts = {name: _about(name) for name in names}
        if situation == Situation.ANY:
            abouts = {"auto": "open-world with its defaults."} | abouts
        sections.append(_methods(situation.words, abouts))
    return sections


def _about(method: str) -> str:
    """The first line of a method's docstring."""
    return f"{METHODS[method].__doc__}".partition("\n")[0]


def _methods(situation: str, abouts: dict[str, str]) -> str:
    """A heading with the methods under it."""
    lines = [f"{situation}:"]
    for name, about in abouts.items():
        first, *further = wrap(about, WIDTH - 18)
        lines.append(f"  {name}".ljust(18) + first)
        lines += [" " * 18 + line for line in further]
    return "\n".join(lines)


def write_pages() -> None:
    """Render all pages into the file that the command line reads."""
    for path, content in ((PAGES, render()), (METHOD_WORDS, words_of_methods())):
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write_pages()
