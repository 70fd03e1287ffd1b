"""Parquet files with a column of image files, as bytes or as Hugging Face's bytes and path."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import fs, parquet

from anyclass.data.feature_formats import NAME_COLUMNS
from anyclass.errors import ImageError, RequestError

Item = tuple[str, bytes | ImageError]
"""Name of an image, and its file or why there is none."""

IMAGE_COLUMNS = ("image", "img", "bytes", "content", "jpg", "jpeg", "png", "webp")
"""Columns that hold images where there are several of bytes; the first that exists does."""


class Columns(NamedTuple):
    """Columns of a table of images."""

    image: str
    """Column of the images."""
    name: str | None
    """Column of their names; None: there is none."""


def check_columns(schema: pa.Schema, file: str, image_column: str | None = None) -> Columns:
    """The columns of images and names.

    Args:
        schema: columns of the table.
        file: its name, for messages.
        image_column: the column of images; None: the one that holds bytes.

    Raises:
        RequestError: there is none, or there are several.
    """
    holding = [field.name for field in schema if _holds_bytes(field.type)]
    known = [name for name in IMAGE_COLUMNS if name in holding]
    image = image_column or (holding[0] if len(holding) == 1 else next(iter(known), None))
    if image is None or image not in holding:
        what = f"no column {image_column!r} of bytes" if image_column else "no column of images"
        if holding and not image_column:
            what = "more than one column of bytes"
        raise RequestError(
            f"{file} has {what} (of bytes: {', '.join(holding) or 'none'}): name the column that "
            "holds the images (--image-column NAME)"
        )
    names = [name for name in NAME_COLUMNS if name in schema.names and name != image]
    named = [name for name in names if _names(schema.field(name).type)]
    return Columns(image, next(iter(named), None))


def items(
    filesystem: fs.FileSystem,
    path: str,
    file: str,
    groups: Sequence[int],
    image_column: str | None,
    size: int,
) -> Iterator[list[Item]]:
    """Images of some row groups, `size` at a time.

    Args:
        filesystem: where the table is.
        path: the table there.
        file: its name, which names rows without one.
        groups: the row groups.
        image_column: the column of images, if it was named.
        size: most images at once.
    """
    with parquet.ParquetFile(path, filesystem=filesystem) as table:
        columns = check_columns(table.schema_arrow, file, image_column)
        row = sum(table.metadata.row_group(i).num_rows for i in range(groups[0]))
        wanted = [name for name in columns if name]
        for batch in table.iter_batches(size, row_groups=list(groups), columns=wanted):
            yield [
                _item(value, name, f"{file}#{row + i}")
                for i, (value, name) in enumerate(_cells(batch, columns))
            ]
            row += batch.num_rows


def _cells(batch: pa.RecordBatch, columns: Columns) -> Iterator[tuple[Any, Any]]:
    """Image and name of each row."""
    images = batch.column(columns.image).to_pylist()
    names = batch.column(columns.name).to_pylist() if columns.name else [None] * len(images)
    return zip(images, names, strict=True)


def _item(value: Any, name: Any, row: str) -> Item:
    """An image of a row."""
    if isinstance(value, dict):
        name = value.get("path") if name is None else name
        value = value.get("bytes")
    called = row if name is None or name == "" else str(name)
    return called, ImageError("missing", "the cell is empty") if value is None else value


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    of_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(check(kind) for check in of_bytes)


def _names(kind: pa.DataType) -> bool:
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
    return any(check(kind) for check in texts)
