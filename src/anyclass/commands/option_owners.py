"""Options that belong to another one, without which they would be ignored."""

from typing import TYPE_CHECKING

from anyclass.errors import RequestError

if TYPE_CHECKING:
    from anyclass.commands.request import Request

OWNER_OF = {
    "extra": "--features FILE",
    "class_text": "--features FILE",
    "logit_scale": "--features FILE",
    "model": "--images DIR",
    "engine": "--images DIR",
    "precision": "--images DIR",
    "decoding": "--images DIR",
    "allow_pickle": "--images DIR",
    "file_column": "--labels FILE",
    "label_column": "--labels FILE",
    "names": "--unknown N",
}
"""Field of a request -> the option that it belongs to."""


def check_owners(request: "Request") -> None:
    """Refuse options without the one that they belong to.

    Raises:
        RequestError: there is one.
    """
    folders = isinstance(request.labels, str) and request.labels == "folders"
    there = {
        "--features FILE": request.features is not None,
        "--images DIR": request.features is None,
        "--labels FILE": request.labels is not None and not folders,
        "--unknown N": bool(request.unknown) or request.from_run is not None,
    }
    for name, owner in OWNER_OF.items():
        value = getattr(request, name)
        default = getattr(type(request), name)
        given = value is not None if default is None else value != default
        if given and not there[owner]:
            raise RequestError(f"--{name.replace('_', '-')} belongs to {owner}: leave it out")
