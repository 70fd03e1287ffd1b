"""Ask paid questions: each is asked once, answers are saved at once, a few may fail."""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple

from PIL.Image import Image

from anyclass.captioning.captioner import CaptionContext, CaptionRequest
from anyclass.captioning.cleaning import cleaned
from anyclass.captioning.collage import image, preparation
from anyclass.captioning.response_cache import ResponseCache, key_of
from anyclass.data import ImageDataset, content_hashes
from anyclass.errors import AnyclassError, ImageError
from anyclass.log import Log

MAX_FAILURES = 0.1
"""Share of the questions that may have no answer."""
IN_A_ROW = 12
"""Consecutive failures after which no more questions are asked."""
EMPTY = "it was empty (a model that thinks first needs a larger --captioner.max-tokens)"
"""Reason of an answer without a visible character."""
_READERS = 4


class Failure(NamedTuple):
    """Why a question has no answer."""

    reason: str
    """One line, for people."""


Outcome = tuple[CaptionRequest, str | Failure]
"""A question and its answer or failure."""
Ask = Callable[[Mapping[CaptionRequest, str]], Generator[Outcome, None, None]]
"""Asks questions, each with its key, and yields outcomes as they arrive, in any order."""


def answered(
    requests: Sequence[CaptionRequest],
    context: CaptionContext,
    identity: Mapping[str, Any],
    ask: Ask,
    log: Log,
    max_failures: float = MAX_FAILURES,
    size: int | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> list[str | None]:
    """Return the texts for `requests`, from the response cache or by asking; None if there is none.

    Equal questions about equal images are asked once. Failures and empty answers are not cached,
    so a later call asks only these again.

    Args:
        requests: the questions.
        context: their images.
        identity: JSON values that the answer depends on besides question and images: the `model`
            and its settings.
        ask: asks the questions that are not in the cache.
        log: gets the progress, and one warning about failures.
        max_failures: share of the questions that may fail.
        size: longer side that single images are reduced to; None: `identity` has it. An image that
            is no larger has the same key whatever the size.
        earlier: identities that older versions kept the same answers under.

    Raises:
        AnyclassError: more than that failed, or all; the answers so far are kept.
    """
    if not requests:
        return []
    images, reasons = _hashed(requests, context.dataset)
    keys = {r: _key(identity, r, images[r], context.dataset, size) for r in images}
    asked = {key: request for request, key in keys.items()}
    total = len(asked) + len(reasons)
    with ResponseCache(log) as cache:
        texts = cache.known(asked)
        for old in earlier:
            texts |= _inherited(cache, old, {k: asked[k] for k in asked.keys() - texts}, images)
        missing = {request: key for key, request in asked.items() if key not in texts}
        log(stage="describe", done=total - len(missing), total=total, failed=len(reasons))
        for request, outcome in _outcomes(ask, missing):
            if isinstance(outcome, Failure):
                reasons.append(outcome.reason)
            elif text := cleaned(outcome):
                texts[keys[request]] = text
                cache.keep(
                    keys[request],
                    text,
                    model=str(identity["model"]),
                    question=request.question,
                    images=" ".join(images[request]),
                )
            else:
                reasons.append(EMPTY)
            done = len(texts) + len(reasons)
            log(stage="describe", done=done, total=total, failed=len(reasons))
    _check_failures(reasons, total, max_failures, log)
    return [texts.get(keys.get(request, "")) for request in requests]


def _key(
    identity: Mapping[str, Any],
    request: CaptionRequest,
    hashes: Sequence[str],
    dataset: ImageDataset,
    size: int | None,
) -> str:
    """Cache key of a question."""
    if size is not None:
        identity = {**identity, "picture": preparation(request, dataset, size)}
    return key_of(identity, request.question, request.variant, hashes)


def _inherited(
    cache: ResponseCache,
    identity: Mapping[str, Any],
    asked: Mapping[str, CaptionRequest],
    images: Mapping[CaptionRequest, Sequence[str]],
) -> dict[str, str]:
    """Answers that an older version kept under `identity`, by the keys of today; kept there too."""
    old = {k: key_of(identity, r.question, r.variant, images[r]) for k, r in asked.items()}
    known = cache.known(old.values())
    found = {key: known[old[key]] for key in asked if old[key] in known}
    for key, text in found.items():
        request = asked[key]
        hashes = " ".join(images[request])
        cache.keep(key, text, str(identity["model"]), request.question, hashes)
    return found


def load_image(request: CaptionRequest, dataset: ImageDataset, size: int) -> Image | Failure:
    """Load the image of `request`, at most `size` pixels long, or the reason why it failed."""
    try:
        return image(request, dataset, size)
    except ImageError as error:
        return Failure(f"an image cannot be used ({error})")


def side_by_side(
    answer: Callable[[CaptionRequest], str | Failure],
    requests: Iterable[CaptionRequest],
    at_once: int,
) -> Generator[Outcome, None, None]:
    """Answer `requests` in `at_once` threads, and yield the outcomes as they arrive.

    When it has to stop (an error, Ctrl-C, consecutive failures), no further question is asked, but
    running questions are awaited and yielded, because they are paid for.

    Raises:
        AnyclassError: there were `IN_A_ROW` consecutive failures, or `answer` raised it.
    """
    waiting = iter(requests)
    running: dict[Future[str | Failure], CaptionRequest] = {}
    breaker = _CircuitBreaker()
    with ThreadPoolExecutor(at_once) as threads:
        while True:
            free = 0 if breaker.stopped else at_once - len(running)
            running |= {
                threads.submit(answer, request): request for request in islice(waiting, free)
            }
            if not running:
                break
            for future in breaker.finished(running):
                yield running.pop(future), breaker.outcome(future)
    if breaker.stopped:
        raise breaker.stopped


class _CircuitBreaker:
    """Stops the questions after an error, Ctrl-C or consecutive failures."""

    stopped: BaseException | None = None
    failures = 0

    def finished(self, running: Collection[Future[str | Failure]]) -> set[Future[str | Failure]]:
        """Wait for at least one future; return none on Ctrl-C (the second Ctrl-C is raised)."""
        try:
            return wait(running, return_when=FIRST_COMPLETED).done
        except KeyboardInterrupt as error:
            if self.stopped:
                raise
            self.stopped = error
            return set()

    def outcome(self, future: Future[str | Failure]) -> str | Failure:
        """Result of a question; an error or too many consecutive failures set `stopped`."""
        if error := future.exception():
            self.stopped = self.stopped or error
            return Failure(str(error))
        outcome = future.result()
        if not isinstance(outcome, Failure) and not cleaned(outcome):
            outcome = Failure(EMPTY)
        self.failures = self.failures + 1 if isinstance(outcome, Failure) else 0
        if isinstance(outcome, Failure) and self.failures == IN_A_ROW:
            self.stopped = self.stopped or AnyclassError(
                f"{IN_A_ROW} consecutive questions had no answer; the last because "
                f"{outcome.reason}. No more questions are asked. {_NEXT}"
            )
        return outcome


_NEXT = "The answers so far are kept: fix the cause and run the same command again."


def _hashed(
    requests: Sequence[CaptionRequest], dataset: ImageDataset
) -> tuple[dict[CaptionRequest, list[str]], list[str]]:
    """Image checksums of each request, and the failure reasons of requests with bad images."""
    rows = sorted({row for request in requests for row in request.rows})
    hashes = dict(zip(rows, content_hashes(dataset[rows], _READERS), strict=True))
    readable: dict[CaptionRequest, list[str]] = {}
    reasons: list[str] = []
    for request in dict.fromkeys(requests):
        lost = [dataset.files[row] for row in request.rows if hashes[row] is None]
        if lost:
            reasons.append(f"{lost[0]} cannot be read")
        else:
            readable[request] = [h for row in request.rows if (h := hashes[row])]
    return readable, reasons


def _outcomes(ask: Ask, requests: Mapping[CaptionRequest, str]) -> Iterator[Outcome]:
    """Outcomes of `ask`, and a failure for each request without an outcome."""
    open_ = dict.fromkeys(requests)
    if not requests:
        return
    with closing(ask(requests)) as outcomes:
        for request, outcome in outcomes:
            open_.pop(request)
            yield request, outcome
    yield from ((request, Failure("no answer was returned")) for request in open_)


def _check_failures(reasons: Sequence[str], total: int, most: float, log: Log) -> None:
    """Warn about questions without an answer, or raise if there are too many."""
    if not reasons:
        return
    summary = f"{len(reasons)} of {total} questions have no answer; the first because {reasons[0]}."
    if len(reasons) == total or len(reasons) > most * total:
        raise AnyclassError(f"{summary} {_NEXT}")
    log(warning=f"{summary} These texts are missing; a later run asks for them again.")
