"""The words of a command line that ask for a request again: method and options, defaults left out.

A run stores them in `config.json` (`again`), so that a report can say how to go on.
"""

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from anyclass.commands.chosen_method import ChosenMethod
from anyclass.commands.command_line import PARTS
from anyclass.commands.option_owners import flag_of
from anyclass.commands.request import SOURCES, Request, recorded, was_array
from anyclass.features.domains import DOMAINS, PRESET


def command_words(request: Request, choice: ChosenMethod) -> dict[str, list[str]] | None:
    """Words behind `anyclass fit` or `anyclass plan`; None if a command line cannot say them.

    Arrays cannot be said, nor can values that look like flags. Paths are absolute.

    Returns:
        `method`: its name and its hyper-parameters; `options`: those of the request.
    """
    options = {declared.name: getattr(request, declared.name) for declared in fields(Request)}
    options |= {name: recorded(options[name]) for name in SOURCES}
    asked_for = list(_option_words(options))
    method = [choice.asked]
    if choice.asked != "auto":
        method += _method_words(choice.method)
    if not all(map(_can_be_said, options.values())):
        return None
    values = [word for word in (*asked_for, *method) if not word.startswith("--")]
    if any(word.startswith("-") and not _is_number(word) for word in values):
        return None
    return {"method": method, "options": asked_for}


def flag_words(flag: str, value: Any) -> list[str]:
    """An option as words of a command line.

    A list is followed by the next flag, so it never swallows another word.
    """
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag.removeprefix('--')}"]
    if isinstance(value, list | tuple):
        return [flag, *map(str, value)]
    return [flag, str(value)]


def _can_be_said(value: Any) -> bool:
    """Whether an option is a plain value, or a list of such that do not look like flags."""
    if isinstance(value, list | tuple):
        return all(isinstance(word, str) and not word.startswith("-") for word in value)
    return isinstance(value, str | int | float | None) and not was_array(value)


def _option_words(options: dict[str, Any]) -> Iterator[str]:
    """Flags of the options of a request that are not at their defaults."""
    for declared in fields(Request):
        value = options[declared.name]
        if value != _default(declared):
            name = "from" if declared.name == "from_run" else declared.name
            yield from flag_words(flag_of(name), value)


def _method_words(method: Any) -> Iterator[str]:
    """Flags of the hyper-parameters of a method that are not at their defaults."""
    usual = type(method)()
    for declared in fields(method):
        name = declared.name
        value = getattr(method, name)
        default = getattr(usual, name)
        if name in PRESET and vars(method).get("domain") in DOMAINS:
            default = None  # the set has its own: always say the value
        if name not in PARTS["fit"]:
            yield from _field_words(type(method), name, (value, default), "")
        elif value != default:
            if value.kind != default.kind:
                default = _Defaults(type(value))
            yield from (flag_of(name), value.kind)
            yield from _inner_words(value, default, name)


def _inner_words(value: Any, default: Any, prefix: str) -> Iterator[str]:
    """Flags of the fields of a dataclass that is a field itself."""
    for inner in fields(value):
        if inner.name != "kind":
            pair = (getattr(value, inner.name), getattr(default, inner.name))
            yield from _field_words(type(value), inner.name, pair, prefix)


def _field_words(owner: type[Any], name: str, pair: tuple[Any, Any], prefix: str) -> Iterator[str]:
    """Flags of one field, from its value and its default."""
    value, default = pair
    if value == default:
        return
    word, prefixed = _flag_name(owner, name)
    path = ".".join(filter(None, [prefix if prefixed else "", word]))
    if is_dataclass(value):
        yield from _inner_words(value, default, path)
    else:
        yield from flag_words(flag_of(path), value)


class _Defaults:
    """Defaults of the fields of a dataclass, as attributes; `MISSING` without one."""

    def __init__(self, kind: type[Any]) -> None:
        for declared in fields(kind):
            setattr(self, declared.name, _default(declared))


def _flag_name(owner: type[Any], name: str) -> tuple[str, bool]:
    """Name of a field's flag, and whether the name of its owner stands before it."""
    hint = get_type_hints(owner, include_extras=True)[name]
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    given = [note for note in notes if hasattr(note, "prefix_name")]
    if not given:
        return name, True
    renamed = given[0].name
    return (name if renamed is None else renamed), given[0].prefix_name is not False


def _default(declared: "Field[Any]") -> Any:
    """Default of a field; `MISSING` without one."""
    if declared.default_factory is not MISSING:
        return declared.default_factory()
    return declared.default


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
