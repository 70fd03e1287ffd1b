"""Type of the logging function that is passed to everything that runs."""

from collections.abc import Callable

Log = Callable[..., None]
"""Accepts named numbers and strings: `log(stage="fit", done=3, total=10, loss=0.5)`."""


def silent(**_: object) -> None:
    """Log nothing."""
