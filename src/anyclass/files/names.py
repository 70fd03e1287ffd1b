"""File names that every system takes, and cells that no spreadsheet runs."""

import hashlib
import re
import unicodedata

_RESERVED = re.compile(r"con|prn|aux|nul|(com|lpt)\d")

_UNPORTABLE = re.compile(r"""[<>:"/\\|?*]|^[ .=+@'-]|[ .]$""")

_CHECKSUM = re.compile(r"(^|-)[0-9a-f]{12}(\.\w{1,5})?$", re.IGNORECASE)

LONGEST = 200
"""Most bytes of a file name that is kept as it is; systems take 255."""

_DANGEROUS = re.compile(r"'*[=+\-@\t\r]")


def slug(name: str) -> str:
    """Unique file name for `name`, valid on POSIX and Windows.

    A name of lower-case ASCII letters, digits, `_` and `-` is unchanged; any other one is
    simplified and gets the beginning of its checksum.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    safe = re.sub(r"[^a-z0-9_]+", "-", plain).strip("-")[:60]
    if name == safe and not _RESERVED.fullmatch(safe) and not _CHECKSUM.search(safe):
        return safe or digest(name)
    return f"{safe}-{digest(name)}".lstrip("-")


def portable(name: str) -> bool:
    """Whether every system takes `name` as a file name, and a `csv_cell` leaves it as it is.

    It never ends like a `slug`, so that it can stand beside one.
    """
    stem = name.partition(".")[0].rstrip().casefold()  # Windows reserves con.txt as well
    return (
        0 < len(name.encode("utf-8", "surrogatepass")) <= LONGEST
        and name.isprintable()
        and unicodedata.is_normalized("NFC", name)
        and not _UNPORTABLE.search(name)
        and not _RESERVED.fullmatch(stem)
        and not _CHECKSUM.search(name)
    )


def csv_cell(text: str) -> str:
    """Quote `text` that spreadsheets would run as a formula; `csv_text` is the exact inverse."""
    return f"'{text}" if _DANGEROUS.match(text) else text


def csv_text(cell: str) -> str:
    """Invert `csv_cell`."""
    return cell[1:] if cell.startswith("'") and _DANGEROUS.match(cell) else cell


def digest(name: str) -> str:
    """Twelve hexadecimal digits of a text."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
