"""Snapshot of the files of a run before its classes are edited, so that the edit can be undone.

Files of a run are replaced as a whole and never changed in place, so a snapshot is made of hard
links, which take no space; where the file system has none, of copies.
"""

import os
import shutil
from pathlib import Path

from anyclass.files import MANIFEST, lock, read_json

LOG = "log.jsonl"
"""The one file that is appended to; no edit of classes does."""


def take(run: Path, folder: Path) -> None:
    """Link the files of a run into `folder`, which must not exist."""
    for name in _files(run):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(run / name, target)


def restore(run: Path, folder: Path) -> None:
    """Bring the files of a snapshot back; files that came later go.

    Raises:
        RequestError: another process uses the run.
    """
    with lock(run):
        before = _files(folder)
        for name in set(_files(run)) - set(before):
            (run / name).unlink(missing_ok=True)
        for name in sorted(before, key=lambda name: name == MANIFEST):  # the manifest last
            draft = run / f"{name}.undo"
            draft.parent.mkdir(parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)
            _link(folder / name, draft)
            draft.replace(run / name)
            draft.unlink(missing_ok=True)  # rename does nothing if both are links to one file


def _files(run: Path) -> list[str]:
    """Files of a run, by its manifest, and the manifest; only names below the run."""
    names = [*read_json(run / MANIFEST)["files"], MANIFEST]
    root = run.resolve()
    inside = [name for name in names if (root / name).resolve().is_relative_to(root)]
    kept = [name for name in inside if name != LOG and not name.startswith("review/")]
    return [name for name in kept if (run / name).is_file()]


def _link(source: Path, target: Path) -> None:
    """Hard link, or a copy."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
