"""Immutable table of images: files, labels and classes.

Labels come from the parent folders, from a table of any subset of the images, or are absent.
Letters: N images, M of them selected.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64
from PIL import Image

from anyclass.data.classes import Classes, ClassNames, classes_of, listed, normal
from anyclass.data.image import Limits
from anyclass.data.label_tables import KnownLabels, LabelRows, read_labels
from anyclass.data.memory import read_item
from anyclass.errors import RequestError

_NO_IMAGE = {
    *(".txt", ".csv", ".json", ".jsonl", ".md", ".py", ".html", ".parquet"),
    *(".pdf", ".xml", ".yaml", ".yml", ".db"),
}
_SPLITS = {"train", "val", "valid", "validation", "test"}


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
            files=tuple(_utf8(path.relative_to(root).as_posix()) for path in resolved),
            labels=np.full(len(resolved), -1),
            classes=classes if isinstance(classes, Classes) else Classes.of(classes),
        )

    @classmethod
    def read(
        cls,
        images: Path | str,
        classes: ClassNames | None = None,
        labels: Path | str | LabelRows | None = None,
        unknown: int = 0,
        split: Literal["fit", "all"] = "all",
        file_column: str = "file_name",
        label_column: str = "label",
        known: KnownLabels | None = None,
    ) -> "ImageDataset":
        """List the images in a folder recursively and look up their labels.

        Args:
            images: the folder; every file in it that may be an image becomes a row.
            classes: names, a mapping from names to prompts, or a file; by default the classes of
                the labels.
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
        root = _existing(Path(images))
        found = _walk(root)
        label_of = dict(known.labels) if known else {}
        messages: tuple[str, ...] = ()
        if labels == "folders":
            label_of |= {file: name for file in found.files if (name := found.parent(file))}
        elif labels is not None:
            columns = (file_column, label_column)
            given_table = labels if isinstance(labels, LabelRows) else Path(labels)
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
        classes: ClassNames,
        unknown: int = 0,
        skipped: tuple[str, ...] = (),
        memory: Mapping[str, Any] | None = None,
    ) -> "ImageDataset":
        """Dataset of files with a label each, None where it has none.

        Args:
            root: folder of the images.
            files: names of the images.
            given: label of each image.
            classes: names, a mapping from names to prompts, or a file.
            unknown: number of further classes to discover.
            skipped: messages about skipped files and folders.
            memory: images by name, if they are no files below `root`.

        Raises:
            RequestError: a label is none of the classes.
        """
        used = {name for name in given if name is not None}
        checked = _with_kinds(classes, used, unknown)
        index_of = {None: -1} | {name: c for c, name in enumerate(checked.names)}
        indices = np.array([index_of[name] for name in given], np.int64)
        return cls(root, files, indices, checked, skipped, memory)

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

    def open(self, i: int, limits: Limits = Limits()) -> tuple[str, Image.Image]:
        """Content hash and RGB image of image i.

        Raises:
            ImageError: it cannot be used.
        """
        if self.memory is None:
            return read_item(self.path(i), self.root, limits)
        return read_item(self.memory[self.files[i]], None, limits)

    @property
    def labelled(self) -> "ImageDataset":
        """The labelled images."""
        return self[self.labels >= 0]

    def unlabelled_copy(self) -> "ImageDataset":
        """The same images and classes, without any label."""
        return replace(self, labels=np.full(len(self), -1))

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
            classes=Classes.of(classes.names, classes.prompts, labelled=known),
        )


def _existing(folder: Path) -> Path:
    """Resolve `folder` to an absolute path without links.

    Raises:
        RequestError: it is not a folder.
    """
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "does not exist"
        raise RequestError(f"{folder} {problem}. Give the folder with the images.")
    return folder.resolve()


