"""Snapshot of the files of a run before its classes are edited, so that the edit can be undone.

Weights are replaced as a whole and never changed in place, so large files are kept as hard links,
which take no space, where the file system has them; the others are copied.
"""

import os
import shutil
from pathlib import Path

from anyclass.files import MANIFEST, lock, read_json

LARGE = 2**20
"""Bytes from which a file is linked."""

LOG = "log.jsonl"
"""The one file that is appended to; no edit of classes does."""


def take(run: Path, folder: Path) -> None:
    """Keep the files of a run in `folder`, which must not exist."""
    for name in _files(run):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _keep(run / name, target)


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
            _keep(folder / name, draft)
            draft.replace(run / name)
            draft.unlink(missing_ok=True)  # rename does nothing if both are links to one file


def _files(run: Path) -> list[str]:
    """Files of a run, by its manifest, and the manifest; only names below the run."""
    names = [*read_json(run / MANIFEST)["files"], MANIFEST]
    root = run.resolve()
    inside = [name for name in names if (root / name).resolve().is_relative_to(root)]
    kept = [name for name in inside if name != LOG and not name.startswith("review/")]
    return [name for name in kept if (run / name).is_file()]


def _keep(source: Path, target: Path) -> None:
    """Hard link of a large file, or a copy."""
    if source.stat().st_size >= LARGE:
        try:
            os.link(source, target)
        except OSError:  # a file system without hard links: copied below
            target.unlink(missing_ok=True)
        else:
            return
    shutil.copyfile(source, target)
