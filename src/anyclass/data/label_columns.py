"""Columns of a label table: those that are asked for, or those that look like them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from anyclass.data.classes import listed
from anyclass.data.image_names import ImageNames
from anyclass.data.table_files import Table, plain_column, same_column, usual_column
from anyclass.errors import RequestError

FILE, LABEL = "file_name", "label"
"""Usual names of the columns."""

_FILES = (
    "imagepath filename filepath file path image imagename imagefile img imgpath imgname picture "
    "photo dateiname datei bild bildname pfad fichier image_id"
).split()
_LABELS = (
    "labels class classes classname category categories target species genus type groundtruth tag "
    "klasse kategorie etikett art classe categorie étiquette etiquette"
).split()
_SAMPLE = 200


class LabelColumns(NamedTuple):
    """Where a table has its paths and its labels."""

    file: str
    """Column of the paths."""
    label: str
    """Column of the labels."""
    rows: list[dict[str, Any]]
    """The rows; the first line is one of them where it is no header."""
    messages: tuple[str, ...]
    """What was guessed, one sentence each."""


def choose_columns(
    table: Table, name: str, asked: tuple[str, str], images: ImageNames
) -> LabelColumns:
    """Find the columns of paths and labels.

    Args:
        table: the table.
        name: its name, for messages.
        asked: names of both; if they are the usual ones and not there, others are guessed.
        images: the images.

    Raises:
        RequestError: a column is not there, and none looks like it.
    """
    if not table.columns:
        raise RequestError(f"{name} is empty: write the columns {FILE},{LABEL} and a row per image")
    if not set(table.columns) & {*asked, "image_path"} and _is_image(table.columns, images):
        return _headless(table, name, images)
    if not table.rows:
        raise RequestError(
            f"{name} has a header ({listed(table.columns)}) and no row: add a row per labelled "
            f"image, such as {images.example},CLASS"
        )
    file = same_column(table.columns, asked[0]) or _guess_file(table, asked[0], images)
    if file is None:
        raise RequestError(
            f"{name} has no column {asked[0]!r}, see --file-column; found: {listed(table.columns)}."
        )
    label = same_column(table.columns, asked[1]) or _guess_label(table, asked[1], file)
    if label is None:
        raise RequestError(
            f"{name} has no column {asked[1]!r}, see --label-column; "
            f"found: {listed(table.columns)}."
        )
    return LabelColumns(file, label, table.rows, _said(name, asked, (file, label)))


def _said(name: str, asked: tuple[str, str], taken: tuple[str, str]) -> tuple[str, ...]:
    """Message on columns that are called otherwise."""
    guessed = [
        f"{column!r} as {usual} ({flag})"
        for column, usual, flag in (
            (taken[0], asked[0], "--file-column"),
            (taken[1], asked[1], "--label-column"),
        )
        if plain_column(column) != plain_column(usual) and column != "image_path"
    ]
    return (f"{name}: took the column {' and '.join(guessed)}.",) if guessed else ()


def _guess_file(table: Table, asked: str, images: ImageNames) -> str | None:
    """Column of paths: by its usual names, else by the images that its cells name."""
    if asked != FILE:
        return None
    found = usual_file(table.columns)
    if found is not None:
        return found
    shares = {column: _share(table, column, images) for column in table.columns}
    best = max(shares, key=lambda column: shares[column])
    return best if shares[best] >= 0.5 else None


def usual_file(columns: Sequence[str]) -> str | None:
    """The column with a usual name of paths, in any letters: `Dateiname`, `Image Path`."""
    return usual_column(columns, _FILES)


def _guess_label(table: Table, asked: str, file: str) -> str | None:
    """Column of labels: by its usual names, else the only other column."""
    if asked != LABEL:
        return None
    for usual in _LABELS:
        found = same_column(table.columns, usual)
        if found is not None and found != file:
            return found
    others = [column for column in table.columns if column != file]
    return others[0] if len(others) == 1 else None


def _share(table: Table, column: str, images: ImageNames) -> float:
    """Share of the first cells of a column that name an image."""
    cells = [str(row.get(column) or "") for row in table.rows[:_SAMPLE]]
    filled = [cell for cell in cells if cell]
    return sum(_is_image([cell], images) for cell in filled) / max(1, len(filled))


def _is_image(cells: Sequence[str], images: ImageNames) -> bool:
    """Whether one of the cells is the path of an image."""
    return any(images.knows(cell) for cell in cells)


def _headless(table: Table, name: str, images: ImageNames) -> LabelColumns:
    """A table whose first line is an image already."""
    file = next(column for column in table.columns if images.knows(column))
    others = [column for column in table.columns if column != file]
    if len(others) != 1:
        raise RequestError(
            f"{name} has no header: write the names of its {len(table.columns)} columns in a first "
            f"line, such as {FILE},{LABEL}"
        )
    rows = [{file: file, others[0]: others[0]}, *table.rows]
    said = f"{name} has no header: took {file!r} as the name of an image, {others[0]!r} as a label."
    return LabelColumns(file, others[0], rows, (said,))