class _Listing(NamedTuple):
    """Files and folders below the root; all paths POSIX, relative and sorted by code point."""

    files: tuple[str, ...]
    """Files that may be images."""

    empty: tuple[str, ...]
    """Folders without images and folders."""

    splits: bool
    """Whether the top-level folders are train/val/test only."""

    skipped: tuple[str, ...]
    """Messages about skipped files and folders."""

    def parent(self, path: str) -> str | None:
        """Label of `path` by its parent folder; None directly in the root or in a split."""
        folder = path.rpartition("/")[0]
        if not folder or (self.splits and "/" not in folder):
            return None
        return normal(folder.rpartition("/")[2])

    def without_test(self) -> "_Listing":
        """The listing without the test split, if there is one."""
        if not self.splits:
            return self
        files = tuple(file for file in self.files if _top(file) != "test")
        empty = tuple(folder for folder in self.empty if _top(folder) != "test")
        removed = len(self.files) - len(files)
        messages = (f"skipped images of the test split ({removed}).",) if removed else ()
        return _Listing(files, empty, self.splits, self.skipped + messages)


def _walk(root: Path) -> _Listing:
    """List the files that may be images, and the skipped files with the reason."""
    files: list[str] = []
    empty: list[str] = []
    skipped: dict[str, list[str]] = {}
    top: list[str] = []

    def denied(error: OSError) -> None:
        skipped.setdefault("unreadable folders", []).append(os.path.relpath(error.filename, root))

    def keep(names: list[str], prefix: str, why_not: Callable[[Path], str]) -> list[str]:
        reasons = {name: why_not(root / prefix / name) for name in names}
        for name in filter(reasons.get, names):
            skipped.setdefault(reasons[name], []).append(prefix + name)
        return [name for name in names if not reasons[name]]

    for folder, folders, names in os.walk(root, onerror=denied):
        prefix = Path(folder).relative_to(root).as_posix() + "/" if Path(folder) != root else ""
        folders[:] = keep(folders, prefix, _why_no_folder)
        images = keep(names, prefix, _why_no_image)
        files += [prefix + name for name in images]
        if prefix and not folders and not images:
            empty.append(prefix[:-1])
        if not prefix:
            top += folders
    messages = [f"skipped {why} ({len(v)}): {listed(sorted(v), 3)}." for why, v in skipped.items()]
    at_top = {name.casefold() for name in top}
    splits = "train" in at_top and at_top <= _SPLITS
    return _Listing(tuple(sorted(files)), tuple(sorted(empty)), splits, tuple(sorted(messages)))


def _why_no_folder(path: Path) -> str:
    """Reason for skipping a folder; empty if it is read."""
    if path.name.startswith("."):
        return "hidden folders"
    if _utf8(path.name) != path.name:
        return "folders whose names are not UTF-8"
    return "linked folders" if os.path.islink(path) else ""  # noqa: PTH114 (never raises)


def _why_no_image(path: Path) -> str:
    """Reason for skipping a file by its name; empty if its content must decide."""
    if path.name.startswith("."):
        return "hidden files"
    if _utf8(path.name) != path.name:
        return "files whose names are not UTF-8"
    bare = not path.suffix and os.path.isfile(path)  # noqa: PTH113 (never raises)
    if path.suffix.lower() in _NO_IMAGE or (bare and path.stat().st_size == 0):
        return "files that are not images"
    return ""


def _utf8(path: str) -> str:
    """Escape the bytes in `path` that are not UTF-8, so that every table can store it."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def _top(path: str) -> str:
    return path.split("/")[0].casefold()


def _with_kinds(classes: ClassNames, used: set[str], unknown: int) -> Classes:
    """Classes with their kinds; every label in `used` must be among them."""
    base = classes_of(classes)
    missing = sorted(used - set(base.names))
    if missing:
        raise RequestError(
            f"{len(missing)} labels are not in the list of classes: {listed(missing)}. "
            "Add them to the list, or correct the labels."
        )
    return Classes.of(base.names, base.prompts, labelled=used, unknown=unknown)
