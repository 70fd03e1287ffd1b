"""Exceptions of `anyclass`.

    AnyclassError             exit code 1   the base class: catch this to catch them all
    ├── RequestError          exit code 2   the request is wrong; the message names the fix
    │   └── ArrayError        exit code 2   an array has a wrong shape or value
    ├── ModelError            exit code 2   a model or classifier file is damaged or unknown
    ├── FileError             exit code 2   a file of a run, or another one, is damaged
    ├── ImageError                        one image cannot be used: a row of rejected.csv
    ├── TrainingError         exit code 1   training had to stop
    ├── ProcessLost           exit code 1   another process of torchrun is gone
    └── StorageError          exit code 1   the disk is full or the folder is read-only

Messages are one or two lines for the person who typed the command.
"""

from typing import ClassVar, Literal

Reason = Literal[
    "missing",
    "not a regular file",
    "outside the folder",
    "too many bytes",
    "not an image",
    "too many pixels",
    "too many scans",
    "too many parts",
    "truncated or damaged",
    "unsupported mode",
    "unreadable",
]
"""Why an image was rejected: the values of the `reason` column of rejected.csv."""


def printable(text: str) -> str:
    """Escape the control characters in `text`: file names may hold terminal commands."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, numpy, PyTorch or ONNX Runtime says that memory ran out."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # of torch, which is not imported here
        or any(words in text for words in _NO_MEMORY)
    )


_NO_MEMORY = ("DefaultCPUAllocator", "Failed to allocate memory", "bad_alloc", "bad allocation")
"""What libraries say when memory runs out."""


class AnyclassError(Exception):
    """Base class of all errors of this package."""

    exit_code: ClassVar[int] = 1
    """Exit code of the command line."""


class RequestError(AnyclassError):
    """The request cannot be fulfilled; the message says what to do instead."""

    exit_code: ClassVar[int] = 2


class UnlistedLabelError(RequestError):
    """Labels are not in the list of classes."""

    def __init__(self, problem: str, advice: str) -> None:
        """Keep the problem, to which callers that know more give other advice."""
        super().__init__(problem + advice)
        self.problem = problem


class ArrayError(RequestError, ValueError):
    """An array has a wrong shape or value; the message names the row. scikit-learn's convention."""


class ModelError(AnyclassError):
    """A model or classifier file is damaged, of an unknown kind or does not match."""

    exit_code: ClassVar[int] = 2


class FileError(AnyclassError):
    """A file of a run, or another one that was written before, is missing or damaged."""

    exit_code: ClassVar[int] = 2


class ImageError(AnyclassError):
    """One image cannot be used; the run continues without it."""

    reason: Reason
    """One of the closed list of reasons."""

    detail: str
    """Details for people, one line."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        """Keep both parts in `args`, so that the error can be pickled between processes."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        """Reason and detail in one line."""
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class TrainingError(AnyclassError):
    """Training had to stop, for example because a loss is NaN."""


class ProcessLost(AnyclassError):
    """A process of a training that several share has ended, or cannot be reached."""


class StorageError(AnyclassError):
    """The disk is full, or the folder cannot be written to."""
