"""What Python takes for images: folders, files, Pillow images, arrays, tensors, tables, data sets.

    a folder                                  its images, found recursively
    a path, a Pillow image, an array          one image
    a list, a Series, an array (N, H, W, 3)   N images
    a pandas DataFrame, a pyarrow Table,      a row per image, with a column of paths, of encoded
    a data set of Hugging Face                files or of images

Images in memory are called "0", "1" ..., or by the index of their table.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anyclass.data.classes import listed
from anyclass.data.dataset import ImageDataset
from anyclass.data.label_columns import usual_file
from anyclass.data.listing import OTHER
from anyclass.data.memory import is_array, is_image
from anyclass.errors import RequestError

COLUMNS = ("image", "img", "images", "file_name", "image_path", "path", "file", "filename", "bytes")
"""Columns of a table that may hold images, in this order."""

KINDS = "give a folder, a list of files or images, an array (N, H, W, 3) or a table"
"""What to say of anything else."""


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Images that are not a whole folder, and the table that they come from."""

    dataset: ImageDataset
    """The images; an `ImageDataset` that was given keeps its labels and classes."""
    table: Any = None
    """DataFrame, Table or data set with a row per image."""
    index: Any = None
    """Index of the rows of a DataFrame or a Series."""

    def __len__(self) -> int:
        """N, the number of images."""
        return len(self.dataset)


def image_source(images: Any, column: str | None = None) -> Path | ImageSource:
    """Find out what kind of images was given.

    Args:
        images: see the module.
        column: column of a table with the images; by default it is looked for.

    Returns:
        A folder, or images one by one.

    Raises:
        RequestError: there is no image, or the kind is unknown.
    """
    if isinstance(images, ImageSource):
        return images
    if isinstance(images, ImageDataset):
        return ImageSource(images)
    if isinstance(images, str | Path):
        return _path(Path(images))
    if is_image(images):
        return _listed([images])
    if is_array(images):
        return _listed(_batch(images))
    if isinstance(images, Mapping):
        if images and all(hasattr(part, "column_names") for part in images.values()):
            raise RequestError(f"images has the splits {listed(images)}: choose one of them")
        return _named({str(name): image for name, image in images.items()})
    table = _table(images, column)
    if table is not None:
        return table
    if not hasattr(images, "__iter__"):
        raise RequestError(f"images is of type {type(images).__name__}: {KINDS}")
    source = _listed(list(images))
    return replace(source, index=images.index) if hasattr(images, "iloc") else source


def is_series(value: Any) -> bool:
    """Whether a value is a Series of pandas, or the like: an index, and no columns."""
    return hasattr(value, "iloc") and not hasattr(value, "columns")


def _path(path: Path) -> Path | ImageSource:
    """A folder, or a single image."""
    if path.suffix.lower() not in OTHER and path.is_file():
        return ImageSource(ImageDataset.of([path]))
    return path


def _batch(array: Any) -> list[Any]:
    """The images of a batch: (N, H, W, c), or of tensors (N, c, H, W)."""
    if len(array.shape) != 4 or not any(is_image(image) for image in array[:1]):
        shape = " x ".join(map(str, array.shape)) or "one number"
        raise RequestError(
            f"images is an array of {shape}: give (N, H, W, 3) or (H, W, 3), and of a torch tensor "
            "(N, 3, H, W) or (3, H, W)"
        )
    return list(array)


def _listed(images: Sequence[Any], names: Sequence[str] | None = None) -> ImageSource:
    """Images one by one: files below their common folder, or images in memory."""
    if not images:
        raise RequestError("images is empty: give at least one image")
    if all(isinstance(image, str | Path) for image in images):
        folder = next((image for image in images if Path(image).is_dir()), None)
        if folder is not None:
            raise RequestError(f"images lists a folder ({folder}): give one folder, or files alone")
        return ImageSource(ImageDataset.of(images))
    return _named(dict(zip(names or map(str, range(len(images))), images, strict=True)))


def _named(memory: Mapping[str, Any]) -> ImageSource:
    """Images in memory by name."""
    dataset = ImageDataset.of(memory)  # for the checks: there is at least one image
    return ImageSource(replace(dataset, root=Path(), files=tuple(memory), memory=memory))


