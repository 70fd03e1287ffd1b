"""`class_history.json`: the classes of a run before each edit, so that it can be taken back."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, NonNegativeInt, ValidationError

from anyclass.classifier.class_edits import ClassEdits, EditedClasses
from anyclass.data import Classes
from anyclass.errors import FileError
from anyclass.files import Json, read_json
from anyclass.run.schemas import NamedClass

HISTORY = "class_history.json"
"""Name of the file."""

MOST = 50
"""Maximum number of edits that are remembered; older ones cannot be taken back."""


def _named(row: Json) -> Json:
    """Check a row of `naming.json`, which is kept as it is."""
    NamedClass.model_validate(row)
    return row


class Changes(BaseModel):
    """What an edit changed, by name."""

    model_config = ConfigDict(extra="forbid")
    renamed: dict[str, str]
    """Old name -> new name."""
    merged: dict[str, list[str]]
    """Class -> classes that became it."""
    split: dict[str, list[str]]
    """Class -> its halves."""
    rejected: list[str]
    """Classes whose images get no label since."""
    restored: list[str]
    """Classes that are used again since."""


class ClassState(BaseModel):
    """Classes before an edit. Splits and gates are the first ones of those that came later."""

    model_config = ConfigDict(extra="forbid")
    changes: Changes
    """What the edit changed."""
    classes: dict[str, Any]
    """The classes."""
    members: list[list[NonNegativeInt]]
    """Parts of each class."""
    divided: NonNegativeInt
    """Number of splits."""
    gates: NonNegativeInt
    """Number of gates."""
    naming: list[Annotated[Json, AfterValidator(_named)]]
    """Rows of `naming.json`."""
    corrected: dict[str, str]
    """Labels that persons had given, by file name."""

    def restored(self, now: ClassEdits) -> EditedClasses:
        """The classes before the edit, from those after it.

        Raises:
            ValueError: the state does not fit.
        """
        divided = now.divided[: self.divided]
        gates = now.gates[: self.gates] if len(now.gates) else now.gates
        edits = ClassEdits.from_json(self.members, divided, gates.tolist())
        if not edits.members:
            raise ValueError("it has no class")
        classes = Classes.from_json(self.classes)
        if [(row["index"], row["name"]) for row in self.naming] != list(enumerate(classes.names)):
            raise ValueError("its names are not those of its classes")
        if classes.total != len(edits.members):
            raise ValueError("the number of its classes differs from that of their parts")
        return EditedClasses(classes, edits)


class _Content(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid")
    states: list[ClassState]


@dataclass(frozen=True)
class History:
    """States before the edits of a run, the last one last."""

    path: Path
    """The file."""
    states: tuple[ClassState, ...] = ()
    """The states."""

    @classmethod
    def read(cls, run: Path) -> "History":
        """Read the file of a run; without one, there was no edit.

        Raises:
            FileError: it is damaged.
        """
        path = run / HISTORY
        if not path.is_file():
            return cls(path)
        try:
            return cls(path, tuple(_Content.model_validate(read_json(path)).states))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "it"
            raise FileError(
                f"{path} is damaged: {place}: {first['msg']}; without the file, edits so far "
                "cannot be taken back"
            ) from error

    def added(
        self, before: EditedClasses, naming: Json, corrected: Mapping[str, str], changes: Json
    ) -> "History":
        """The history with one more state; the oldest ones are dropped."""
        state = ClassState(
            changes=Changes(**changes),
            classes=before.classes.to_json(),
            members=[list(parts) for parts in before.edits.members],
            divided=len(before.edits.divided),
            gates=len(before.edits.gates),
            naming=naming["classes"],
            corrected=dict(corrected),
        )
        return replace(self, states=(*self.states, state)[-MOST:])

    def without_last(self) -> "History":
        """The history after the last edit was taken back."""
        return replace(self, states=self.states[:-1])

    def to_json(self) -> Json:
        """The content of the file."""
        return _Content(states=list(self.states)).model_dump(mode="json")
