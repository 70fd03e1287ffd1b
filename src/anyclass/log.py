"""The type of what takes the numbers and words of a run."""

from collections.abc import Callable

Log = Callable[..., None]
"""Takes named numbers and words: `log(stage="fit", done=3, total=10, loss=0.5)`."""
