"""Captioner through batch files: it writes questions to files and reads answers from files.

The format is that of OpenAI's batch service; vLLM (`run-batch`) and others use it as well.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import Suppress, arg

from anyclass.captioning.captioner import CaptionContext, CaptionRequest
from anyclass.captioning.cleaning import cleaned
from anyclass.captioning.collage import jpeg, settings
from anyclass.captioning.cost import CostEstimate, estimated
from anyclass.captioning.dispatch import MAX_FAILURES, Failure, Outcome, answered, load_image
from anyclass.captioning.messages import UNREADABLE, answer_text, question
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.files import atomic_write
from anyclass.log import Log

URL = "/v1/chat/completions"
"""The API of each question, a field of the batch format."""
MOST_LINES = 50_000
"""Maximum number of questions per file: the limit of OpenAI's service."""
MOST_BYTES = 190 * 10**6
"""Maximum number of bytes per file of questions; the limit of OpenAI's service is 200 MB."""
LONGEST = 2**20
"""Maximum number of bytes per line of answers."""
_QUESTIONS = re.compile(r"requests-\d+\.jsonl")


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class BatchFiles:
    """Write questions to files and read answers from files; nothing is sent by this program."""

    model: str
    """Name of the model that should answer; it is written into each question."""
    kind: Suppress[Literal["batch"]] = "batch"
    """Type of captioner in a saved configuration."""
    folder: Annotated[str, arg(metavar="DIR")] = "batch"
    """Folder for the questions (requests-1.jsonl ...) and the answers (all other *.jsonl)."""
    size: Annotated[int, Field(gt=0)] = 672
    """Longer side of a single image in pixels; smaller images are not enlarged."""
    max_tokens: Annotated[int, Field(gt=0)] = 77
    """Maximum length of an answer in tokens (LatteCLIP: 77)."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Sampling temperature; 0 is greedy decoding (LatteCLIP's)."""
    max_failures: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the questions that may have no text once all answers are there."""
    price_in: Annotated[float, Field(ge=0)] = 0.0
    """Dollars per million input tokens (images and questions); 0 if not known."""
    price_out: Annotated[float, Field(ge=0)] = 0.0
    """Dollars per million output tokens; 0 if not known."""

    def describe(
        self, requests: Sequence[CaptionRequest], context: CaptionContext, log: Log
    ) -> list[str | None]:
        """Return one sentence per request, from the response cache or from the answer files.

        Raises:
            RequestError: questions have no answer yet; the message names their files.
        """
        folder = Path(self.folder)

        def ask(missing: Mapping[CaptionRequest, str]) -> Generator[Outcome, None, None]:
            texts = _texts(folder, missing.values(), log)
            yield from ((r, texts[key]) for r, key in missing.items() if texts.get(key))
            open_ = {r: key for r, key in missing.items() if not texts.get(key)}
            few = len(open_) <= self.max_failures * len(requests)
            if few and texts.keys() == set(missing.values()):
                return
            if written := _write(folder, self._questions(open_, context.dataset)):
                raise RequestError(_to_do(folder, written))

        identity = {"kind": self.kind, "model": self.model, **self._generation}
        identity |= {"picture": settings(self.size)}
        most = max(self.max_failures, MAX_FAILURES)
        return answered(requests, context, identity, ask, log, most)

    @property
    def answered_by(self) -> str:
        """Name of the model that answers."""
        return self.model

    def estimate(self, calls: int) -> CostEstimate:
        """Cost of `calls` answers; the time is not known."""
        prices = (self.price_in, self.price_out)
        sent_to = f"the service that you give the files in {self.folder}"
        return estimated(calls, self.size, self.max_tokens, None, prices, sent_to)

    @property
    def _generation(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens, "temperature": self.temperature}

    def _questions(
        self, open_: Mapping[CaptionRequest, str], dataset: ImageDataset
    ) -> Iterator[bytes]:
        """Lines of the request files; questions about unreadable images are skipped."""
        for request, key in open_.items():
            image = load_image(request, dataset, self.size)
            if not isinstance(image, Failure):
                body = question(request.question, jpeg(image), self.model, **self._generation)
                row = {"custom_id": key, "method": "POST", "url": URL, "body": body}
                yield json.dumps(row).encode() + b"\n"


def _to_do(folder: Path, written: Mapping[str, int]) -> str:
    files = ", ".join(f"{folder / name} ({count})" for name, count in written.items())
    return (
        f"{sum(written.values())} questions have no answer yet; they are in {files}. Have them "
        f"answered,\nput the answers into {folder} as *.jsonl, and run the same command again."
    )


def _write(folder: Path, lines: Iterator[bytes]) -> dict[str, int]:
    """Write request files, remove outdated ones, and return the number of questions per file."""
    written: dict[str, int] = {}
    line = next(lines, None)
    while line is not None:
        path = folder / f"requests-{len(written) + 1}.jsonl"
        with atomic_write(path) as draft, draft.open("wb") as file:
            written[path.name], line = _fill(file, line, lines)
    for path in folder.glob("requests-*.jsonl"):
        if _QUESTIONS.fullmatch(path.name) and path.name not in written:
            path.unlink()
    return written


def _fill(file: BinaryIO, line: bytes, lines: Iterator[bytes]) -> tuple[int, bytes | None]:
    """Write lines up to the limits; return how many, and the first line that did not fit."""
    count = size = 0
    following: bytes | None = line
    while following and count < MOST_LINES and (size == 0 or size + len(following) <= MOST_BYTES):
        size += file.write(following)
        count += 1
        following = next(lines, None)
    return count, following


def _texts(folder: Path, keys: Collection[str], log: Log) -> dict[str, str]:
    """Texts in the answer files by key; "" for an error or an empty text.

    The files come from another program: unusable lines are counted and reported.
    """
    texts: dict[str, str] = {}
    unused = Counter[str]()
    wanted = set(keys)
    for key, text in _answers(folder):
        if key not in wanted:
            unused["answer other questions" if key else "cannot be read"] += 1
        elif not text or texts.get(key):
            unused["repeat an answer" if text else "contain an error or no text"] += 1
            texts.setdefault(key, "")
        else:
            texts[key] = text
    if unused:
        counts = ", ".join(f"{count} {reason}" for reason, count in unused.items())
        log(warning=f"unused lines in {folder}/*.jsonl: {counts}")
    return texts


def _answers(folder: Path) -> Iterator[tuple[str, str]]:
    """Key and text of each line of the answer files; an empty key if the line is no answer."""
    for path in sorted(folder.glob("*.jsonl")):
        ours = path.name.startswith(".") or _QUESTIONS.fullmatch(path.name)
        if path.is_file() and not ours:
            with path.open("rb") as file:
                yield from (_answer(line) for line in _lines(file) if line.strip())


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of a file, cut to `LONGEST` bytes."""
    while line := file.readline(LONGEST):
        yield line
        while len(line) == LONGEST and not line.endswith(b"\n"):
            line = file.readline(LONGEST)


def _answer(line: bytes) -> tuple[str, str]:
    """Key and text of one line; an empty text for an error."""
    try:
        row = json.loads(line)
        key = row["custom_id"]
        reply = row["response"]
        if not isinstance(key, str):
            raise TypeError("its custom_id is no text")
        failed = row.get("error") or not reply or reply["status_code"] != 200
        return key, "" if failed else cleaned(answer_text(reply["body"])) or ""
    except UNREADABLE:
        return "", ""
