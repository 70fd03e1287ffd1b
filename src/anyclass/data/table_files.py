"""Tables as people save them: CSV of any dialect and encoding, Excel, JSONL, Parquet.

The ending decides the format. Of a CSV the encoding (UTF-8, UTF-16, else Windows-1252) and the
separator are found out; what was taken is said.
"""

import csv
import json
import re
from collections.abc import Iterable, Sequence
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

from anyclass.data.label_studio import CONTROL, FILE_NAME, label_studio_rows
from anyclass.errors import RequestError
from anyclass.files import csv_text

INSTALL_TABLES = "pip install 'anyclass[tables]'"
"""What makes Excel files readable."""

DELIMITED = (".csv", ".tsv", ".tab", ".txt")
"""Endings of tables as text."""

EXCEL = (".xlsx", ".xlsm")
"""Endings of Excel files; older ones (.xls) are not read."""

LARGEST = 1 << 30
"""Maximum number of bytes of an unpacked Excel file."""

_SEPARATORS = ",;\t|"
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


class Table(NamedTuple):
    """The cells of a table."""

    columns: tuple[str, ...]
    """Names of the columns: the first row that is not blank."""
    rows: list[dict[str, Any]]
    """Cells of each row by column, blank rows too; texts, or values of JSONL, Parquet and Excel."""
    messages: tuple[str, ...]
    """What was guessed of the table, one sentence each."""


def plain_column(column: str) -> str:
    """A column's name without case, spaces and marks."""
    return re.sub(r"[\W_]", "", column).casefold()


def same_column(columns: Sequence[str], asked: str) -> str | None:
    """The column that is called so, if need be in other letters: `File Name` for `file_name`."""
    if asked in columns:
        return asked
    return next((column for column in columns if plain_column(column) == plain_column(asked)), None)


def usual_column(columns: Sequence[str], usual: Sequence[str]) -> str | None:
    """The column that is called as the first of some usual names that there is, in any letters."""
    return next(filter(None, (same_column(columns, name) for name in usual)), None)


def read_table(path: Path, binary: Iterable[str] = ()) -> Table:
    """Read a table; its ending decides the format.

    Args:
        path: the table.
        binary: names of columns of a Parquet file to read even if they hold bytes.

    Raises:
        RequestError: it does not exist, is damaged, or its format is not known.
    """
    ending = path.suffix.lower()
    try:
        if ending in DELIMITED:
            return _delimited(path)
        if ending in EXCEL:
            return _excel(path)
        if ending in (".jsonl", ".ndjson"):
            return _json_lines(path)
        if ending == ".parquet":
            return _parquet(path, frozenset(binary))
        if ending == ".json":
            return Table((FILE_NAME, CONTROL), list(label_studio_rows(path)), ())
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, LookupError, RecursionError, NotImplementedError, csv.Error) as error:
        raise RequestError(f"{path} is damaged: {error}.") from error
    if ending in (".xls", ".xlsb", ".ods", ".numbers"):
        raise RequestError(f"{path}: {ending} is not read; save it as .xlsx or as CSV.")
    raise RequestError(
        f"{path}: its ending is {ending!r}; give .csv, .tsv, .xlsx, .jsonl, .parquet, or a "
        ".json of Label Studio."
    )


