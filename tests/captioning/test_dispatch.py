"""What every paid captioner shares: the journal is asked first, and a few questions may fail."""

import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import wait
from typing import Any

import pytest

from anyclass.captioning import (
    CaptionContext,
    CaptionRequest,
    Failure,
    Outcome,
    answered,
    side_by_side,
)
from anyclass.captioning import dispatch as asking
from anyclass.errors import AnyclassError

IDENTITY = {"kind": "test", "model": "m"}


class Oracle:
    """Answers each request from `special`, or else with its rows; remembers what it was asked."""

    def __init__(self, special: dict[CaptionRequest, str | Failure] | None = None) -> None:
        self.special, self.asked = special or {}, []

    def __call__(self, requests: Mapping[CaptionRequest, str]) -> Generator[Outcome, None, None]:
        for request in reversed(list(requests)):  # in any order
            self.asked.append(request)
            yield request, self.special.get(request, f"of {request.rows}")


def texts(requests: Sequence[CaptionRequest]) -> list[str]:
    return [f"of {request.rows}" for request in requests]


def test_answered__in_the_order_of_the_requests(
    requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    assert answered(requests, context, IDENTITY, Oracle(), log) == texts(requests)
    steps = [(n["stage"], n["done"], n["total"], n["failed"]) for n in log]
    assert steps == [("describe", i, 13, 0) for i in range(14)]
    assert answered([], context, IDENTITY, Oracle(), log) == []


def test_answered__what_the_journal_knows_is_not_asked(
    requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    answered(requests[:7], context, IDENTITY, Oracle(), log)
    oracle = Oracle()
    assert answered(requests, context, IDENTITY, oracle, log) == texts(requests)
    assert sorted(oracle.asked) == sorted(requests[7:])
    silent = Oracle()
    assert answered(requests, context, IDENTITY, silent, log) == texts(requests)
    assert silent.asked == []


def test_answered__another_model_question_variant_or_content_is_asked(
    requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    request = requests[0]
    answered([request], context, IDENTITY, Oracle(), log)
    for identity, other in [
        (IDENTITY | {"model": "n"}, request),
        (IDENTITY, request._replace(question="Who?")),
        (IDENTITY, request._replace(variant=1)),
        (IDENTITY, request._replace(rows=(0, 1))),
    ]:
        oracle = Oracle()
        answered([other], context, identity, oracle, log)
        assert oracle.asked == [other]
    context.dataset.path(0).write_bytes(context.dataset.path(1).read_bytes())
    oracle = Oracle()
    answered([request], context, IDENTITY, oracle, log)
    assert oracle.asked == [request]


def test_answered__the_same_content_is_asked_once(
    requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    context.dataset.path(5).write_bytes(context.dataset.path(2).read_bytes())
    oracle = Oracle()
    said = answered(requests, context, IDENTITY, oracle, log)
    assert len(oracle.asked) == 12
    assert said[5] == said[2]
    assert log[-1] == {"stage": "describe", "done": 12, "total": 12, "failed": 0}


def test_answered__failures_and_empty_answers_alone_are_asked_again(
    requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    special = {requests[3]: Failure("the moon was wrong"), requests[8]: "\n\u200b"}
    said = answered(requests, context, IDENTITY, Oracle(special), log, max_failures=0.2)
    wanted = texts(requests)
    assert said == [*wanted[:3], None, *wanted[4:8], None, *wanted[9:]]
    assert log[-2] == {"stage": "describe", "done": 13, "total": 13, "failed": 2}
    assert len(log.warnings) == 1
    assert log.warnings[0].startswith("2 of 13 questions have no answer; the first because it was")
    oracle = Oracle()
    assert answered(requests, context, IDENTITY, oracle, log) == wanted
    assert sorted(oracle.asked) == sorted(special)


def test_answered__texts_are_cleaned(
    requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    oracle = Oracle({requests[0]: '"A\u202e dog\n"'})
    assert answered(requests[:1], context, IDENTITY, oracle, log) == ["A dog"]
    assert answered(requests[:1], context, IDENTITY, Oracle(), log) == ["A dog"]


def test_answered__too_many_failures_end_it_and_the_rest_is_kept(
    requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    special = dict.fromkeys(requests[:2], Failure("the moon was wrong"))
    with pytest.raises(AnyclassError, match="2 of 13 .* the moon was wrong.*same command again"):
        answered(requests, context, IDENTITY, Oracle(special), log)
    oracle = Oracle()
    answered(requests, context, IDENTITY, oracle, log)
    assert sorted(oracle.asked) == sorted(special)


def test_answered__all_failing_ends_it_however_many_may(
    requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    special = dict.fromkeys(requests, Failure("no"))
    with pytest.raises(AnyclassError, match="13 of 13"):
        answered(requests, context, IDENTITY, Oracle(special), log, max_failures=1.0)


def test_answered__an_unreadable_image_is_a_failure_and_not_asked(
    requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    context.dataset.path(12).unlink()
    oracle = Oracle()
    said = answered(requests, context, IDENTITY, oracle, log)
    assert said == [*texts(requests[:12]), None]
    assert sorted(oracle.asked) == requests[:12]
    assert "because 12.png cannot be read" in log.warnings[0]


def test_answered__silence_is_a_failure(
    requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    def forgets(missing: Mapping[CaptionRequest, str]) -> Generator[Outcome, None, None]:
        yield from ((request, "text") for request in list(missing)[1:])

    assert answered(requests, context, IDENTITY, forgets, log) == [None, *["text"] * 12]
    assert "because no answer was returned" in log.warnings[0]


def test_answered__what_came_before_an_error_is_kept(
    requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    def breaks(missing: Mapping[CaptionRequest, str]) -> Generator[Outcome, None, None]:
        yield from ((request, "text") for request in list(missing)[:5])
        raise AnyclassError("no right")

    with pytest.raises(AnyclassError, match="no right"):
        answered(requests, context, IDENTITY, breaks, log)
    oracle = Oracle()
    answered(requests, context, IDENTITY, oracle, log)
    assert sorted(oracle.asked) == requests[5:]


def questions(count: int) -> list[CaptionRequest]:
    return [CaptionRequest((i,), "What?", "object") for i in range(count)]


def test_side_by_side__at_most_so_many_at_once() -> None:
    barrier, most, lock, inside = threading.Barrier(3, timeout=10), 0, threading.Lock(), 0

    def answer(request: CaptionRequest) -> str:
        nonlocal most, inside
        with lock:
            inside += 1
            most = max(most, inside)
        barrier.wait()  # passes only when three are there
        with lock:
            inside -= 1
        return str(request.rows)

    outcomes = dict(side_by_side(answer, questions(12), 3))
    assert outcomes == {request: str(request.rows) for request in questions(12)}
    assert most == 3


def test_side_by_side__an_error_stops_new_ones_and_yields_those_under_way() -> None:
    started, others = [], threading.Event()

    def answer(request: CaptionRequest) -> str:
        started.append(request)
        if request.rows == (0,):
            others.set()
            raise AnyclassError("no right")
        others.wait(10)
        return "text"

    arrived = []
    with pytest.raises(AnyclassError, match="no right"):
        for request, outcome in side_by_side(answer, questions(50), 3):
            arrived.append((request.rows[0], outcome))
    assert len(started) <= 5
    assert len(arrived) == len(started)
    assert (1, "text") in arrived


def test_side_by_side__failures_in_a_row_end_it() -> None:
    started = []

    def answer(request: CaptionRequest) -> str | Failure:
        started.append(request)
        return Failure(f"reason {request.rows[0]}") if request.rows[0] >= 20 else "text"

    with pytest.raises(
        AnyclassError, match="12 consecutive questions .* because reason 31.*same command"
    ):
        list(side_by_side(answer, questions(500), 1))
    assert len(started) == 32


def test_side_by_side__a_success_in_between_goes_on() -> None:
    def answer(request: CaptionRequest) -> str | Failure:
        return "text" if request.rows[0] % asking.IN_A_ROW == 0 else Failure("no")

    assert len(list(side_by_side(answer, questions(100), 1))) == 100


def test_side_by_side__ctrl_c_keeps_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    pressed = []

    def interrupted(running: Any, **how: Any) -> Any:
        if not pressed:
            pressed.append(len(running))
            raise KeyboardInterrupt
        return wait(running, **how)

    monkeypatch.setattr(asking, "wait", interrupted)
    arrived = []
    with pytest.raises(KeyboardInterrupt):
        for outcome in side_by_side(lambda request: "text", questions(50), 3):
            arrived.append(outcome)
    assert pressed == [3]
    assert [request.rows for request, _ in arrived] != []
    assert len(arrived) == 3


def test_side_by_side__ctrl_c_twice_is_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **how: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(asking, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(side_by_side(lambda request: "text", questions(50), 3))
