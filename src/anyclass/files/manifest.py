"""The manifest: checksums of the files of a folder, written last: a folder with one is whole."""

import hashlib
from pathlib import Path

from anyclass.errors import AnyclassError
from anyclass.files.atomic import read_json, write_json
from anyclass.files.folder_lock import LOCKS
from anyclass.files.temporary import is_temporary

MANIFEST = "manifest.json"
"""Name of the file with the checksums of a folder's files."""


def write_manifest(folder: Path) -> None:
    """Write `manifest.json` with the checksum of every file in `folder`; call this last."""
    files = {name: sha256(folder / name) for name in _listing(folder)}
    write_json(folder / MANIFEST, {"files": files})


def check_manifest(folder: Path) -> list[str]:
    """Problems with the files in `manifest.json`, one sentence each; empty if all are intact."""
    try:
        files = read_json(folder / MANIFEST)["files"].items()
    except (AnyclassError, AttributeError, KeyError, TypeError) as error:
        return [
            str(error) if isinstance(error, AnyclassError) else f"{folder / MANIFEST} is damaged"
        ]
    present = set(_listing(folder))
    problems = []
    for name, checksum in files:
        if name not in present:
            problems.append(f"{name} is missing")
        elif sha256(folder / name) != checksum:
            problems.append(f"{name} has changed")
    return problems


def sha256(path: Path) -> str:
    """SHA-256 of the file's content, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listing(folder: Path) -> list[str]:
    """Sorted POSIX paths of the regular files that belong in the manifest."""
    names = []
    for path in folder.rglob("*"):
        ours = path.name in LOCKS or is_temporary(path.name)
        if path.is_file() and not path.is_symlink() and not ours:
            names.append(path.relative_to(folder).as_posix())
    return sorted(name for name in names if name != MANIFEST)
