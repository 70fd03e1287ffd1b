"""From what a table calls an image to its file: other separators, other computers, bare names."""

import os
import unicodedata
from collections.abc import Collection, Iterator
from functools import cached_property, lru_cache
from pathlib import Path

from anyclass.data.classes import listed, plural
from anyclass.errors import RequestError


class ImageNames:
    """Finds the images of a folder by the names that a table uses."""

    def __init__(self, table: Path, root: Path | None, files: Collection[str]) -> None:
        """Keep the arguments.

        Args:
            table: the table; its paths are relative to its own folder or to `root`.
            root: the folder of the images, without links. None: the table has the names of `files`.
            files: the existing images, relative to `root`.
        """
        self._table = table
        self._root = root
        self._files = {unicodedata.normalize("NFC", file): file for file in files}
        self._files |= {file: file for file in files}
        self._by_end: dict[str, str] = {}
        self._unclear: list[str] = []

    def find(self, cell: str) -> str | None:
        """Name of an image, its path below the root; None if there is no such image.

        Raises:
            RequestError: it lies outside of the root, and no image in it is called alike.
        """
        outside = self._root is not None
        for name in self._written(cell):
            for candidate in self._candidates(name):
                outside = False
                if candidate in self._files:
                    return self._files[candidate]
        found = self._by_its_end(cell)
        if found is None and outside:
            raise RequestError(f"{cell!r} is outside of {self._root}.")
        return found

    def knows(self, cell: str) -> bool:
        """Whether a cell names an image, without a trace in the messages."""
        written = self._written(cell)
        if any(c in self._files for name in written for c in self._candidates(name)):
            return True
        parts = _parts(cell)
        return bool(parts) and "/".join(parts[-2:]) in self._ends

    @property
    def example(self) -> str:
        """Name of an image, as a table may use it."""
        return next(iter(self._files.values()), "")

    def messages(self) -> list[str]:
        """What was found by the end of its path alone, and what was not clear."""
        sentences = []
        if self._by_end:
            cell, file = next(iter(self._by_end.items()))
            sentences.append(
                f"found {plural(len(self._by_end), 'image')} of {self._table.name} by the end of "
                f"{'its' if len(self._by_end) == 1 else 'their'} path, "
                f"such as {cell!r}: {file!r}."
            )
        if self._unclear:
            sentences.append(
                f"skipped rows of {self._table.name} that fit several images "
                f"({len(self._unclear)}): {listed(self._unclear, 3)}; write the path, such as "
                f"{self.example!r}."
            )
        return sentences

    def _written(self, cell: str) -> Iterator[str]:
        """The cell as it is, and in the way of this computer: NFC, `/`, no space around it."""
        yield cell
        plain = unicodedata.normalize("NFC", cell).strip()
        yield plain
        if "\\" in plain:
            yield plain.replace("\\", "/")

    def _candidates(self, name: str) -> Iterator[str]:
        """Paths below the root that a name may mean."""
        if self._root is None:
            yield name
            return
        here = self._table.parent
        for base in (here.resolve(), self._root):
            below = _inside(self._root, base, name)
            if below is not None:
                yield below
        folder, _, file = name.rpartition("/")
        real = _inside(self._root, here, f"{_without_links(here, folder)}/{file}")
        if real is not None:
            yield real

    def _by_its_end(self, cell: str) -> str | None:
        """The only image whose path ends like that of the cell; a bare name: the only such name."""
        parts = _parts(cell)
        if not parts or ".." in parts:
            return None
        for length in range(len(parts), 0, -1):
            found = self._ends.get("/".join(parts[-length:]))
            if found is None:
                continue
            if length == 1 < len(parts) and not self._at_the_top(found, cell, parts):
                return None
            if len(found) > 1:
                self._unclear.append(cell)
                return None
            self._by_end[cell] = found[0]
            return found[0]
        return None

    def _at_the_top(self, found: list[str], cell: str, parts: list[str]) -> bool:
        """Whether an image without a folder may be meant: the folder before it is the root's."""
        absolute = cell.strip().startswith(("/", "\\")) or ":" in cell[:3]
        same = self._root is not None and parts[-2] == _folded(self._root.name)
        return "/" not in found[0] and (absolute or same)

    @cached_property
    def _ends(self) -> dict[str, list[str]]:
        """End of a path, in lower case -> the images whose paths end so."""
        ends: dict[str, list[str]] = {}
        for file in dict.fromkeys(self._files.values()):
            parts = _parts(file)
            for length in range(1, len(parts) + 1):
                ends.setdefault("/".join(parts[-length:]), []).append(file)
        return ends


def _parts(path: str) -> list[str]:
    """Folders and name of a path of any system, for comparison."""
    return [part for part in _folded(path).replace("\\", "/").split("/") if part not in ("", ".")]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()


@lru_cache(maxsize=4096)
def _without_links(base: Path, folder: str) -> str:
    """A folder, given relative to `base`, with its links followed."""
    try:
        return os.path.realpath(os.path.join(base, folder))  # noqa: PTH118
    except ValueError:  # a NUL in the name
        return folder


def _inside(root: Path, base: Path, name: str) -> str | None:
    """Path of `name`, given relative to `base`, below `root`; None if outside. No disk access."""
    path = os.path.normpath(os.path.join(base, name))  # noqa: PTH118
    prefix = os.path.join(root, "")  # noqa: PTH118
    return path[len(prefix) :].replace(os.sep, "/") if path.startswith(prefix) else None
