"""Metrics of an epoch, and which predictions count as a collapse.

N = 6 views, K = 4.
"""

from contextlib import nullcontext
from math import log
from typing import Any

import pytest
import torch

from anyclass.errors import TrainingError
from anyclass.methods.collapse_monitor import CollapseMonitor
from anyclass.training.batches import Batch


def batch(step: int, starts: bool) -> Batch:
    return Batch(step, starts, torch.zeros(6, dtype=torch.long), torch.zeros(6, 1), ())


def test_collapse_monitor__tells_how_classes_are_used() -> None:
    monitor, rows = CollapseMonitor(4, [1, 2], ["agreement"]), []

    def say(**row: Any) -> None:
        rows.append(row)

    monitor.begin(batch(0, True), say, "get")
    p = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.2, 0.6, 0.1]])
    monitor.add(p, torch.tensor(0.5))
    monitor.begin(batch(1, False), say, "get")
    monitor.add(torch.full((2, 4), 0.25), torch.tensor(1.0))
    assert rows == []
    monitor.begin(batch(2, True), say, "get")
    mean = p.mean(0)
    entropy = (-(mean * mean.log()).sum().item() + log(4)) / 2
    wanted = {"entropy": entropy, "confidence": (2 / 3 + 0.25) / 2, "new": (1 / 3 + 1) / 2}
    wanted |= {"agreement": 0.75, "used": 3}
    assert rows == [{"stage": "get", "step": 2} | {k: pytest.approx(v) for k, v in wanted.items()}]
    assert monitor.metrics() == {}


@pytest.mark.parametrize("sure", [0.97, 0.4])
def test_collapse_monitor__stops_where_one_class_takes_all_for_three_epochs(sure: float) -> None:
    """By confidence, or by predictions alone; an epoch of use in between begins anew."""
    monitor = CollapseMonitor(4, [1])
    one = torch.tensor([[sure, *[(1 - sure) / 3] * 3]] * 6)
    spread = torch.cat([torch.eye(4), torch.eye(4)[:2]])
    for epoch, p in enumerate([one, one, spread, one, one, one]):
        monitor.begin(batch(epoch, True), lambda **_: None, "simgcd")
        monitor.add(p)
    with pytest.raises(
        TrainingError,
        match="by step 6 nearly all .* 1 of 4 .* try a tenth of --lr, or",
    ):
        monitor.begin(batch(6, True), lambda **_: None, "simgcd")


@pytest.mark.parametrize(("stop_from", "last"), [(0, 3), (5, 5), (None, None)])
def test_collapse_monitor__stops_only_from_a_step_on(
    stop_from: int | None, last: int | None
) -> None:
    monitor = CollapseMonitor(4, [1], stop_from=stop_from)
    one = torch.tensor([[0.97, 0.01, 0.01, 0.01]] * 6)
    stopped = None
    for epoch in range(8):
        try:
            monitor.begin(batch(epoch, True), lambda **_: None, "simgcd")
        except TrainingError:
            stopped = epoch
            break
        monitor.add(one)
    assert stopped == last


def test_collapse_monitor__of_uneven_classes_is_no_error() -> None:
    monitor = CollapseMonitor(4, [1])
    p = torch.eye(4)[torch.tensor([0] * 14 + [1] * 4 + [2] * 2)]  # 70, 20 and 10 of a hundred
    for epoch in range(6):
        monitor.begin(batch(epoch, True), lambda **_: None, "simgcd")
        monitor.add(p)


@pytest.mark.parametrize(("classes", "stops"), [(2, True), (3, False)])
def test_collapse_monitor__stops_where_half_of_the_known_classes_are_lost(
    classes: int, stops: bool
) -> None:
    """Five known of eight: two in use are too few, for all that no single one takes all."""
    monitor, p = CollapseMonitor(8, range(5)), torch.full((40, 8), 0.1)
    p[torch.arange(40), torch.arange(40) % classes] = 0.3
    for epoch in range(3):
        monitor.begin(batch(epoch, True), lambda **_: None, "simgcd")
        monitor.add(p)
    with pytest.raises(TrainingError, match="2 of 8") if stops else nullcontext():
        monitor.begin(batch(3, True), lambda **_: None, "simgcd")
