"""Metadata of a model, cached on disk.

A run whose features are cached needs digests, preprocessing and the logit scale of its model, but
not its weights. With this metadata it does without loading them, which takes seconds to minutes.
"""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from anyclass.errors import AnyclassError
from anyclass.files import cache_folder, read_json, write_json

LIBRARIES = (
    "anyclass",
    "onnxruntime",
    "onnxscript",
    "open_clip_torch",
    "timm",
    "torch",
    "transformers",
)
"""Libraries that load or run a model."""


class ModelMetadata:
    """Values that depend on a model's unchanged weights, by name: each is computed once."""

    def __init__(self, path: Path | None = None) -> None:
        """Read what is known.

        Args:
            path: JSON file with the metadata; None: nothing is known, and nothing kept.
        """
        self._path = path
        self._known = _read(path)

    def known(self, name: str) -> Any:
        """Value of a name; None if it is not known."""
        return self._known.get(name)

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """Value of a name, as JSON.

        Args:
            name: what it is.
            compute: computes it if it is not known.
        """
        if self._path is None:
            return compute()
        if name not in self._known:
            found = compute()
            self._known = _read(self._path) | self._known | {name: found}
            write_json(self._path, self._known)
        return self._known[name]


def metadata_of(folder: Path, allow_pickle: bool) -> ModelMetadata:
    """Metadata of a model, by its files and the versions of the libraries that load it.

    A file is known by its size, inode and times: a rewritten file counts as another one. Nothing is
    read, as a file from somebody else may be huge.

    Args:
        folder: folder of the model, all files of which count.
        allow_pickle: whether weights may be pickled.
    """
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    key = {"files": [[str(path), *_state(path)] for path in files], "allow_pickle": allow_pickle}
    key |= {"libraries": {name: installed_version(name) for name in LIBRARIES}}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return ModelMetadata(cache_folder("facts") / f"{digest}.json")


def _state(path: Path) -> tuple[int, ...]:
    """Size, inode and times of a file."""
    found = path.stat()
    return (found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


@cache
def installed_version(library: str) -> str | None:
    """Version of a library; None if it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _read(path: Path | None) -> dict[str, Any]:
    """Values from a file; none if there is no file, or a damaged one."""
    if path is None or not path.is_file():
        return {}
    try:
        known = read_json(path)
    except AnyclassError:
        return {}
    return known if isinstance(known, dict) else {}
