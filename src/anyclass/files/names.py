"""File names that every system takes, and cells that no spreadsheet runs."""

import hashlib
import re
import unicodedata

_RESERVED = re.compile(r"con|prn|aux|nul|(com|lpt)\d")

_DANGEROUS = re.compile(r"'*[=+\-@\t\r]")


def slug(name: str) -> str:
    """Unique file name for `name`, valid on POSIX and Windows.

    A name of lower-case ASCII letters, digits, `_` and `-` is unchanged; any other one is
    simplified and gets the beginning of its checksum.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    safe = re.sub(r"[^a-z0-9_]+", "-", plain).strip("-")[:60]
    if (
        name == safe
        and not _RESERVED.fullmatch(safe)
        and not re.search(r"(^|-)[0-9a-f]{12}$", safe)
    ):
        return safe or digest(name)
    return f"{safe}-{digest(name)}".lstrip("-")


def csv_cell(text: str) -> str:
    """Quote `text` that spreadsheets would run as a formula; `csv_text` is the exact inverse."""
    return f"'{text}" if _DANGEROUS.match(text) else text


def csv_text(cell: str) -> str:
    """Invert `csv_cell`."""
    return cell[1:] if cell.startswith("'") and _DANGEROUS.match(cell) else cell


def digest(name: str) -> str:
    """Twelve hexadecimal digits of a text."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
