"""Images that could not be used, with the reason."""

from typing import NamedTuple

from anyclass.data.image import one_line
from anyclass.errors import ImageError, Reason


class Rejection(NamedTuple):
    """A row of rejected.csv."""

    file_name: str
    """As in `ImageDataset.files`."""

    reason: Reason
    """Kind of problem."""

    detail: str
    """Details, one line."""


def rejection_of(file_name: str, error: Exception) -> Rejection:
    """Row of rejected.csv for an image and its error."""
    if isinstance(error, ImageError):
        return Rejection(file_name, error.reason, error.detail)
    return Rejection(file_name, "unreadable", one_line(error))
