"""Captioner that reads texts written elsewhere: a table in JSON lines, or a text file per image."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from tyro.conf import Suppress, arg

from anyclass.captioning.captioner import CaptionContext, CaptionRequest
from anyclass.captioning.cleaning import cleaned
from anyclass.captioning.cost import CostEstimate
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.log import Log

LONGEST = 2**20
"""Maximum number of bytes that are read of a text file of one image, and of a line."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class CaptionFile:
    """Read texts that were written elsewhere; nothing is asked.

    JSON lines as `anyclass describe` writes them: `file_name` and `text` for an image, `files` and
    `text` for a group; lines of other kinds are passed over. Or a folder with a text file for each
    image, called like it (`a/1.jpg`: `a/1.txt`), with one text per line.
    """

    path: Annotated[str, arg(metavar="PATH")]
    """A file of JSON lines with `file_name` and `text`, or a folder with a .txt per image."""
    kind: Suppress[Literal["file"]] = "file"
    """Type of captioner in a saved configuration."""

    def describe(
        self, requests: Sequence[CaptionRequest], context: CaptionContext, log: Log
    ) -> list[str | None]:
        """Return the texts of the requests' images; None where there is none.

        Raises:
            RequestError: there is no such file, a line is wrong, or no image has a text.
        """
        path = Path(self.path)
        folder = path.is_dir()
        texts = {} if folder else _table(path)
        answers: list[str | None] = []
        for request in requests:
            files = tuple(sorted(context.dataset.files[row] for row in request.rows))
            found = _beside(path, files) if folder else texts.get(files, [])
            some = found[request.variant : request.variant + 1]
            answers.append(cleaned(some[0]) if some else None)
        _check(path, requests, answers, context.dataset, log)
        return answers

    @property
    def answered_by(self) -> str:
        """Where the texts come from."""
        return f"texts in {Path(self.path).name}"

    def estimate(self, calls: int) -> CostEstimate:
        """No cost: nothing is asked."""
        return CostEstimate()


class _Row(BaseModel):
    """A line of the table; other keys are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    text: str | None
    file_name: str | None = None
    files: list[str] | None = None
    kind: str = ""

    @model_validator(mode="after")
    def _has_images(self) -> "_Row":
        if self.file_name is None and self.files is None and self.kind != "class":
            raise ValueError("it has neither file_name nor files")
        return self


class _Line(NamedTuple):
    number: int
    content: bytes


def _lines(path: Path) -> Iterator[_Line]:
    """Lines of a file that are not blank."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST):
                number += 1
                if line.strip():
                    yield _Line(number, line)
    except OSError as error:
        raise RequestError(f"--captioner.path {path}: {error.strerror or error}") from error


def _table(path: Path) -> dict[tuple[str, ...], list[str]]:
    """Sorted files of an image or group -> its texts."""
    texts: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for line in _lines(path):
        try:
            row = _Row.model_validate(json.loads(line.content))
        except (ValueError, RecursionError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise RequestError(
                f"{path}, line {line.number}: {why}. A line is an object with file_name and text"
            ) from error
        files = [row.file_name] if row.file_name is not None else row.files
        if files and row.text:
            texts[tuple(sorted(files))].append(row.text)
    return texts


def _beside(folder: Path, files: tuple[str, ...]) -> list[str]:
    """Texts of an image in its text file, a line each; a group has none."""
    if len(files) > 1:
        return []
    root = folder.resolve()
    path = (root / files[0]).with_suffix(".txt").resolve()
    if not path.is_relative_to(root) or not path.is_file():
        return []
    with path.open("rb") as file:
        text = file.read(LONGEST).decode("utf-8", "replace")
    return [line for line in text.splitlines() if line.strip()]


def _check(
    path: Path,
    requests: Sequence[CaptionRequest],
    answers: Sequence[str | None],
    dataset: ImageDataset,
    log: Log,
) -> None:
    """Say how many images and groups have no text, or refuse where no image has one."""
    for noun, single in (("images", True), ("groups", False)):
        some = [a for r, a in zip(requests, answers, strict=True) if (len(r.rows) == 1) == single]
        missing = some.count(None)
        if single and some and missing == len(some):
            first = dataset.files[next(r.rows[0] for r in requests if len(r.rows) == 1)]
            raise RequestError(
                f"{path} has no text of any image: call them as they are called here, such as "
                f"{first}"
            )
        if missing:
            log(warning=f"{path} has no text for {missing} of {len(some)} {noun}; these have none")
