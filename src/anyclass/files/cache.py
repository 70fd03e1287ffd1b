"""The folder of everything that can be computed again."""

import os
from pathlib import Path

from anyclass.errors import RequestError
from anyclass.files.shared import check_locks
from anyclass.files.storage import storage


def cache_folder(*parts: str) -> Path:
    """Create and return a folder in the user's cache (`$ANYCLASS_CACHE`, or the system's)."""
    own = os.environ.get("ANYCLASS_CACHE")
    home = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    try:
        root = Path(own) if own else Path(home or Path.home() / ".cache") / "anyclass"
    except RuntimeError as error:  # a user id without an entry, as in `docker run --user`
        raise RequestError(
            "this user has no home folder: set ANYCLASS_CACHE to a folder that can be written to"
        ) from error
    check_locks(root)
    folder = root.joinpath(*parts)
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
