"""A folder per class with links to the images: the layout of torchvision's ImageFolder.

    FOLDER/classes.csv           folder, class
    FOLDER/red-square-1f2e.../   links to the images of this class

Hard links, or symbolic links where the images are on another disk. No image is moved or copied.
"""

import errno
import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from anyclass.exporting.predictions import LabelledPredictions, Row
from anyclass.files import slug, storage
from anyclass.run.tables import write_table

FOLDERS = "classes.csv"
"""Table of the folders and their classes."""

_COLUMNS = pa.schema([("folder", pa.string()), ("class", pa.string())])
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,5}$")
_NO_HARD_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}


def write_folders(folder: Path, predictions: LabelledPredictions) -> dict[str, Any]:
    """Link the images into a folder per class.

    Args:
        folder: a new or empty folder.
        predictions: the images and their labels.

    Returns:
        `folder`, and the numbers of `hard_links` and `symbolic_links`.
    """
    names = sorted({row["label"] for row in predictions.rows})
    with storage(folder):
        for name in names:
            (folder / slug(name)).mkdir(parents=True)
        hard = sum(_link(predictions, row, folder) for row in predictions.rows)
    table = [{"folder": slug(name), "class": name} for name in names]
    write_table(folder / FOLDERS, table, _COLUMNS)
    count = len(predictions.rows)
    return {"folder": str(folder), "hard_links": hard, "symbolic_links": count - hard}


def _link(predictions: LabelledPredictions, row: Row, folder: Path) -> bool:
    """Link one image into the folder of its class; whether the link is a hard one."""
    source = predictions.path(row).resolve()
    name = str(row["file_name"])
    ending = _ENDING.search(name)
    suffix = ending[0] if ending else ""
    link = folder / slug(row["label"]) / f"{slug(name.removesuffix(suffix))}{suffix}"
    try:
        link.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_HARD_LINK:
            raise
        link.symlink_to(source)
        return False
    return True
