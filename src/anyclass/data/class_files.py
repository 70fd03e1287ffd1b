"""Files of class names: text, tables, JSON and YAML, as people and other tools write them."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anyclass.data.classes import Classes, listed, normal
from anyclass.data.table_files import (
    DELIMITED,
    EXCEL,
    Table,
    read_table,
    read_text,
    usual_column,
)
from anyclass.data.taxonomy import taxonomy_of, taxonomy_of_rows
from anyclass.errors import RequestError

_NAME_COLUMNS = (
    "name",
    "class",
    "classname",
    "label",
    "labelname",
    "category",
    "displayname",
    "species",
    "names",
    "classes",
    "labels",
    "klasse",
    "kategorie",
)
_PROMPT_COLUMNS = ("prompt", "prompts", "synonym", "synonyms", "description", "descriptions")
_PARENT_COLUMNS = ("parent", "parentname", "parentclass", "supercategory", "superclass")
_NUMBERED = re.compile(r"\s*(\d+)\s*(?:[.):,;\t]\s*|\s+)(\S.*)")
_BULLET = re.compile(r"\s*[-*•]\s+(\S.*)")

Prompts = str | Sequence[str]
"""One prompt of a class, or several."""

Pair = tuple[str, Sequence[str]]
"""Name of a class, and its prompts; none: the name itself, made readable."""


ClassSource = Path | str | Sequence[str] | Mapping[str, Prompts]
"""A file of names, the names, or a mapping from names to prompts."""


class ClassNames(NamedTuple):
    """Names of classes in the user's order, each once."""

    names: list[str]
    """Names, normalised."""
    prompts: list[tuple[str, ...]]
    """Prompts of each; empty: the name itself."""
    messages: tuple[str, ...]
    """What was guessed of the file and what was dropped, one sentence each."""


def class_names(source: ClassSource) -> ClassNames:
    """Names of classes: those of a file, a list, or a mapping from names to their prompts.

    Raises:
        RequestError: a file is missing, damaged or holds no name.
    """
    if isinstance(source, Path | str):
        pairs, messages = _read(Path(source))
        if not any(name.strip() for name, _ in pairs):
            raise RequestError(f"{source} contains no class name. Write one name per line.")
        return _once([(name, more) for name, more in pairs if name.strip()], messages)
    if isinstance(source, Mapping):
        return _once([(name, _several(prompts)) for name, prompts in source.items()], ())
    return _once([(name, ()) for name in source], ())


def _once(pairs: Iterable[Pair], messages: tuple[str, ...]) -> ClassNames:
    """Each name once, with the prompts of all its rows; a message names what was repeated."""
    found: dict[str, dict[str, None]] = {}
    repeated: dict[str, None] = {}
    for name, prompts in pairs:
        name = normal(name)
        if name in found and not prompts:
            repeated[name] = None
        found.setdefault(name, {}).update(dict.fromkeys(map(normal, prompts)))
    if repeated:
        messages += (f"class names that are given more than once count once: {listed(repeated)}.",)
    return ClassNames(list(found), [tuple(prompts) for prompts in found.values()], messages)


def _several(prompts: Any) -> tuple[str, ...]:
    """Prompts as a tuple of those that are not blank.

    Raises:
        RequestError: they are no texts.
    """
    many = (prompts,) if isinstance(prompts, str) else prompts
    if not isinstance(many, Sequence) or not all(isinstance(prompt, str) for prompt in many):
        raise RequestError(f"prompts of a class must be a text or a list of texts: {prompts!r:.80}")
    return tuple(prompt for prompt in many if prompt.strip())


def _read(path: Path) -> tuple[list[Pair], tuple[str, ...]]:
    """Names and prompts in a file; its ending decides the format."""
    ending = path.suffix.lower()
    if ending in EXCEL or (ending in DELIMITED and ending != ".txt"):
        return _of_table(path, read_table(path))
    try:
        text, messages = read_text(path)
        if ending == ".json":
            return _of_value(path, json.loads(text), messages)
        if ending in (".yaml", ".yml"):
            return _of_value(path, _yaml(text), messages)
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read: {error.strerror}. Give a file with one class name per line, "
            "or the names: --classes daisy,rose,tulip"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not a list of class names: {error}.") from error
    return _of_lines(path, re.split("\r\n?|\n", text), messages)


def _yaml(text: str) -> Any:
    """Content of a YAML file, all scalars as texts: `no` and `1.0` are names."""
    import yaml

    try:
        return yaml.load(text, Loader=yaml.BaseLoader)  # texts, lists and mappings alone
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:120]) from error


def _of_lines(
    path: Path, lines: Sequence[str], messages: tuple[str, ...]
) -> tuple[list[Pair], tuple[str, ...]]:
    """A name per line; numbers or bullets before all of them are left out."""
    filled = [line for line in lines if line.strip()]
    numbered = [found for line in filled if (found := _NUMBERED.fullmatch(line.strip()))]
    bullets = [found for line in filled if (found := _BULLET.fullmatch(line.rstrip()))]
    if len(numbered) == len(filled) > 1 and _counts([found.group(1) for found in numbered]):
        said = f"{path.name} is a numbered list: the numbers are no part of the names."
        return [(found.group(2), ()) for found in numbered], (*messages, said)
    if len(bullets) == len(filled) > 1:
        return [(found.group(1), ()) for found in bullets], messages
    return [(line, ()) for line in filled], messages


