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
        check_owner(name, given, there[owner])


def check_owner(name: str, given: bool, there: bool, owner: str | None = None) -> None:
    """Refuse an option that is given without the one that it belongs to.

    Args:
        name: field or argument of the option.
        given: whether it is given.
        there: whether its owner is.
        owner: that, as in the message; None: as in `OWNER_OF`.

    Raises:
        RequestError: it is given alone.
    """
    if given and not there:
        raise RequestError(f"{flag_of(name)} belongs to {owner or OWNER_OF[name]}: leave it out")


def flag_of(name: str) -> str:
    """Flag of a field or an argument."""
    return f"--{name.replace('_', '-')}"
