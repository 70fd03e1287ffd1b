"""Class lists that are trees: names without names below them are classes, the others groups.

An image gets one class, so a class beside a group that contains it would compete with it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from anyclass.data.classes import listed, normal

_CHILDREN = "children"


class Taxonomy(NamedTuple):
    """Names of a tree, in the order of the file."""

    classes: list[str]
    """Names without names below them."""
    groups: list[str]
    """All others."""

    def message(self, file: str) -> str:
        """What was made of a file, in a sentence."""
        return (
            f"{file} is a taxonomy: the classes are the names without names below them; groups "
            f"are left out: {listed(self.groups)}."
        )


def taxonomy_of(value: Any) -> Taxonomy | None:
    """The names in nested JSON or YAML; None if it is not nested.

    `{"animal": {"mammal": ["cat", "dog"], "fish": null}}`, or
    `{"name": "animal", "children": [{"name": "fish"}]}` and a list of these. A mapping to lists
    alone is none: it holds names with their prompts.

    Raises:
        ValueError: something in it is no name.
    """
    if not _is_nested(value):
        return None
    found = Taxonomy([], [])
    _add(value, found)
    return found


def taxonomy_of_rows(names: Sequence[str], parents: Sequence[str]) -> Taxonomy:
    """The names of a table that has a parent in each row, or an empty text."""
    above = {normal(parent) for parent in parents if parent.strip()}
    groups = [name for name in names if normal(name) in above]
    return Taxonomy([name for name in names if normal(name) not in above], groups)


def _is_nested(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(item, dict) and _CHILDREN in item for item in value)
    if not isinstance(value, dict):
        return False
    return _CHILDREN in value or any(isinstance(below, dict) for below in value.values())


def _add(value: Any, found: Taxonomy) -> None:
    """Add the names of a part of the tree."""
    if isinstance(value, str):
        found.classes.append(value)
    elif isinstance(value, list):
        for item in value:
            _add(item, found)
    elif isinstance(value, dict) and isinstance(value.get("name"), str):
        _add_branch(value["name"], value.get(_CHILDREN), found)
    elif isinstance(value, dict):
        for name, below in value.items():
            _add_branch(name, below, found)
    else:
        raise ValueError(f"{value!r:.60} is neither a name nor a group of names")


def _add_branch(name: str, below: Any, found: Taxonomy) -> None:
    """Add a name and the names below it."""
    if isinstance(below, str) and below.strip():
        raise ValueError(f"{below!r:.60} below {name!r:.60} must be a list of names")
    if below:
        found.groups.append(name)
        _add(below, found)
    else:
        found.classes.append(name)
