"""The classes in `classifier.json`, with what was merged and split since the fit."""

from pathlib import Path
from typing import Any

from anyclass.classifier.class_edits import ClassEdits, EditedClasses
from anyclass.classifier.settings import SETTINGS, EditSettings, Settings, read_settings
from anyclass.data import Classes
from anyclass.errors import ModelError


def read_edited_classes(folder: Path) -> EditedClasses:
    """Classes of a saved classifier and their edits; no model is loaded.

    Raises:
        ModelError: the file is missing or damaged.
    """
    settings = read_settings(folder / SETTINGS)
    classes = Classes.from_json(settings.classes)
    try:
        return EditedClasses(classes, edits_in(settings, len(classes)))
    except ValueError as error:
        raise ModelError(f"{folder} is damaged: {error!s:.500}") from error


def with_classes(folder: Path, changed: EditedClasses) -> dict[str, Any]:
    """The content of `classifier.json` with other classes and edits.

    Raises:
        ModelError: the file is missing or damaged.
    """
    settings = read_settings(folder / SETTINGS)
    return settings.model_copy(update=class_settings(changed)).to_json()


def class_settings(changed: EditedClasses) -> dict[str, Any]:
    """Classes and edits as settings of a classifier."""
    edits = changed.edits
    settings = None if edits.changes_nothing else EditSettings(**edits.to_json())
    return {"classes": changed.classes.to_json(), "edits": settings}


def edits_in(settings: Settings, classes: int) -> ClassEdits:
    """Edits of a saved classifier.

    Raises:
        ValueError: they do not fit the classes.
    """
    saved = settings.edits
    if saved is None:
        return ClassEdits.none(classes)
    edits = ClassEdits.from_json(saved.members, saved.divided, saved.gates)
    if len(edits.members) != classes:
        raise ValueError("the number of classes differs from its edited classes")
    return edits
