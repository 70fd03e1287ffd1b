"""`rename`: name, merge, split and reject discovered classes as `classes.csv` says."""

from pathlib import Path
from typing import Any

from tyro.conf import Suppress

from anyclass.classifier.class_edits import EditedClasses
from anyclass.commands.class_changes import Edit
from anyclass.commands.class_table import ClassTable, accepted, read_class_table
from anyclass.commands.edit_classes import RunClasses
from anyclass.commands.run_files import opened_for_edit
from anyclass.errors import RequestError
from anyclass.files import Json
from anyclass.naming.naming_files import TABLE
from anyclass.run.progress import Progress


def rename(
    run: Path | str,
    accept: bool = False,
    accept_all: bool = False,
    undo: bool = False,
    captioner: Suppress[Any] = None,
) -> Json:
    """Name, merge, split and reject discovered classes as RUN/classes.csv says.

    Edit the column `name`. Classes with the same name are merged, also with a class that was given:
    their probabilities add. Write split or reject into the column `action` to divide a class in
    two, or to give its images no label. Nothing is fitted again.

    Args:
        run: a run folder with discovered classes.
        accept: rename each class that is still "discovered N" to its suggested name, if that is
            "likely".
        accept_all: the same, also if the suggestion is only a "maybe".
        undo: take the last change of the classes back; the table is not read.
        captioner: captioner that suggests new names first, of `anyclass.captioning`; None keeps the
            suggestions of the run.

    Returns:
        As of `edit_classes`.

    Raises:
        RequestError: there is no discovered class, the table is damaged, a name is empty or not
            printable, or a class that was given is to be renamed, split or rejected.
    """
    run = Path(run)
    if undo and (accept or accept_all or captioner):
        raise RequestError("--undo takes the last change back: ask for other changes afterwards")
    with opened_for_edit(run):
        classes = RunClasses.read(run)
        if undo:
            return classes.undo()
        naming = None
        if captioner is not None:
            from anyclass.naming.captioner_names import suggest_with_captioner  # loads PyTorch

            with Progress() as log:
                naming = suggest_with_captioner(run, captioner, log)
        table = read_class_table(run / TABLE, classes.before.classes)
        if accept or accept_all:
            rows = (naming or classes.naming)["classes"]
            table = accepted(
                table,
                {
                    row["index"]: row["suggested"]
                    for row in rows
                    if row["suggested"] and (accept_all or row["confidence"] == "likely")
                },
            )
        return classes.edit(table_edit(table, classes.before), naming)


def table_edit(table: ClassTable, before: EditedClasses) -> Edit:
    """The edit that a table asks for.

    Args:
        table: names and actions of all classes.
        before: the classes.
    """
    names = before.classes.names
    rejected = before.classes.rejected
    groups: dict[str, list[str]] = {name: [] for name in table.names}
    for old, new in zip(names, table.names, strict=True):
        groups[new].append(old)
    given = set(before.classes.names) - set(before.classes.discovered_names)
    merge = []
    rename = {}
    for new, group in groups.items():
        kept, *others = sorted(group, key=lambda name: name not in given)
        if others:
            merge.append([kept, *others])
        if kept != new:
            rename[kept] = new
    acts = list(zip(names, table.actions, strict=True))
    split = [name for name, action in acts if action == "split"]
    to_reject = [name for name, action in acts if action == "reject"]
    reject = [name for name in to_reject if name not in rejected]
    restore = [name for name in names if name in rejected and name not in to_reject]
    return Edit(merge, split, reject, restore, rename)
