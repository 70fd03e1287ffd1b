"""Session: the run on the review page, and what a person does to it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from anyclass.backbone import Backbone
from anyclass.classifier.class_edits import is_placeholder
from anyclass.classifier.classifier import Classifier
from anyclass.data.classes import has_invisible, normal, plural
from anyclass.errors import RequestError
from anyclass.files import Json
from anyclass.review.catalogue import Catalogue, Show, Sort
from anyclass.review.class_rows import class_rows
from anyclass.review.corrections import Corrections, write_corrections
from anyclass.review.image_index import ImageIndex
from anyclass.review.schema import LONGEST_NAME, ClassEdit
from anyclass.review.second_round import before_after, class_options, is_finished, next_run
from anyclass.review.thumbnails import Thumbnails
from anyclass.review.training import Training
from anyclass.run.folder import REVIEW

CHANGES = ("renamed", "merged", "split", "rejected", "restored")
"""What `edit_classes` says of the classes that it changed."""


class Tools(NamedTuple):
    """What the page takes from the commands."""

    load: Callable[[Path], tuple[Backbone, Classifier]]
    """Loads the model before training and the classifier of a run."""
    edit_classes: Callable[..., Any]
    """`edit_classes(run, merge, split, reject, rename, restore, undo)` of a run."""


class Session:
    """A run that is being reviewed."""

    def __init__(self, run: Path, tools: Tools, thumbnails: Thumbnails | None = None) -> None:
        """Open a run; the model is loaded in the background.

        Raises:
            RequestError: it is no finished run of images.
        """
        self._tools = tools
        self._lock = RLock()
        self.thumbnails = thumbnails or Thumbnails()
        self.training = Training()
        self._open(run)

    def _open(self, run: Path) -> None:
        self.catalogue = Catalogue.read(run)
        self.corrections = Corrections(run / REVIEW / "corrections.sqlite")
        self.index = self._new_index()

    def _new_index(self) -> ImageIndex:
        run = self.catalogue.run
        index = ImageIndex(self.catalogue, lambda: self._tools.load(run))
        index.start()
        return index

    def close(self) -> None:
        """Stop what runs, and write the table of corrections if there are some."""
        with self._lock:
            self.training.cancel()
            self.index.stop()
            if self.checked:
                write_corrections(self.table, self.corrections.labels)
            self.corrections.close()
            self.thumbnails.close()

    @property
    def table(self) -> Path:
        """RUN/review/corrections.csv, which `fit --labels` takes."""
        return self.catalogue.run / REVIEW / "corrections.csv"

    @property
    def checked(self) -> int:
        """Number of images with a correction."""
        return len(self.corrections)

    # what the page shows

    def state(self) -> Json:
        """Classes with their numbers of images, and what can be done."""
        catalogue = self.catalogue
        labels = self.corrections.labels
        last = self.corrections.last()
        return {
            "run": str(catalogue.run),
            "name": catalogue.run.absolute().name,
            "images": catalogue.num_usable,
            "rejected": len(catalogue) - catalogue.num_usable,
            "checked": len(labels),
            "classes": class_rows(catalogue, labels),
            "undo": None if last is None else last.title,
            "suspicious": len(catalogue.suspicious),
            "ranked": catalogue.ranked,
            "model": self.index.message(),
            "training": self.training.progress(),
        }

    def view(self, sort: Sort, label: str | None, show: Show) -> list[int]:
        """Rows of images in an order."""
        return self.catalogue.view(sort, label, show, self.corrections.labels)

    def rows(self, ids: Sequence[int]) -> list[Json]:
        """What the page shows of some images.

        Raises:
            RequestError: there is no such image.
        """
        names = self.catalogue.classes.names
        rows = []
        for i in ids:
            self.check(i)
            row = self.catalogue.row(i)
            top = [{"label": names[c], "probability": p} for c, p in self.index.top(i)]
            correction = self.corrections.get(self.catalogue.files[i])
            rows.append(row | {"top": top, "correction": correction})
        return rows

    def check(self, i: int) -> None:
        """Require an image.

        Raises:
            RequestError: there is no such image.
        """
        if not 0 <= i < len(self.catalogue):
            raise RequestError(f"there is no image {i}: the run has {len(self.catalogue)}")

    def useful(self, count: int, label: str | None = None) -> list[int]:
        """Rows of the images whose label would teach most, perhaps of one class only."""
        labels = self.corrections.labels
        catalogue = self.catalogue

        def unlabelled(i: int) -> bool:
            free = not catalogue.given(i) and catalogue.files[i] not in labels
            return free and label in (None, catalogue.label(i, labels))

        return self.index.useful(unlabelled, count)

    # what a person does

    def correct(self, ids: Sequence[int], label: str | None) -> None:
        """Give images a label, at once on disk; None takes the label back.

        Raises:
            RequestError: there is no such image, or the label is no name, or that of a discovered
                class that is called otherwise now.
        """
        with self._lock:
            for i in ids:
                self.check(i)
            name = None if label is None else checked_name(label)
            if name and is_placeholder(name) and name not in self.catalogue.classes.names:
                raise RequestError(
                    f"there is no class {name!r} now, it was renamed or merged: reload the page"
                )
            files = self.catalogue.files
            nothing = {files[i]: "" if self.catalogue.given(i) else None for i in ids}
            after = nothing if name is None else dict.fromkeys(nothing, name)
            count = plural(len(after), "image")
            title = f"{count}: no label" if name is None else f"{count}: {name}"
            self.corrections.record(after, title)

    def undo(self) -> Json:
        """Take the last step back; returns its title and its images.

        Raises:
            RequestError: nothing was done, or a training is running.
        """
        with self._lock:
            step = self.corrections.last()
            if step is None:
                raise RequestError("there is nothing to undo")
            if step.of_classes:
                with self._edited_run():
                    self._tools.edit_classes(self.catalogue.run, undo=True)
            row_of = self.catalogue.row_of
            ids = sorted(row_of[file] for file in self.corrections.undo(step) if file in row_of)
            return {"title": step.title, "ids": ids}

    def edit(self, edit: ClassEdit) -> None:
        """Merge, split, reject, rename or restore classes in the files of the run.

        Corrections follow their class; those of a class that was split or rejected are taken back.

        Raises:
            RequestError: it is not possible; the message says why.
        """
        if not edit.title:
            raise RequestError("give something to merge, split, reject, rename or restore")
        with self._lock:
            with self._edited_run():
                done = self._tools.edit_classes(
                    self.catalogue.run,
                    merge=[(b, a) for a, b in edit.merge],  # the first one keeps its name
                    split=list(edit.split),
                    reject=list(edit.reject),
                    rename=dict(edit.rename),
                    restore=list(edit.restore),
                )
            if not any(done[kind] for kind in CHANGES):
                raise RequestError("the classes are as before: this changes nothing")
            now: dict[str, str | None] = dict(done["renamed"])
            now |= {old: new for new, olds in done["merged"].items() for old in olds}
            now |= dict.fromkeys((*done["split"], *done["rejected"]))
            labels = self.corrections.labels
            after = {file: now[label] for file, label in labels.items() if label in now}
            self.corrections.record(after, edit.title, of_classes=True)

    @contextmanager
    def _edited_run(self) -> Iterator[None]:
        """Change files of the run, then read it again.

        Raises:
            RequestError: a training is running, which reads the run.
        """
        if self.training.state == "running":
            raise RequestError("a training is running: wait for its end, or cancel it")
        yield
        self.index.stop()
        self.catalogue = Catalogue.read(self.catalogue.run)
        self.index = self._new_index()

    # the second round

    def train(self) -> Json:
        """Start the second round with the corrections as labels.

        Raises:
            RequestError: there is no correction, or a training is running.
        """
        with self._lock:
            if not self.checked:
                raise RequestError("nothing was corrected or confirmed yet: there is no new label")
            write_corrections(self.table, self.corrections.labels)
            run = self.catalogue.run
            options = [
                "--from",
                str(run),
                "--labels",
                str(self.table),
                *class_options(self.catalogue, self.corrections.labels),
            ]
            self.training.start(*self._target(options))
            return self.training.progress()

    def _target(self, options: list[str]) -> tuple[list[str], Path]:
        """Options and the new run folder: that of a training that was cancelled or failed again."""
        unfinished = self.training.run
        if unfinished is None or is_finished(unfinished) or self.training.state == "running":
            return options, next_run(self.catalogue.run)
        return [*options, "--overwrite"], unfinished

    def result(self) -> Json:
        """Before and after, once a training is finished.

        Raises:
            RequestError: there is no finished training.
        """
        return before_after(self.catalogue.run, self._trained_run())

    def go_on(self) -> None:
        """Review the new run from now on.

        Raises:
            RequestError: there is no finished training.
        """
        with self._lock:
            new = self._trained_run()
            earlier = self.corrections
            self.index.stop()
            self._open(new)
            earlier.close()
            self.training = Training()

    def _trained_run(self) -> Path:
        """The run folder of the training that is finished.

        Raises:
            RequestError: there is no finished training.
        """
        run = self.training.run
        if self.training.state != "finished" or run is None or not is_finished(run):
            raise RequestError("no training is finished")
        return run


def checked_name(name: str) -> str:
    """A class name that a person typed, normalised.

    Raises:
        RequestError: it is empty, too long, or has invisible characters.
    """
    name = normal(name)
    if not name:
        raise RequestError("a class needs a name")
    if len(name) > LONGEST_NAME:
        raise RequestError(f"a class name has at most {LONGEST_NAME} characters")
    if has_invisible(name):
        raise RequestError(f"the class name {name!r:.80} has invisible characters")
    return name
