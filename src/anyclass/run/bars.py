"""Progress bars: of a terminal, or of a notebook."""

import os
import sys
import warnings
from contextlib import suppress
from typing import Any

COLUMNS = 80
"""Width of a bar where the terminal does not say its own, as in a container."""


def in_notebook() -> bool:
    """Whether the code runs in a cell of a notebook; IPython is not imported to find out."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


def progress_bar(**options: Any) -> Any:
    """A bar of tqdm on standard error, or in a cell; None where neither can show one.

    Args:
        options: arguments of tqdm: `total`, `desc` ...
    """
    if in_notebook():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without ipywidgets, the bar is one of text
            from tqdm.auto import tqdm as notebook_tqdm
        return notebook_tqdm(leave=False, **options)
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    if _of_no_width():  # tqdm would draw nothing
        options |= {"dynamic_ncols": False, "ncols": COLUMNS}
    return tqdm(file=sys.stderr, **options)


def _of_no_width() -> bool:
    """Whether standard error is a terminal that says it has no column."""
    with suppress(OSError):
        return os.get_terminal_size(sys.stderr.fileno()).columns == 0
    return False
