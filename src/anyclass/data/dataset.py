"""Immutable table of images: files, labels and classes.

Labels come from the parent folders, from a table of any subset of the images, or are absent.
Letters: N images, M of them selected.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int, Int64
from PIL import Image

from anyclass.data.class_files import ClassSource, class_names
from anyclass.data.classes import Classes, Kind, listed
from anyclass.data.image import Limits, longer_side
from anyclass.data.label_tables import KnownLabels, read_labels
from anyclass.data.listing import utf8, walk
from anyclass.data.memory import read_item
from anyclass.data.table_files import Table
from anyclass.errors import RequestError, UnlistedLabelError


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Immutable table of images; row i of every other table is image i here."""

    root: Path
    """Folder of the images, absolute and without links."""

    files: tuple[str, ...]
    """POSIX paths relative to `root`; `read` sorts them by code point."""

    labels: Int64[np.ndarray, " N"]
    """Class of each image, -1 where it is unlabelled; read-only."""

    classes: Classes
    """The classes that `labels` index; empty when nothing is known of the classes."""

    skipped: tuple[str, ...] = ()
    """Messages about skipped files and folders, one sentence each."""

    memory: Mapping[str, Any] | None = None
    """Images by their names in `files`, if they are no files below `root`: see `memory.py`."""

    def __post_init__(self) -> None:
        """Make the labels read-only."""
        self.labels.setflags(write=False)

    @classmethod
    def of(
        cls, paths: Iterable[Path | str], classes: Classes | Sequence[str] = ()
    ) -> "ImageDataset":
        """Unlabelled dataset of the images at `paths`, in that order.

        Raises:
            RequestError: `paths` is empty, or the images are on two drives.
        """
        resolved = [Path(path).parent.resolve() / Path(path).name for path in paths]
        try:
            root = Path(os.path.commonpath([path.parent for path in resolved]))
        except ValueError as error:
            raise RequestError("give at least one image, and all of them on one drive.") from error
        return cls(
            root=root,
            files=tuple(utf8(path.relative_to(root).as_posix()) for path in resolved),
            labels=np.full(len(resolved), -1),
            classes=classes if isinstance(classes, Classes) else Classes.of(classes),
        )

    @classmethod
    def read(
        cls,
        images: Path | str,
        classes: ClassSource | None = None,
        labels: Path | str | Table | None = None,
        unknown: int = 0,
        split: Literal["fit", "all"] = "all",
        file_column: str = "file_name",
        label_column: str = "label",
        known: KnownLabels | None = None,
    ) -> "ImageDataset":
        """List the images in a folder recursively and look up their labels.

        Args:
            images: the folder; every file in it that may be an image becomes a row.
            classes: names, a mapping from names to their prompts, or a file of either; by default
                the classes of the labels.
            labels: "folders" (each image's parent folder; an empty folder is a named class), or
                a table with paths relative to itself or to `images`.
            unknown: number of further classes to discover.
            split: "fit" skips `test` when the top-level folders are train/val/test.
            file_column: the table's column of paths (`image_path` is found as well).
            label_column: the table's column of labels; an empty cell is no label.
            known: what an earlier run knew; its labels stay, if `labels` does not change them.

        Raises:
            RequestError: no images, or names, labels and images do not match.
        """
        root = existing_folder(Path(images))
        found = walk(root)
        label_of = dict(known.labels) if known else {}
        messages: tuple[str, ...] = ()
        if labels == "folders":
            label_of |= {file: name for file in found.files if (name := found.parent(file))}
        elif labels is not None:
            columns = (file_column, label_column)
            given_table = labels if isinstance(labels, Table) else Path(labels)
            table = read_labels(given_table, root, found.files, columns, known)
            label_of = table.added_to(label_of)
            messages = table.messages
        kept = found.without_test() if split == "fit" else found
        skipped = (*kept.skipped, *messages)
        if not kept.files:
            raise RequestError(f"there is no image in {root}. {' '.join(skipped)}".rstrip())
        given = [label_of.get(file) for file in kept.files]
        if classes is None:
            empty = kept.empty if labels == "folders" else ()
            used = {name for name in given if name is not None}
            classes = sorted(used | {name for f in empty if (name := kept.parent(f"{f}/"))})
        return cls.with_labels(root, kept.files, given, classes, unknown, skipped)

    @classmethod
    def with_labels(
        cls,
        root: Path,
        files: tuple[str, ...],
        given: Sequence[str | None],
        classes: ClassSource,
        unknown: int = 0,
        skipped: tuple[str, ...] = (),
        memory: Mapping[str, Any] | None = None,
    ) -> "ImageDataset":
        """Dataset of files with a label each, None where it has none.

        Args:
            root: folder of the images.
            files: names of the images.
            given: label of each image.
            classes: names, a mapping from names to their prompts, or a file of either.
            unknown: number of further classes to discover.
            skipped: messages about skipped files and folders.
            memory: images by name, if they are no files below `root`.

        Raises:
            RequestError: a label is none of the classes.
        """
        checked, messages = _with_kinds(classes, files, given, unknown)
        index_of = {None: -1} | {name: c for c, name in enumerate(checked.names)}
        indices = np.array([index_of[name] for name in given], np.int64)
        return cls(root, files, indices, checked, (*skipped, *messages), memory)

    def __len__(self) -> int:
        """N, the number of images."""
        return len(self.files)

    def __getitem__(
        self, index: slice | Sequence[int] | Bool[np.ndarray, " N"] | Int[np.ndarray, " M"]
    ) -> "ImageDataset":
        """Select images by a mask or by indices; the classes stay the same."""
        rows = np.arange(len(self))[index]
        files = tuple(self.files[i] for i in rows)
        return replace(self, files=files, labels=self.labels[rows])

    def path(self, i: int) -> Path:
        """Path of image i."""
        return self.root / self.files[i]

    def open(
        self, i: int, limits: Limits = Limits(), shorter_side: int = 0
    ) -> tuple[str, Image.Image]:
        """Content hash and RGB image of image i; further arguments as of `open_bytes`.

        Raises:
            ImageError: it cannot be used.
        """
        if self.memory is None:
            return read_item(self.path(i), self.root, limits, shorter_side)
        return read_item(self.memory[self.files[i]], None, limits, shorter_side)

    def longer_side(self, i: int) -> int:
        """Longer side of image i in pixels; of a file from its header, without decoding it.

        Raises:
            ImageError: it cannot be used.
        """
        if self.memory is None:
            return longer_side(self.path(i), self.root)
        return max(self.open(i)[1].size)

    @property
    def labelled(self) -> "ImageDataset":
        """The labelled images."""
        return self[self.labels >= 0]

    def unlabelled_copy(self) -> "ImageDataset":
        """The same images and classes, without any label."""
        return replace(self, labels=np.full(len(self), -1))

    def with_unknown(self, unknown: int) -> "ImageDataset":
        """The same images and labels, with another number of unknown classes."""
        return replace(self, classes=replace(self.classes, unknown=unknown))

    def with_kinds(self) -> "ImageDataset":
        """The same images; classes without a labelled one among them are only named."""
        used = set(self.labels.tolist())
        each = range(len(self.classes))
        kinds = tuple[Kind, ...]("labelled" if c in used else "named" for c in each)
        return replace(self, classes=replace(self.classes, kinds=kinds))

    def naming_only(self, names: Collection[str]) -> "ImageDataset":
        """The same images without the labels of the classes in `names`, which stay named.

        With `classes.second_half` this is base-to-new generalization; with the unseen classes of a
        published split, generalized zero-shot; with all names, cross-dataset transfer.
        """
        classes = self.classes
        kept = [name for name in classes.names if name not in set(names)]
        labelled = np.isin(self.labels, [classes.index(name) for name in kept])
        known = {classes.names[c] for c in np.unique(self.labels[labelled]).tolist()}
        return replace(
            self,
            labels=np.where(labelled, self.labels, -1),
            classes=Classes.of(classes.names, classes.all_prompts, labelled=known),
        )


