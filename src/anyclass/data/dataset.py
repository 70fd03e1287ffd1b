"""The table of images: which files, which labels, which classes.

Labels are the parent folders, a table of any subset of the images, or nothing.
Letters: N images, M of them selected.
"""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64

from anyclass.data.classes import Classes, listed, normal
from anyclass.data.label_tables import read_labels
from anyclass.errors import RequestError

_NO_IMAGE = {
    *(".txt", ".csv", ".json", ".jsonl", ".md", ".py", ".html", ".parquet"),
    *(".pdf", ".xml", ".yaml", ".yml", ".db"),
}
_SPLITS = {"train", "val", "valid", "validation", "test"}


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Immutable table of images; row i everywhere is image i here."""

    root: Path
    """The folder they lie in, absolute and without links."""

    files: tuple[str, ...]
    """POSIX paths relative to `root`; `read` sorts them by code point."""

    labels: Int64[np.ndarray, " N"]
    """Class of each image, -1 where it is unlabelled; read-only."""

    classes: Classes
    """What the labels mean; empty when nothing is known of the classes."""

    skipped: tuple[str, ...] = ()
    """What was left out and why, one sentence each."""

    def __post_init__(self) -> None:
        """Makes the labels read-only."""
        self.labels.setflags(write=False)

    @classmethod
    def of(
        cls, paths: Iterable[Path | str], classes: Classes | Sequence[str] = ()
    ) -> "ImageDataset":
        """The images at `paths`, in that order and unlabelled.

        Raises:
            RequestError: there is no path, or they share no folder (two drives).
        """
        places = [Path(path).parent.resolve() / Path(path).name for path in paths]
        try:
            root = Path(os.path.commonpath([place.parent for place in places]))
        except ValueError as error:
            raise RequestError("give at least one image, and all of them on one drive.") from error
        return cls(
            root=root,
            files=tuple(_utf8(place.relative_to(root).as_posix()) for place in places),
            labels=np.full(len(places), -1),
            classes=classes if isinstance(classes, Classes) else Classes.of(classes),
        )

    @classmethod
    def read(
        cls,
        images: Path | str,
        classes: Path | str | Sequence[str] | None = None,
        labels: Path | str | None = None,
        unknown: int = 0,
        split: Literal["fit", "all"] = "all",
        file_column: str = "file_name",
        label_column: str = "label",
    ) -> "ImageDataset":
        """Walks `images` recursively and labels what is known.

        Args:
            images: the folder; every file in it that may be an image becomes a row.
            classes: names, or a file of names; by default those that the labels give.
            labels: "folders" (each image's parent folder; an empty folder is a named class), or
                a table whose paths are relative to itself, else to `images`.
            unknown: how many further classes there are to discover.
            split: "fit" leaves out `test` when the folders at the top are train/val/test.
            file_column: the table's column of paths (`image_path` is found as well).
            label_column: the table's column of labels; an empty cell is no label.

        Raises:
            RequestError: no images, or names, labels and images do not go together.
        """
        root = _existing(Path(images))
        found = _walk(root)
        known, said = dict[str, str](), tuple[str, ...]()
        if labels == "folders":
            known = {file: name for file in found.files if (name := found.parent(file))}
        elif labels is not None:
            columns = (file_column, label_column)
            known, said = read_labels(Path(labels), root, found.files, columns)
        kept = found.without_test() if split == "fit" else found
        skipped = (*kept.skipped, *said)
        if not kept.files:
            raise RequestError(f"there is no image in {root}. {' '.join(skipped)}".rstrip())
        given = [known.get(file) for file in kept.files]
        used = {name for name in given if name is not None}
        if classes is None:
            empty = kept.empty if labels == "folders" else ()
            classes = sorted(used | {name for f in empty if (name := kept.parent(f"{f}/"))})
        listing = _listing(classes, used, unknown)
        number = {None: -1} | {name: c for c, name in enumerate(listing.names)}
        label = np.array([number[name] for name in given], np.int64)
        return cls(root, kept.files, label, listing, skipped)

    def __len__(self) -> int:
        """N."""
        return len(self.files)

    def __getitem__(
        self, index: slice | Sequence[int] | Bool[np.ndarray, " N"] | Int[np.ndarray, " M"]
    ) -> "ImageDataset":
        """The images that a mask or a list of places selects, of the same classes."""
        places = np.arange(len(self))[index]
        files = tuple(self.files[i] for i in places)
        return replace(self, files=files, labels=self.labels[places])

    def path(self, i: int) -> Path:
        """Where image i lies."""
        return self.root / self.files[i]

    @property
    def labelled(self) -> "ImageDataset":
        """The images that have a label."""
        return self[self.labels >= 0]

    def unlabelled_copy(self) -> "ImageDataset":
        """The same images and classes, without any label."""
        return replace(self, labels=np.full(len(self), -1))

    def naming_only(self, names: Collection[str]) -> "ImageDataset":
        """The same images with the labels of some classes hidden: these are known by name only.

        With `classes.second_half` this is base-to-new generalization; with the unseen classes of a
        published split, generalized zero-shot; with all names, cross-dataset transfer.
        """
        classes = self.classes
        kept = [name for name in classes.names if name not in set(names)]
        features = np.isin(self.labels, [classes.index(name) for name in kept])
        known = {classes.names[c] for c in np.unique(self.labels[features]).tolist()}
        return replace(
            self,
            labels=np.where(features, self.labels, -1),
            classes=Classes.of(classes.names, classes.prompts, labelled=known),
        )


def _existing(folder: Path) -> Path:
    """`folder`, absolute and without links."""
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise RequestError(f"{folder} {what}. Give the folder that holds the images.")
    return folder.resolve()


class _Found(NamedTuple):
    """What a walk finds; all paths POSIX, relative and sorted by code point."""

    files: tuple[str, ...]
    """What may be an image."""

    empty: tuple[str, ...]
    """Folders that hold neither images nor folders."""

    splits: bool
    """Whether the folders at the top are train/val/test and nothing else."""

    skipped: tuple[str, ...]
    """Sentences on what was left out."""

    def parent(self, path: str) -> str | None:
        """The label that the parent folder of `path` gives; none at the top of root or split."""
        folder = path.rpartition("/")[0]
        if not folder or (self.splits and "/" not in folder):
            return None
        return normal(folder.rpartition("/")[2])

    def without_test(self) -> "_Found":
        """All but the test split, if there is one."""
        if not self.splits:
            return self
        files = tuple(file for file in self.files if _top(file) != "test")
        empty = tuple(folder for folder in self.empty if _top(folder) != "test")
        left = len(self.files) - len(files)
        said = (f"left out, images of the test split ({left}).",) if left else ()
        return _Found(files, empty, self.splits, self.skipped + said)


def _walk(root: Path) -> _Found:
    """Lists what may be an image, and what was left out and why."""
    files: list[str] = []
    empty: list[str] = []
    left: dict[str, list[str]] = {}
    top: list[str] = []

    def denied(error: OSError) -> None:
        left.setdefault("unreadable folders", []).append(os.path.relpath(error.filename, root))

    def keep(names: list[str], prefix: str, why_not: Callable[[Path], str]) -> list[str]:
        reasons = {name: why_not(root / prefix / name) for name in names}
        for name in filter(reasons.get, names):
            left.setdefault(reasons[name], []).append(prefix + name)
        return [name for name in names if not reasons[name]]

    for folder, folders, names in os.walk(root, onerror=denied):
        prefix = Path(folder).relative_to(root).as_posix() + "/" if Path(folder) != root else ""
        folders[:] = keep(folders, prefix, _no_folder)
        images = keep(names, prefix, _no_image)
        files += [prefix + name for name in images]
        empty += [] if folders or images or not prefix else [prefix[:-1]]
        top += [] if prefix else folders
    said = [f"left out, {why} ({len(v)}): {listed(sorted(v), 3)}." for why, v in left.items()]
    at_top = {name.casefold() for name in top}
    splits = "train" in at_top and at_top <= _SPLITS
    return _Found(tuple(sorted(files)), tuple(sorted(empty)), splits, tuple(sorted(said)))


def _no_folder(path: Path) -> str:
    """Why a folder is not entered, empty if it is."""
    if path.name.startswith("."):
        return "hidden folders"
    if _utf8(path.name) != path.name:
        return "folders whose names are not UTF-8"
    return "linked folders" if os.path.islink(path) else ""  # noqa: PTH114 (never raises)


def _no_image(path: Path) -> str:
    """Why a file is no candidate, empty if it is: otherwise its content decides, not its name."""
    if path.name.startswith("."):
        return "hidden files"
    if _utf8(path.name) != path.name:
        return "files whose names are not UTF-8"
    bare = not path.suffix and os.path.isfile(path)  # noqa: PTH113 (never raises)
    if path.suffix.lower() in _NO_IMAGE or (bare and path.stat().st_size == 0):
        return "files that are no images"
    return ""


def _utf8(path: str) -> str:
    """`path` as text that every table can hold; bytes that are no UTF-8 are spelled out."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def _top(path: str) -> str:
    return path.split("/")[0].casefold()


def _listing(classes: Path | str | Sequence[str], used: set[str], unknown: int) -> Classes:
    """The classes with their kinds; every label must be among them."""
    if isinstance(classes, Path | str):
        base = Classes.read(Path(classes))
    else:
        base = Classes.of(classes)
    if strangers := sorted(used - set(base.names)):
        raise RequestError(
            f"{len(strangers)} labels are not in the list of classes: {listed(strangers)}. "
            "Add them to the list, or correct the labels."
        )
    return Classes.of(base.names, base.prompts, labelled=used, unknown=unknown)
