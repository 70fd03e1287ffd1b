"""Links in a folder of images: they stay inside it, or below the folder in `$ANYCLASS_LINKS`."""

import os
from pathlib import Path

from anyclass.errors import RequestError

LINKS = "ANYCLASS_LINKS"
"""Variable with the folder below which links may lead; unset: nowhere outside the images."""

FOLLOW = f"set {LINKS} to a folder to follow links that stay below it"
"""What to do about a link."""


def links_folder() -> Path | None:
    """The folder in `$ANYCLASS_LINKS`, without links; None: there is none.

    Raises:
        RequestError: it is no folder.
    """
    folder = _named_folder()
    if folder is None:
        return None
    if not folder.is_dir():
        raise RequestError(
            f"{LINKS} is '{folder}', which is no folder: name the folder below which the links of "
            f"the images lead, or unset {LINKS}."
        )
    return folder.resolve()


def may_be_read(path: Path, real: Path, root: Path) -> bool:
    """Whether a file of the folder `root` may be read.

    Args:
        path: the file as it is named; it must be below `root`, also if a link leads elsewhere.
        real: the same without links.
        root: folder of the images.
    """
    if real.is_relative_to(root.resolve()):
        return True
    links = _named_folder()
    if links is None or not real.is_relative_to(links.resolve()):
        return False
    return _absolute(path).is_relative_to(_absolute(root))


class LinkedFolders:
    """Which linked folders are read: each below `$ANYCLASS_LINKS`, once."""

    def __init__(self, root: Path) -> None:
        """Begin with `root`, the folder of the images, without links.

        Raises:
            RequestError: `$ANYCLASS_LINKS` is no folder.
        """
        self._root = root
        self._links = links_folder()
        self._read: set[Path] = set()

    def enter(self, path: Path) -> bool:
        """Whether to read the linked folder `path`: it leads to new images, and not in a circle."""
        if self._links is None:
            return False
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):  # a broken link, or a loop of links
            return False
        inside = real.is_relative_to(self._root) or self._root.is_relative_to(real)
        if inside or real in self._read or not real.is_relative_to(self._links):
            return False
        self._read.add(real)
        return True


def _named_folder() -> Path | None:
    """The folder in `$ANYCLASS_LINKS` as it is written there."""
    named = os.environ.get(LINKS)
    return Path(named) if named else None


def _absolute(path: Path) -> Path:
    """The path without `..`; its links stay."""
    return Path(os.path.normpath(path.absolute()))
