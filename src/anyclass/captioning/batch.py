"""The captioner for answers that come later: questions go into files, answers come as files.

The files are those of OpenAI's batch service; vLLM (`run-batch`) and others read and write them
as well.
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
from anyclass.captioning.collage import jpeg, preparation
from anyclass.captioning.cost import CostEstimate, estimated
from anyclass.captioning.dispatch import MAX_FAILURES, Failure, Outcome, answered, shown
from anyclass.captioning.messages import UNREADABLE, answer, question
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.files import atomic_write
from anyclass.log import Log

URL = "/v1/chat/completions"
"""What a question is put to, as a batch service wants to be told."""
MOST_LINES = 50_000
"""Questions of a file: what OpenAI's service takes."""
MOST_BYTES = 190 * 10**6
"""Bytes of a file of questions; OpenAI's service takes 200 MB."""
LONGEST = 2**20
"""Bytes of a line of answers."""
_QUESTIONS = re.compile(r"requests-\d+\.jsonl")


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class BatchFiles:
    """Writes questions into files and reads answers from files: this program sends nothing."""

    model: str
    """Which model shall answer; its name stands in each question."""
    kind: Suppress[Literal["batch"]] = "batch"
    """Tells captioners apart in a saved configuration."""
    folder: Annotated[str, arg(metavar="DIR")] = "batch"
    """Gets the questions as requests-1.jsonl ...; answers are read from all its other *.jsonl."""
    size: Annotated[int, Field(gt=0)] = 672
    """Longer side of a single image in a question, in pixels; a smaller one stays as it is."""
    max_tokens: Annotated[int, Field(gt=0)] = 77
    """Longest answer (LatteCLIP's)."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 always says the likeliest (LatteCLIP's)."""
    max_failures: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the questions that may stay without a text, once all have come back."""
    price_in: Annotated[float, Field(ge=0)] = 0.0
    """Dollars for a million tokens of images and questions; 0 where not known."""
    price_out: Annotated[float, Field(ge=0)] = 0.0
    """Dollars for a million tokens of answers; 0 where not known."""

    def describe(
        self, requests: Sequence[CaptionRequest], context: CaptionContext, log: Log
    ) -> list[str | None]:
        """One sentence for each request, from the journal or from the files of answers.

        Raises:
            RequestError: questions have no answer yet; the message says in which files they are.
        """
        folder = Path(self.folder)

        def ask(missing: Mapping[CaptionRequest, str]) -> Generator[Outcome, None, None]:
            texts = _texts(folder, missing.values(), log)
            yield from ((r, texts[key]) for r, key in missing.items() if texts.get(key))
            open_ = {r: key for r, key in missing.items() if not texts.get(key)}
            few = len(open_) <= self.max_failures * len(requests)
            if few and texts.keys() == set(missing.values()):
                return
            if written := _written(folder, self._questions(open_, context.dataset)):
                raise RequestError(_to_do(folder, written))

        identity = {"kind": self.kind, "model": self.model, **self._generation}
        identity |= {"picture": preparation(self.size)}
        most = max(self.max_failures, MAX_FAILURES)
        return answered(requests, context, identity, ask, log, most)

    def estimate(self, calls: int) -> CostEstimate:
        """What `calls` answers cost; when they come is not known."""
        prices = (self.price_in, self.price_out)
        sent_to = f"whoever gets the files in {self.folder}"
        return estimated(calls, self.size, self.max_tokens, None, prices, sent_to)

    @property
    def _generation(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens, "temperature": self.temperature}

    def _questions(
        self, open_: Mapping[CaptionRequest, str], dataset: ImageDataset
    ) -> Iterator[bytes]:
        """The questions; one about an image that cannot be used is left out."""
        for request, key in open_.items():
            image = shown(request, dataset, self.size)
            if not isinstance(image, Failure):
                body = question(request.question, jpeg(image), self.model, **self._generation)
                row = {"custom_id": key, "method": "POST", "url": URL, "body": body}
                yield json.dumps(row).encode() + b"\n"


def _to_do(folder: Path, written: Mapping[str, int]) -> str:
    files = ", ".join(f"{folder / name} ({count})" for name, count in written.items())
    return (
        f"{sum(written.values())} questions have no answer yet; they are in {files}. Have them "
        f"answered,\nput the answers into {folder} as *.jsonl, and give the same command again."
    )


def _written(folder: Path, lines: Iterator[bytes]) -> dict[str, int]:
    """Files of questions and how many each holds; those of an earlier time that are over go."""
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
    """Writes lines as long as they fit; returns how many, and the first that did not."""
    count = size = 0
    following: bytes | None = line
    while following and count < MOST_LINES and (size == 0 or size + len(following) <= MOST_BYTES):
        size += file.write(following)
        count += 1
        following = next(lines, None)
    return count, following


def _texts(folder: Path, keys: Collection[str], log: Log) -> dict[str, str]:
    """What the files say to these questions; nothing ("") for an error or an empty text.

    They come from elsewhere: lines that are of no use are counted, and the counts are said.
    """
    texts: dict[str, str] = {}
    useless, wanted = Counter[str](), set(keys)
    for key, text in _answers(folder):
        if key not in wanted:
            useless["answer other questions" if key else "cannot be read"] += 1
        elif not text or texts.get(key):
            useless["answer again what was answered" if text else "hold no text but an error"] += 1
            texts.setdefault(key, "")
        else:
            texts[key] = text
    if useless:
        counts = ", ".join(f"{count} {what}" for what, count in useless.items())
        log(warning=f"of the lines in {folder}/*.jsonl {counts}")
    return texts


def _answers(folder: Path) -> Iterator[tuple[str, str]]:
    """Key and text of each line of the files of answers; no key where a line is no answer."""
    for path in sorted(folder.glob("*.jsonl")):
        ours = path.name.startswith(".") or _QUESTIONS.fullmatch(path.name)
        if path.is_file() and not ours:
            with path.open("rb") as file:
                yield from (_answer(line) for line in _lines(file) if line.strip())


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines; of one that is too long its beginning."""
    while line := file.readline(LONGEST):
        yield line
        while len(line) == LONGEST and not line.endswith(b"\n"):
            line = file.readline(LONGEST)


def _answer(line: bytes) -> tuple[str, str]:
    """Key and text of one line; no text for an error."""
    try:
        row = json.loads(line)
        key, reply = row["custom_id"], row["response"]
        if not isinstance(key, str):
            raise TypeError("its custom_id is no text")
        failed = row.get("error") or not reply or reply["status_code"] != 200
        return key, "" if failed else cleaned(answer(reply["body"])) or ""
    except UNREADABLE:
        return "", ""