class _Lazy(Mapping[str, Any]):
    """Images in a column, called "0", "1" ..., read when they are asked for."""

    def __init__(self, rows: int, read: Callable[[int], Any]) -> None:
        self._rows = rows
        self._read = read

    def __getitem__(self, name: str) -> Any:
        return self._read(int(name))

    def __iter__(self) -> Iterator[str]:
        return map(str, range(self._rows))

    def __len__(self) -> int:
        return self._rows


def _table(table: Any, column: str | None) -> ImageSource | None:
    """Images in a column of a table; None: it is no table."""
    if hasattr(table, "features") and hasattr(table, "column_names"):
        return _hugging_face(table, column)
    if hasattr(table, "column_names"):
        return _arrow(table, column)
    return _frame(table, column) if hasattr(table, "columns") else None


def _frame(frame: Any, column: str | None) -> ImageSource:
    """Images in a column of a DataFrame."""
    name = _column(list(frame.columns), column, lambda key: frame[key].iloc[0], len(frame))
    names = [str(key) for key in frame.index]
    unique = len({*names}) == len(names)
    source = _listed(list(frame[name]), names if unique else None)
    return replace(source, table=frame, index=frame.index)


def _arrow(table: Any, column: str | None) -> ImageSource:
    """Images in a column of a pyarrow Table."""
    name = _column(table.column_names, column, lambda key: table[key][0].as_py(), len(table))
    values = table[name]
    if "string" in str(values.type):
        return replace(_listed(values.to_pylist()), table=table)
    images = _Lazy(len(table), lambda i: values[i].as_py())
    return replace(_named(images), table=table)


def _hugging_face(data: Any, column: str | None) -> ImageSource:
    """Images in a column of a data set of Hugging Face, still encoded."""
    if not hasattr(data, "__len__"):
        raise RequestError("images is a stream: give a data set with a length, or a list of images")
    pictured = [key for key, kind in data.features.items() if type(kind).__name__ == "Image"]
    plain = data.with_format(None)
    chosen = column or next(iter(pictured), None)
    name = _column(data.column_names, chosen, lambda key: plain[0][key], len(data))
    plain = plain.select_columns([name])
    if name in pictured:
        plain = plain.cast_column(name, type(data.features[name])(decode=False))
    elif isinstance(plain[0][name], str):
        return replace(_listed(list(plain[name])), table=data)
    images = _Lazy(len(data), lambda i: plain[i][name])
    return replace(_named(images), table=data)


def _column(
    columns: Sequence[Any], asked: str | None, first: Callable[[Any], Any], rows: int
) -> Any:
    """Name of the column with the images.

    Args:
        columns: names of all columns.
        asked: the name that was given.
        first: the first value in a column.
        rows: number of rows.
    """
    if not rows:
        raise RequestError("images is a table without rows")
    if asked is not None and asked not in columns:
        raise RequestError(f"images has no column {asked!r}; it has {listed(map(str, columns))}")
    known = [name for name in COLUMNS if name in columns]
    held = [key for key in columns if is_image(first(key)) or _is_encoded(first(key))]
    usual = usual_file([key for key in columns if isinstance(key, str)])
    found = [asked] if asked is not None else known or held or [*filter(None, [usual])]
    if not found:
        raise RequestError(
            f"images has no column {COLUMNS[0]!r} or {COLUMNS[3]!r}: say which of "
            f"{listed(map(str, columns), 10)} holds the images or their paths (image_column=)"
        )
    return found[0]


def _is_encoded(value: Any) -> bool:
    """Whether a value is a row of a stored image column of Hugging Face."""
    return isinstance(value, dict) and {*value} == {"bytes", "path"}


def column_names(table: Any) -> list[Any]:
    """Names of the columns of a table of images; none where there is no table."""
    return [] if table is None else list(getattr(table, "column_names", None) or table.columns)


def table_column(table: Any, name: str) -> tuple[list[Any], list[str] | None] | None:
    """Values in a column of a table, and names of its integers (`ClassLabel`); None: no column."""
    if name not in column_names(table):
        return None
    kinds = getattr(table, "features", None)
    if kinds is not None:
        values = list(table.with_format(None)[name])
        return values, getattr(kinds[name], "names", None)
    if hasattr(table, "column_names"):
        return table[name].to_pylist(), None
    return list(table[name]), None


def missing(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, NaT or pandas' NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))
