"""The words of a command line, sorted: command, method, parts chosen by name, flags."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from anyclass.errors import RequestError

PARTS = {
    "plan": ("captioner", "then"),
    "fit": ("captioner", "then"),
    "describe": ("captioner",),
    "rename": ("captioner",),
}
"""Command -> flags that choose a part by its name, which brings flags of its own."""

REPLACED = {
    "latteclip-plus": "open-world",
    "ship-plus": "open-world",
    "get-plus": "open-world",
}
"""Method of version 0.1 that is no more -> its successor; saved runs still predict."""


NOTHING_KNOWN = (
    "there is no information about the classes: give their names (--classes FILE, one per line), "
    "sort images into folders named by class (--labels folders), or give the number of classes to "
    "discover (--unknown N)"
)
"""What to say of a fit that is told nothing of its classes."""

KNOWLEDGE = {"--classes", "--labels", "--unknown", "--from", "--class-text"}
"""Options of `fit` and `plan` that say something of the classes."""

CACHED = ("fit", "describe", "embed", "predict", "evaluate")
"""Commands that keep the features of images in the user's cache folder."""


class CommandLine(NamedTuple):
    """One command line, sorted."""

    command: str
    """Name of the command."""
    method: str
    """Name of the method, auto, or nothing where the command takes none or none was given."""
    parts: dict[str, str]
    """Parts chosen by name: `{"captioner": "endpoint"}`."""
    flags: list[str]
    """All other arguments, in order."""

    @property
    def program(self) -> str:
        """The words in front of the flags."""
        return " ".join(["anyclass", self.command, *filter(None, [self.method])])

    @property
    def wants_help(self) -> bool:
        """Whether the help page is asked for."""
        return "--help" in self.flags or "-h" in self.flags


def parse_words(
    arguments: Sequence[str], commands: Sequence[str], methods: Sequence[str]
) -> CommandLine:
    """Sort the arguments of one command.

    Args:
        arguments: the command, and what follows it.
        commands: names of the commands.
        methods: names that `plan` and `fit` take, `auto` among them.

    Raises:
        RequestError: there is no such command or method, or no method is given.
    """
    command = arguments[0]
    if command not in commands:
        hint = did_you_mean(command, commands)
        raise RequestError(f"no command is called {command!r}: {hint}use {', '.join(commands)}")
    parts, rest = _take_parts(arguments[1:], PARTS.get(command, ()))
    if command not in ("plan", "fit"):
        return CommandLine(command, "", parts, rest)
    if rest and rest[0] in methods:
        return CommandLine(command, rest[0], parts, rest[1:])
    if rest and rest[0] in ("-h", "--help"):
        return CommandLine(command, "", parts, rest)
    if command == "plan" and (not rest or rest[0].startswith("--")):
        return CommandLine(command, "auto", parts, rest)
    raise RequestError(_which_method(command, rest, methods))


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A question with the known word that looks most alike, or nothing."""
    near = get_close_matches(word.replace("_", "-"), known, n=1)
    return f"did you mean {near[0]}? " if near else ""


def check_early(line: CommandLine) -> None:
    """Refuse what cannot work before PyTorch is loaded: as the command would, seconds later.

    Raises:
        RequestError: a word follows no option, a run, images, labels or class names are not
            there, nothing is known of the classes, or the user has no cache folder.
    """
    given = _values(line.flags)
    if stray := given.get("", []):
        raise RequestError(_follows_no_option(line, stray[0]))
    _check_files(given)
    if not given.get("--images"):
        return
    if line.command in ("fit", "plan") and not KNOWLEDGE & set(given):
        raise RequestError(NOTHING_KNOWN)
    if line.command in CACHED:
        from anyclass.files import cache_folder

        cache_folder()


def needs_torch(line: CommandLine) -> bool:
    """Whether a command loads PyTorch in any case; `rename` does where predictions change."""
    if line.command == "rename":
        return "captioner" in line.parts
    return line.command != "report"


def _follows_no_option(line: CommandLine, word: str) -> str:
    """What to say of a word that stands where an option is expected."""
    if Path(word).is_dir():
        option = "--run" if (Path(word) / "config.json").is_file() else "--images"
        return f"{word!r} follows no option: write {option} {word}"
    return f"{word!r} follows no option: `{line.program} --help` shows all"


def _check_files(given: Mapping[str, Sequence[str]]) -> None:
    """Refuse runs, images, labels or class names that are not there.

    Raises:
        RequestError: one is not there.
    """
    for run in (*given.get("--run", [])[:1], *given.get("--from", [])[:1]):
        from anyclass.run.folder import check_marks

        check_marks(Path(run))
    elsewhere = given.get("--on") == ["ray"]  # also a file, or an address
    for folder in given.get("--images", [])[:1]:
        there = "://" in folder or Path(folder).exists() if elsewhere else Path(folder).is_dir()
        if not there:
            from anyclass.data.dataset import existing_folder

            existing_folder(Path(folder))
    for table in given.get("--labels", [])[:1]:
        if table != "folders" and not Path(table).exists():
            from anyclass.data.label_tables import check_table

            check_table(Path(table))
    names = given.get("--classes", [])
    if len(names) == 1 and "," not in names[0] and not Path(names[0]).exists():
        from anyclass.data.class_files import class_names

        class_names(Path(names[0]))


def _values(flags: Sequence[str]) -> dict[str, list[str]]:
    """Options -> the words that follow them; of an option that occurs twice, the last."""
    values = dict[str, list[str]]()
    flag = ""
    for word in flags:
        if not word.startswith("--"):
            values.setdefault(flag, []).append(word)
            continue
        flag, equals, value = word.partition("=")
        values[flag] = [value] if equals else []
    return values


def was_replaced(method: str, successor: str) -> str:
    """What to say of a method that is no more."""
    return f"{method} was replaced by {successor}: use `anyclass fit {successor}`, or auto"


def _take_parts(arguments: Sequence[str], flags: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """What `--captioner NAME` and the like choose, wherever they stand; and all other arguments."""
    chosen = dict[str, str]()
    rest = list[str]()
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        flag, equals, name = word.partition("=")
        if not flag.startswith("--") or flag.removeprefix("--") not in flags:
            rest.append(word)
            continue
        if not equals:
            name = waiting.pop(0) if waiting else ""
        chosen[flag.removeprefix("--")] = name
    return chosen, rest


def _which_method(command: str, rest: Sequence[str], methods: Sequence[str]) -> str:
    """What to say where the first argument is not the name of a method."""
    names = f"METHOD is one of {', '.join(methods)}"
    if not rest or rest[0].startswith("-"):
        return f"which method? anyclass {command} METHOD --images DIR ...; {names}"
    if successor := REPLACED.get(rest[0].replace("_", "-")):
        return was_replaced(rest[0], successor)
    if Path(rest[0]).is_dir():
        return f"write --images {rest[0]}, behind the method; {names}"
    hint = did_you_mean(rest[0], methods)
    return f"no method is called {rest[0]!r}: {hint}{names}"
