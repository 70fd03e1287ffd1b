"""`classes.csv` as people edit it: the columns `name` and `action`."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from anyclass.classifier.class_edits import is_placeholder
from anyclass.data import Classes
from anyclass.data.classes import has_invisible, normal
from anyclass.errors import RequestError
from anyclass.files import csv_text
from anyclass.run.content import read_rows

ACTION = "action"
"""Column for what is done with a class other than naming it; tables of 0.1 do not have it."""

ACTIONS = ("split", "reject")
"""Words that it takes."""


class ClassTable(NamedTuple):
    """What a table says of each class, in the order of the classes."""

    names: list[str]
    """Names; classes with the same name are to be merged."""
    actions: list[str]
    """split, reject or nothing."""


def read_class_table(path: Path, classes: Classes) -> ClassTable:
    """Read names and actions, in the order of the classes, also from a spreadsheet's export.

    Raises:
        RequestError: rows or columns are missing, there are too many rows, or a cell is unusable.
    """
    found: dict[int, tuple[str, str]] = {}
    for number, row in enumerate(read_rows(path, ("index", "name")), 2):
        if not any((row["index"], row["name"])):
            continue  # an empty line
        k = int(row["index"]) if re.fullmatch(r"[0-9]{1,9}", row["index"].strip()) else -1
        if not 0 <= k < len(classes):
            raise RequestError(
                f"{path}, row {number}: there is no class {row['index']!r:.40}; "
                f"indices are 0 to {len(classes) - 1}"
            )
        if k in found:
            raise RequestError(f"{path}, row {number}: class {k} occurs twice")
        action = row.get(ACTION, "").strip().casefold()
        if action not in ("", *ACTIONS):
            raise RequestError(
                f"{path}, row {number}: {ACTION} is {action!r:.40}; write split or reject, or "
                "leave it empty. To merge classes, give them the same name"
            )
        found[k] = (normal(csv_text(row["name"])), action)
    missing = [str(k) for k in range(len(classes)) if k not in found]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise RequestError(
            f"{path} has no row for class {', '.join(missing[:5])}{more}: restore the removed "
            "rows. To merge classes, give them the same name; to get rid of one, write reject "
            f"into the column {ACTION}"
        )
    rows = [found[k] for k in range(len(classes))]
    names = [name for name, _ in rows]
    table = ClassTable(names, [action for _, action in rows])
    _check(path, table, classes)
    return table


def _check(path: Path, table: ClassTable, classes: Classes) -> None:
    """Check the new names and the actions of all classes."""
    counts = Counter(table.names)
    for k, name in enumerate(table.names):
        given = classes.kind(k) != "unknown"
        if name != classes.names[k] and given:
            raise RequestError(
                f"{path}: class {k} is {classes.kind(k)}, so it must keep the name "
                f"{classes.names[k]!r:.80}; change the labels and fit again"
            )
        if table.actions[k] and given:
            raise RequestError(
                f"{path}: class {k} is {classes.kind(k)}, so {table.actions[k]} is not possible: "
                "only discovered classes can be split or rejected"
            )
        if table.actions[k] and counts[name] > 1:
            raise RequestError(
                f"{path}: class {k} is to be merged, as another class has the name {name!r:.80}, "
                f"and {table.actions[k]} as well: do one after the other"
            )
        if not name:
            raise RequestError(f"{path}: class {k} has no name; it had {classes.names[k]!r:.80}")
        if has_invisible(name):
            raise RequestError(
                f"{path}: the name of class {k}, {name!r:.80}, has invisible characters"
            )


def accepted(table: ClassTable, suggestions: Mapping[int, str]) -> ClassTable:
    """Replace placeholder names by the suggestions, unless another class has that name.

    Args:
        table: names and actions.
        suggestions: class -> the name that is suggested.
    """
    names: Sequence[str] = table.names
    new = list(names)
    for k, word in suggestions.items():
        if is_placeholder(new[k]) and not table.actions[k] and word not in new:
            new[k] = word
    return table._replace(names=new)
