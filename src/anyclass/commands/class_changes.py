"""What an edit of classes asks for, what it leads to, and what it changed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from anyclass.classifier.class_edits import EditedClasses
from anyclass.data.classes import has_invisible, normal
from anyclass.errors import RequestError
from anyclass.files import Json
from anyclass.run.edited_tables import EditedRun


@dataclass(frozen=True)
class Edit:
    """What is asked for. Names are those before the edit; `rename` may also name new halves."""

    merge: Sequence[Sequence[str]] = ()
    """Groups of classes that become one."""
    split: Sequence[str] = ()
    """Classes that are divided in two."""
    reject: Sequence[str] = ()
    """Classes whose images get no label."""
    restore: Sequence[str] = ()
    """Rejected classes that are used again."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """Old name -> new name."""

    @property
    def names_only(self) -> bool:
        """Whether no prediction changes."""
        return not (self.merge or self.split or self.reject or self.restore)


def applied(
    classes: EditedClasses,
    asked: Edit,
    gate_of: Callable[[EditedClasses, str], Float[np.ndarray, " F"]],
) -> EditedClasses:
    """Classes after an edit.

    Args:
        classes: the classes before.
        asked: the edit.
        gate_of: gate that divides a class, as of `two_means`.

    Raises:
        RequestError: a class does not exist or was given, or a name is unusable or taken.
    """
    for old, new in asked.rename.items():
        if not normal(new) or has_invisible(normal(new)):
            raise RequestError(
                f"{new!r:.80} cannot be the name of {old!r:.80}: it is empty, or has invisible "
                "characters"
            )
    for group in asked.merge:
        classes = classes.merge(group)
    for name in asked.reject:
        classes = classes.reject(name)
    for name in asked.restore:
        classes = classes.restore(name)
    halves = {old for old in asked.rename if normal(old) not in classes.classes.names}
    first = {old: new for old, new in asked.rename.items() if old not in halves}
    classes = classes.rename(first)
    for old in asked.split:
        name = first.get(old, old)
        classes = classes.split(name, gate_of(classes, name))
    return classes.rename({old: asked.rename[old] for old in halves})


def changes(edited: EditedRun) -> Json:
    """What is different after an edit, by name."""
    before = edited.before.classes
    after = edited.after.classes
    origins: dict[str, list[str]] = {name: [] for name in after.names}
    split: dict[str, list[str]] = {}
    restored = set(before.rejected)
    for old, now in edited.successors.items():
        names = [after.names[c] for c in now]
        for name in names:
            origins[name].append(old)
        if len(names) > 1:
            split[old] = names
        if set(names) & set(after.rejected):
            restored.discard(old)
    merged = {new: olds for new, olds in origins.items() if len(olds) > 1}
    single = {new: olds[0] for new, olds in origins.items() if len(olds) == 1}
    renamed = {old: new for new, old in single.items() if old != new and old not in split}
    rejected = [new for new in after.rejected if not set(origins[new]) & set(before.rejected)]
    return {
        "renamed": renamed,
        "merged": merged,
        "split": split,
        "rejected": rejected,
        "restored": [old for old in before.rejected if old in restored],
    }