def _counts(numbers: Sequence[str]) -> bool:
    """Whether numbers go up by one from 0 or 1."""
    first = int(numbers[0])
    return first in (0, 1) and [*map(int, numbers)] == [*range(first, first + len(numbers))]


def _of_table(path: Path, table: Table) -> tuple[list[Pair], tuple[str, ...]]:
    """Names, and prompts if there is a column of them."""
    name = usual_column(table.columns, _NAME_COLUMNS)
    prompt = usual_column(table.columns, _PROMPT_COLUMNS)
    if name is not None:
        prompts = [_cell(row.get(prompt)) if prompt else "" for row in table.rows]
        phrases = [_between_bars(cell) for cell in prompts]
        names = [_cell(row.get(name)) for row in table.rows]
        return _without_groups(path, table, [*zip(names, phrases, strict=True)])
    return _headless(path, table), table.messages


def _without_groups(
    path: Path, table: Table, pairs: list[Pair]
) -> tuple[list[Pair], tuple[str, ...]]:
    """The pairs without those whose name another row has as its parent."""
    parent = usual_column(table.columns, _PARENT_COLUMNS)
    if parent is None:
        return pairs, table.messages
    parents = [_cell(row.get(parent)) for row in table.rows]
    tree = taxonomy_of_rows([name for name, _ in pairs], parents)
    if not tree.groups:
        said = f"{path.name}: the column {parent!r} is not used; each name is a class."
        return pairs, (*table.messages, said)
    groups = {*tree.groups}
    kept = [pair for pair in pairs if pair[0] not in groups]
    return kept, (*table.messages, tree.message(path.name))


def _between_bars(cell: str) -> list[str]:
    """The prompts in a cell."""
    return [prompt for prompt in cell.split("|") if prompt.strip()]


def _headless(path: Path, table: Table) -> list[Pair]:
    """Names in the only column, or in the one beside a column of numbers that count."""
    lines = [[*table.columns]]
    for row in table.rows:
        cells = [_cell(row.get(column)) for column in table.columns]
        if any(cells):
            lines.append(cells)
    if all(len(line) == 1 for line in lines):
        return [(line[0], ()) for line in lines]
    in_pairs = all(len(line) == 2 for line in lines)
    first = [line[0] for line in lines]
    digits = all(re.fullmatch(r"\d+", cell) for cell in first)
    if in_pairs and digits and _counts(first):
        return [(line[1], ()) for line in lines]
    raise RequestError(
        f"{path} has several columns ({listed(table.columns)}): call the one with the class names "
        "`name` in the first line, and one with prompts `prompt`"
    )


def _cell(value: Any) -> str:
    """A cell as text."""
    return "" if value is None else str(value)


def _of_value(
    path: Path, value: Any, messages: tuple[str, ...]
) -> tuple[list[Pair], tuple[str, ...]]:
    """Names in JSON or YAML: a list, a mapping, a tree, or the key of another tool's file."""
    if isinstance(value, dict) and {"names", "kinds", "prompts"} <= {*value}:
        return _of_run(Classes.from_json(value)), messages
    inner = _inner(value)
    tree = taxonomy_of(inner)
    if tree is not None:
        return [(name, ()) for name in tree.classes], (*messages, tree.message(path.name))
    pairs = _listed(inner) if isinstance(inner, list) else _mapped(inner)
    if pairs is None:
        raise RequestError(
            f"{path} must hold a list of names, an object {{prompt: name}}, {{name: [prompts]}} or "
            "{number: name}, a tree of names, or `names`, `id2label` or `categories` with one of "
            "these."
        )
    return pairs, messages


def _of_run(classes: Classes) -> list[Pair]:
    """Names and prompts of the `classes.json` of a run, without discovered classes."""
    named = [c for c in range(len(classes)) if classes.kind(c) != "unknown"]
    return [(classes.names[c], classes.all_prompts[c]) for c in named]


def _inner(value: Any) -> Any:
    """What stands under `names` (YOLO), `id2label` (transformers) or `categories` (COCO)."""
    if isinstance(value, dict):
        for key in ("names", "id2label", "categories", "classes"):
            if isinstance(value.get(key), list | dict):
                return value[key]
    return value


def _listed(items: list[Any]) -> list[Pair] | None:
    """A list of names, or of objects with a name and perhaps prompts."""
    if all(isinstance(item, str) for item in items):
        return [(item, ()) for item in items]
    if not all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in items):
        return None
    return [(item["name"], _several(_first(item, _PROMPT_COLUMNS, ()))) for item in items]


def _first(item: Mapping[str, Any], keys: Sequence[str], default: Any) -> Any:
    return next((item[key] for key in keys if item.get(key)), default)


def _mapped(value: Any) -> list[Pair] | None:
    """{number: name} and {name: number} by number; {name: [prompts]}; {prompt: name}."""
    if not isinstance(value, dict) or not value:
        return None
    whole: Callable[[Any], bool] = lambda x: bool(re.fullmatch(r"\d+", str(x)))  # noqa: E731
    values = [*value.values()]
    if all(map(whole, value)) and all(isinstance(name, str) for name in values):
        return [(value[key], ()) for key in sorted(value, key=int)]
    if all(map(whole, values)):
        return [(name, ()) for name in sorted(value, key=lambda name: int(value[name]))]
    if all(isinstance(prompts, list) for prompts in values):
        return [(name, _several(prompts)) for name, prompts in value.items()]
    if all(isinstance(name, str) for name in values):
        return [(name, (prompt,)) for prompt, name in value.items()]
    return None