def read_text(path: Path) -> tuple[str, tuple[str, ...]]:
    """Text of a file, and what to say if it is in no encoding of Unicode.

    Raises:
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16"), ()
    if b"\0" in data[1:4:2] and data[:1] != b"\0":
        return data.decode("utf-16-le"), ()
    try:
        return data.decode("utf-8-sig"), ()
    except UnicodeDecodeError as error:
        text = data.decode("cp1252", "replace")
        word = re.search(r"\w*[^\x00-\x7f]\w*", text)
        shown = f" ({word.group()!r:.40})" if word else ""
        if "\ufffd" in text or _many_controls(text):
            raise ValueError("it is neither UTF-8 nor Windows-1252 text") from error
        return text, (
            f"{path.name} is not UTF-8: read as Windows-1252{shown}; if letters are wrong, save it "
            "as UTF-8.",
        )


def _many_controls(text: str) -> bool:
    """Whether a text has control characters: then it is none."""
    return re.search(r"[\x00-\x08\x0e-\x1f]", text) is not None


def _delimited(path: Path) -> Table:
    """Read a table of text."""
    text, messages = read_text(path)
    declared = re.match(r"sep=(.)\r?\n", text)  # Excel writes it, and reads it
    if declared:
        text = text[declared.end() :]
    separator = declared.group(1) if declared else separator_of(text)
    if separator != "," and path.suffix.lower() == ".csv":
        name = _NAMES.get(separator, repr(separator))
        messages = (" ".join((f"{path.name} is separated by {name}.", *messages)),)
    spaced = f'{separator} "' in text[:100_000]
    reader = csv.reader(StringIO(text, ""), delimiter=separator, skipinitialspace=spaced)
    return _with_header((list(map(csv_text, line)) for line in reader), messages)


def separator_of(text: str) -> str:
    """Separator of a table: the one that cuts the first lines into equally many, most, cells."""
    best = (0, 0, ",")
    for separator in _SEPARATORS:
        widths = _widths(text[:100_000], separator)
        if widths and widths[0] > 1:
            alike = sum(width == widths[0] for width in widths)
            best = max(best, (alike, widths[0], separator), key=lambda found: found[:2])
    return best[2]


def _widths(text: str, separator: str) -> list[int]:
    """Number of cells in the first lines; none if the separator does not fit."""
    lines = islice(csv.reader(StringIO(text, ""), delimiter=separator), 30)
    try:
        return [len(line) for line in lines if any(line)]
    except csv.Error:
        return []


def _excel(path: Path) -> Table:
    """Read the first sheet with cells of an Excel file."""
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise RequestError(f"{path}: Excel files need {INSTALL_TABLES}; or save as CSV.") from error
    try:
        with ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST:
                raise ValueError("it unpacks to more than 1 GB")
        book = load_workbook(path, read_only=True, data_only=True)
    except BadZipFile as error:
        raise ValueError("it is no Excel file") from error
    except (TypeError, AttributeError) as error:  # what openpyxl raises on damaged sheets
        raise ValueError(f"{error}") from error
    try:
        sheets = list(book.worksheets)
        for sheet in sheets:
            table = _with_header(sheet.iter_rows(values_only=True), ())
            if table.rows:
                others = f" of {len(sheets)} sheets" if len(sheets) > 1 else ""
                said = f"{path.name}: read sheet {sheet.title!r}{others}."
                return table._replace(messages=(said,) if others else ())
    finally:
        book.close()
    return table if sheets else Table((), [], ())


def _with_header(lines: Iterable[Sequence[Any]], messages: tuple[str, ...]) -> Table:
    """Take the first row that is not blank as the header."""
    waiting = iter(lines)
    header = next((line for line in waiting if any(map(_filled, line))), ())
    columns = ["" if cell is None else str(cell).strip() for cell in header]
    rows = [dict(zip(columns, [*line, *[""] * len(columns)], strict=False)) for line in waiting]
    return Table(tuple(column for column in columns if column), rows, messages)


def _filled(cell: Any) -> bool:
    return cell is not None and str(cell).strip() != ""


def _json_lines(path: Path) -> Table:
    """Read an object per line."""
    rows = []
    columns: dict[str, None] = {}
    with path.open(encoding="utf-8-sig") as file:
        for row in map(json.loads, filter(str.strip, file)):
            if not isinstance(row, dict):
                raise ValueError("each line must be an object")
            rows.append(row)
            columns |= dict.fromkeys(row)
    return Table(tuple(columns), rows, ())


def _parquet(path: Path, wanted: frozenset[str]) -> Table:
    """Read the columns of texts and numbers."""
    import pyarrow.types as kinds
    from pyarrow import parquet

    schema = parquet.read_schema(path)

    def plain(kind: Any) -> bool:
        kind = kind.value_type if kinds.is_dictionary(kind) else kind
        large = kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_nested(kind)
        return not large

    columns = [field.name for field in schema if field.name in wanted or plain(field.type)]
    rows = parquet.read_table(path, columns=columns).to_pylist()
    return Table(tuple(columns), rows, ())
