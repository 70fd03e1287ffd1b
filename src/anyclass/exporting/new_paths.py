"""New files and folders that are removed where they do not become whole."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def new_paths(paths: Sequence[Path]) -> Iterator[None]:
    """Remove what was written to new paths when the block fails, so that it can be repeated.

    Args:
        paths: files that are not there, and folders that are not there or empty.
    """
    empty = [path for path in paths if path.is_dir()]
    new = [path for path in paths if not path.is_dir()]
    try:
        yield
    except BaseException:
        for path in [*new, *(inside for folder in empty for inside in folder.iterdir())]:
            _remove(path)
        raise


def _remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink(missing_ok=True)
