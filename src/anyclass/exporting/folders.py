"""A folder per class with links to the images: the layout of torchvision's ImageFolder.

    FOLDER/classes.csv    folder, class
    FOLDER/red square/    links to the images of this class

Hard links, or symbolic links where the images are on another disk. No image is moved or copied.
A name that some system does not take, or that differs from another by case alone, is changed.
"""

import errno
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from anyclass.exporting.predictions import LabelledPredictions, Row
from anyclass.files import portable, slug, storage
from anyclass.run.tables import write_table

FOLDERS = "classes.csv"
"""Table of the folders and their classes."""

TORCHVISION = frozenset((".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"))
"""Endings that torchvision's ImageFolder reads; it leaves out other files without a word."""

_COLUMNS = pa.schema([("folder", pa.string()), ("class", pa.string())])
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,5}$")
_NO_HARD_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}


def write_folders(folder: Path, predictions: LabelledPredictions) -> dict[str, Any]:
    """Link the images into a folder per class.

    Args:
        folder: a new or empty folder.
        predictions: the images and their labels.

    Returns:
        `folder`, the numbers of `hard_links` and `symbolic_links`, and `other_endings`: how many
        images have an ending that torchvision's ImageFolder leaves out, by ending.
    """
    rows_of: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in predictions.rows:
        rows_of[str(row["label"])][row["file_name"]] = row  # a file may be listed twice
    names = sorted(rows_of)
    kept = _kept([*names, FOLDERS])
    folder_of = {name: name if name in kept else slug(name) for name in names}
    hard = 0
    with storage(folder):
        for name in names:
            (folder / folder_of[name]).mkdir(parents=True)
            rows = list(rows_of[name].values())
            for row, link in zip(rows, _link_names(rows), strict=True):
                hard += _link(predictions.path(row).resolve(), folder / folder_of[name] / link)
    table = [{"folder": folder_of[name], "class": name} for name in names]
    write_table(folder / FOLDERS, table, _COLUMNS)
    return {
        "folder": str(folder),
        "hard_links": hard,
        "symbolic_links": sum(map(len, rows_of.values())) - hard,
        "other_endings": _other_endings(predictions.rows),
    }


def _kept(names: Iterable[str]) -> set[str]:
    """Names that can be file names in one folder as they are."""
    count = Counter(name.casefold() for name in names)
    return {name for name in names if portable(name) and count[name.casefold()] == 1}


def _link_names(rows: Sequence[Row]) -> list[str]:
    """A file name for each image of a class: its own, or one made from its path."""
    paths = [str(row["file_name"]) for row in rows]
    names = [path.rpartition("/")[2] for path in paths]
    kept = _kept(names)
    return [
        name if name in kept else _slug_of(path) for name, path in zip(names, paths, strict=True)
    ]


def _slug_of(path: str) -> str:
    """A file name made from a path, with its ending."""
    suffix = _ending(path)
    return f"{slug(path.removesuffix(suffix))}{suffix}"


def _ending(path: str) -> str:
    """The ending of a file as it is written, or an empty text."""
    found = _ENDING.search(path)
    return found[0] if found else ""


def _other_endings(rows: Sequence[Row]) -> dict[str, int]:
    """How many files have each ending that is none of `TORCHVISION`."""
    count = Counter(_ending(str(row["file_name"])).lower() for row in rows)
    return {ending: n for ending, n in sorted(count.items()) if ending not in TORCHVISION}


def _link(source: Path, link: Path) -> bool:
    """Link one image; whether the link is a hard one."""
    try:
        link.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_HARD_LINK:
            raise
        link.symlink_to(source)
        return False
    return True
