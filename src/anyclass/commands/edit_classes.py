"""`edit_classes`: merge, split, reject and rename the classes of a run, without a new fit.

Probabilities of merged classes add; a class is split by 2-means of its images. All files of the run
are changed together, or none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from anyclass.classifier.class_edits import EditedClasses, is_placeholder
from anyclass.classifier.saved_classes import read_edited_classes, with_classes
from anyclass.commands.class_changes import Edit, applied, changes
from anyclass.commands.class_history import HISTORY, History
from anyclass.commands.run_files import complete, mark_ready, opened_for_edit, prepared
from anyclass.data import ImageDataset
from anyclass.errors import FileError, ModelError, RequestError
from anyclass.files import Json, atomic_write, write_json
from anyclass.naming.edited_naming import edited_naming
from anyclass.naming.naming_files import NAMING, write_naming
from anyclass.run.columns import REJECTED
from anyclass.run.content import read_classes, read_naming, read_parquet
from anyclass.run.edited_metrics import edited_metrics, read_metrics
from anyclass.run.edited_tables import (
    EditedRun,
    edited_csv,
    edited_table,
    followed_csv,
    labels_by_person,
    write_csv,
)

if TYPE_CHECKING:
    import anyclass.commands.training_images


def edit_classes(
    run: Path | str,
    merge: Sequence[Sequence[str]] = (),
    split: Sequence[str] = (),
    reject: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    restore: Sequence[str] = (),
    undo: bool = False,
    images: ImageDataset | None = None,
) -> Json:
    """Merge, split, reject and rename discovered classes of a run; nothing is fitted again.

    Example: `edit_classes("run", merge=[("discovered 1", "discovered 4")], split=["discovered 2"])`

    Args:
        run: a run folder with discovered classes.
        merge: groups of classes; the probabilities of a group add. The class that was given keeps
            its name, else the first one.
        split: classes that are divided by 2-means of their images: "discovered 2" into "discovered
            2a" and "discovered 2b". This needs the images of the run.
        reject: classes whose images get no label.
        rename: old name -> new name; also names of halves that `split` makes.
        restore: rejected classes whose images get labels again.
        undo: take the last edit back; nothing else can be asked for.
        images: the images of the run, if they are in memory; None: where the run found them.

    Returns:
        `renamed` (old name -> new name), `merged` (class -> classes that it consists of), `split`
        (class -> its halves), `rejected` and `restored` (names), `undone` (the changes that were
        taken back, or None), `nameless` (classes that are still "discovered N"), `classes` (all
        names), `undo` (number of edits that can be taken back) and `report`.

    Raises:
        RequestError: the run has no discovered classes or is in use, a class does not exist or was
            given, a name is unusable or taken, images are missing, or there is nothing to undo.
        AnyclassError: a file of the run is damaged.
    """
    if undo and any((merge, split, reject, rename, restore)):
        raise RequestError("undo takes the last edit back: ask for other edits afterwards")
    run = Path(run)
    with opened_for_edit(run):
        classes = RunClasses.read(run, images)
        if undo:
            return classes.undo()
        return classes.edit(Edit(merge, split, reject, restore, rename or {}))


@dataclass
class RunClasses:
    """The classes of a locked run, and what an edit needs of its files."""

    run: Path
    """The run folder."""
    before: EditedClasses
    """Its classes."""
    naming: Json
    """The content of `naming.json`."""
    exact: pa.Table
    """Its table of predictions."""
    images: ImageDataset | None = None
    """Its images, if they are in memory."""

    @classmethod
    def read(cls, run: Path, images: ImageDataset | None = None) -> "RunClasses":
        """Read a locked run.

        Raises:
            RequestError: it has no discovered classes.
            AnyclassError: a file is damaged.
        """
        if not (run / NAMING).is_file():
            raise RequestError(f"{run} has no discovered classes to rename, merge or split")
        classes = read_classes(run)
        before = read_edited_classes(run / "model")
        if before.classes != classes:
            raise FileError(f"{run} is damaged: its model has other classes than classes.json")
        exact = read_parquet(run / "predictions.parquet")
        return cls(run, before, read_naming(run), exact, images)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The readable images."""
        rows = zip(
            self.exact["file_name"].to_pylist(), self.exact["status"].to_pylist(), strict=True
        )
        return tuple(file for file, status in rows if status != REJECTED)

    def edit(self, asked: Edit, naming: Json | None = None) -> Json:
        """Apply an edit to all files.

        Args:
            asked: what is asked for.
            naming: new content of `naming.json`; None: as it is.
        """
        after = applied(self.before, asked, self._gate)
        edited = self._edited(after, asked.names_only)
        found = changes(edited)
        history = History.read(self.run)
        if any(found.values()):
            corrected = labels_by_person(edited, self.run / "predictions.csv")
            history = history.added(self.before, self.naming, corrected, found)
        elif naming is None:
            return self._result(self.before, found, history)
        rows = edited_naming(edited, naming or self.naming)
        self._write(edited, rows, history, {})
        return self._result(after, found, history)

    def undo(self) -> Json:
        """Take the last edit back in all files.

        Raises:
            RequestError: there was none.
            AnyclassError: the history is damaged.
        """
        history = History.read(self.run)
        if not history.states:
            raise RequestError(f"{self.run} has no edit that can be taken back")
        state = history.states[-1]
        try:
            after = state.restored(self.before.edits)
        except (ValueError, ModelError) as error:
            raise FileError(f"{history.path} is damaged: {error}") from error
        edited = self._edited(after, after.predicts_as(self.before))
        rows = self.naming | {"classes": state.naming}
        history = history.without_last()
        self._write(edited, rows, history, state.corrected)
        return self._result(after, changes(edited), history) | {
            "undone": state.changes.model_dump()
        }

    @cached_property
    def _training_images(self) -> "anyclass.commands.training_images.TrainingImages":
        """Probabilities of the training images; this loads PyTorch, which new names do without."""
        from anyclass.commands.training_images import TrainingImages

        return TrainingImages(self.run, self.files, self.before.edits, self.images)

    def _gate(self, classes: EditedClasses, name: str) -> Float[np.ndarray, " F"]:
        """Gate that divides a class."""
        return self._training_images.gate(classes, name)

    def _edited(self, after: EditedClasses, names_only: bool) -> EditedRun:
        """The edit, with the probabilities of the classes afterwards if they change."""
        found = None if names_only else self._training_images.probabilities(after.edits)
        return EditedRun(self.before, after, self.exact, self.files, found)

    def _write(
        self,
        edited: EditedRun,
        naming: Json,
        history: History,
        remembered: Mapping[str, str],
    ) -> None:
        """Prepare the new files and move them into the run."""
        run = self.run
        new = prepared(run)
        classes = edited.after.classes
        write_json(new / "classes.json", classes.to_json())
        settings = with_classes(run / "model", edited.after)
        write_json(new / "model" / "classifier.json", settings)
        metrics = edited_metrics(edited, read_metrics(run))
        write_json(new / "metrics.json", metrics)
        write_naming(new, naming, classes.rejected)
        with atomic_write(new / "predictions.parquet") as draft:
            pq.write_table(edited_table(edited), draft)
        if (run / "predictions.csv").is_file():
            rows = edited_csv(edited, run / "predictions.csv", remembered)
            write_csv(new / "predictions.csv", rows)
        if (run / "suspicious.csv").is_file():
            write_csv(new / "suspicious.csv", followed_csv(edited, run / "suspicious.csv"))
        write_json(new / HISTORY, history.to_json())
        if edited.probabilities is not None:
            self._training_images.write(new)
        mark_ready(run)
        complete(run, None if self.images is None else self.images.memory)

    def _result(self, after: EditedClasses, found: Json, history: History) -> Json:
        """What `edit_classes` returns."""
        names = after.classes.names
        return found | {
            "undone": None,
            "nameless": [
                name
                for name in after.classes.discovered_names
                if is_placeholder(name) and name not in after.classes.rejected
            ],
            "classes": list(names),
            "undo": len(history.states),
            "report": str(self.run / "report.html"),
        }