def existing_folder(folder: Path) -> Path:
    """Resolve `folder` to an absolute path without links.

    Raises:
        RequestError: it is not a folder.
    """
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "does not exist"
        raise RequestError(f"{folder} {problem}. Give the folder with the images.")
    return folder.resolve()


def _with_kinds(
    classes: ClassSource, files: Sequence[str], given: Sequence[str | None], unknown: int
) -> tuple[Classes, tuple[str, ...]]:
    """Classes with their kinds, and messages; the label of every file must be among them."""
    listed_classes = class_names(classes)
    used = {label for label in given if label is not None}
    if missing := sorted(used - set(listed_classes.names)):
        wrong = set(missing)
        theirs = [file for file, label in zip(files, given, strict=True) if label in wrong]
        have = "image has" if len(theirs) == 1 else "images have"
        raise UnlistedLabelError(
            f"these labels are not in the list of classes: {listed(missing)}. "
            f"{len(theirs):,} {have} one of them: {listed(theirs, most=1)}. "
            f"{_slips(missing, listed_classes.names)}",
            "Add them to the list, or correct the labels.",
        )
    names = listed_classes.names
    checked = Classes.of(names, listed_classes.prompts, labelled=used, unknown=unknown)
    return checked, listed_classes.messages


def _slips(labels: Sequence[str], names: Sequence[str]) -> str:
    """Ask whether labels that look like a class name are that class; nothing where none does."""
    near = {label: get_close_matches(label, names, n=1, cutoff=0.75) for label in labels[:5]}
    slips = [f"{found[0]!r} by {label!r}" for label, found in near.items() if found]
    return f"Did you mean {', '.join(slips)}? " if slips else ""
