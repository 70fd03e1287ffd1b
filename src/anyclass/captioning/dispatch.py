"""Paid questions: each is put once, its answer is kept at once, and a few may fail."""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple

from PIL.Image import Image

from anyclass.captioning.captioner import CaptionContext, CaptionRequest
from anyclass.captioning.cleaning import cleaned
from anyclass.captioning.collage import image
from anyclass.captioning.response_cache import ResponseCache, key_of
from anyclass.data import ImageDataset, content_hashes
from anyclass.errors import AnyclassError, ImageError
from anyclass.log import Log

MAX_FAILURES = 0.1
"""Share of the questions that may stay without an answer."""
IN_A_ROW = 12
"""Failures one after the other that end the asking: thousands more would fail as well."""
_READERS = 4


class Failure(NamedTuple):
    """Why a question has no answer."""

    reason: str
    """One line, for people."""


Outcome = tuple[CaptionRequest, str | Failure]
"""A question and what came of it."""
Ask = Callable[[Mapping[CaptionRequest, str]], Generator[Outcome, None, None]]
"""Puts questions, each with its key, and yields each outcome as it arrives, in any order."""


def answered(
    requests: Sequence[CaptionRequest],
    context: CaptionContext,
    identity: Mapping[str, Any],
    ask: Ask,
    log: Log,
    max_failures: float = MAX_FAILURES,
) -> list[str | None]:
    """The texts for `requests`, from the journal where it knows them; None where there is none.

    Equal questions about equal images are put once. A failure and an empty answer are not
    journalled, so a later call asks again, and for these alone.

    Args:
        requests: the questions.
        context: their images.
        identity: what an answer depends on beside question and images, as JSON has it: the
            `model`, and how it is asked.
        ask: puts the questions that the journal does not know.
        log: gets the progress, and one warning about failures.
        max_failures: share of the questions that may fail.

    Raises:
        AnyclassError: more than that failed, or all; what was answered is kept.
    """
    if not requests:
        return []
    images, reasons = _hashed(requests, context.dataset)
    keys = {r: key_of(identity, r.question, r.variant, hashes) for r, hashes in images.items()}
    asked = {key: request for request, key in keys.items()}
    total = len(asked) + len(reasons)
    with ResponseCache(log) as cache:
        texts = cache.known(asked)
        missing = {request: key for key, request in asked.items() if key not in texts}
        log(stage="describe", done=total - len(missing), total=total, failed=len(reasons))
        for request, outcome in _outcomes(ask, missing):
            if isinstance(outcome, Failure):
                reasons.append(outcome.reason)
            elif text := cleaned(outcome):
                texts[keys[request]] = text
                about = {"model": str(identity["model"]), "question": request.question}
                cache.keep(keys[request], text, pictures=" ".join(images[request]), **about)
            else:
                reasons.append("it was empty")
            done = len(texts) + len(reasons)
            log(stage="describe", done=done, total=total, failed=len(reasons))
    _judge(reasons, total, max_failures, log)
    return [texts.get(keys.get(request, "")) for request in requests]


def shown(request: CaptionRequest, dataset: ImageDataset, size: int) -> Image | Failure:
    """The image that `request` is about, at most `size` pixels long; or why there is none."""
    try:
        return image(request, dataset, size)
    except ImageError as error:
        return Failure(f"an image cannot be used ({error})")


def side_by_side(
    answer: Callable[[CaptionRequest], str | Failure],
    requests: Iterable[CaptionRequest],
    at_once: int,
) -> Generator[Outcome, None, None]:
    """Puts `requests` to `answer`, `at_once` of them at a time, and yields as they arrive.

    When it has to stop (an error, Ctrl-C, failures in a row) nothing new is put, but what is under
    way is waited for and yielded: it is paid for.

    Raises:
        AnyclassError: `IN_A_ROW` failures came one after the other; or what `answer` raises.
    """
    waiting, running = iter(requests), dict[Future[str | Failure], CaptionRequest]()
    course = _Course()
    with ThreadPoolExecutor(at_once) as threads:
        while True:
            free = 0 if course.stopped else at_once - len(running)
            running |= {
                threads.submit(answer, request): request for request in islice(waiting, free)
            }
            if not running:
                break
            for future in course.arrived(running):
                yield running.pop(future), course.outcome(future)
    if course.stopped:
        raise course.stopped


class _Course:
    """Whether to go on asking, and if not, why."""

    stopped: BaseException | None = None
    failures = 0

    def arrived(self, running: Collection[Future[str | Failure]]) -> set[Future[str | Failure]]:
        """Those that are done, at least one; none when Ctrl-C came first (twice: at once)."""
        try:
            return wait(running, return_when=FIRST_COMPLETED).done
        except KeyboardInterrupt as error:
            if self.stopped:
                raise
            self.stopped = error
            return set()

    def outcome(self, future: Future[str | Failure]) -> str | Failure:
        """What came of a question; an error, or one failure too many in a row, ends the course."""
        if error := future.exception():
            self.stopped = self.stopped or error
            return Failure(str(error))
        outcome = future.result()
        self.failures = self.failures + 1 if isinstance(outcome, Failure) else 0
        if isinstance(outcome, Failure) and self.failures == IN_A_ROW:
            self.stopped = self.stopped or AnyclassError(
                f"{IN_A_ROW} questions one after the other had no answer, the last because "
                f"{outcome.reason}. No more are put. {_NEXT}"
            )
        return outcome


_NEXT = "What was answered is kept: mend the cause and give the same command again."


def _hashed(
    requests: Sequence[CaptionRequest], dataset: ImageDataset
) -> tuple[dict[CaptionRequest, list[str]], list[str]]:
    """Checksums of each request's images; for one with an unreadable image, why it fails."""
    rows = sorted({row for request in requests for row in request.rows})
    hashes = dict(zip(rows, content_hashes(dataset[rows], _READERS), strict=True))
    whole, reasons = dict[CaptionRequest, list[str]](), list[str]()
    for request in dict.fromkeys(requests):
        lost = [dataset.files[row] for row in request.rows if hashes[row] is None]
        if lost:
            reasons.append(f"{lost[0]} cannot be read")
        else:
            whole[request] = [h for row in request.rows if (h := hashes[row])]
    return whole, reasons


def _outcomes(ask: Ask, requests: Mapping[CaptionRequest, str]) -> Iterator[Outcome]:
    """What `ask` yields, and a failure for each request that it says nothing of."""
    silent = dict.fromkeys(requests)
    if not requests:
        return
    with closing(ask(requests)) as outcomes:
        for request, outcome in outcomes:
            silent.pop(request)
            yield request, outcome
    yield from ((request, Failure("nothing came back")) for request in silent)


def _judge(reasons: Sequence[str], total: int, most: float, log: Log) -> None:
    """Says how many questions have no answer, or stops when they are too many."""
    if not reasons:
        return
    said = f"{len(reasons)} of {total} questions have no answer; the first because {reasons[0]}."
    if len(reasons) == total or len(reasons) > most * total:
        raise AnyclassError(f"{said} {_NEXT}")
    log(warning=f"{said} These texts are left out; a later run asks again for them alone.")
