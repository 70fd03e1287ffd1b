"""What methods share that discover classes: refusals, first weights, figures of an epoch.

N = 6 views, K = 4.
"""

from contextlib import nullcontext
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError, TrainingError
from anyclass.methods.gcd_common import (
    CollapseMonitor,
    MlpShape,
    labelled_classes,
    perceptron,
    seeded,
)
from anyclass.training.batches import Batch


def dataset(labels: list[int], names: int = 3, unknown: int = 1) -> ImageDataset:
    files = tuple(f"{i}.png" for i in range(len(labels)))
    classes = Classes.of([f"class {c}" for c in range(names)], unknown=unknown)
    return ImageDataset(Path("/"), files, np.array(labels), classes)


def test_labelled_classes__are_those_that_a_image_carries() -> None:
    assert labelled_classes(dataset([2, -1, 0, 0, -1])) == [0, 2]
    assert labelled_classes(dataset([0, 1, 2], unknown=0)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (dataset([-1, -1, -1, -1]), "no image has a label.* kmeans"),
        (dataset([0, -1], names=1, unknown=0), "one class in all.* --unknown 1 or more"),
        (dataset([0, -1, -1]), "4 classes cannot be found in 3 images;"),
        (dataset([0, 1, 2, 0, 1]), "every image has a label"),
    ],
)
def test_labelled_classes__refuses(given: ImageDataset, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        labelled_classes(given)


def test_seeded__hangs_on_its_key_alone() -> None:
    torch.manual_seed(5)
    first = seeded(lambda: nn.Linear(3, 2), 1, 7).weight
    after = torch.rand(2)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(2))
    torch.rand(9)
    assert torch.equal(first, seeded(lambda: nn.Linear(3, 2), 1, 7).weight)
    assert not torch.equal(first, seeded(lambda: nn.Linear(3, 2), 1, 8).weight)


def test_perceptron__begins_as_the_official_codes() -> None:
    mlp = seeded(lambda: perceptron(40, MlpShape(300, 20)), 0)
    layers = [layer for layer in mlp if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(300, 40), (300, 300), (20, 300)]
    assert not any(layer.bias.any() for layer in layers)
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    x = torch.randn(2, 40)
    gelu = nn.functional.gelu
    wanted = gelu(gelu(x @ layers[0].weight.T) @ layers[1].weight.T) @ layers[2].weight.T
    assert torch.allclose(mlp(x), wanted, atol=1e-6)


def batch(step: int, starts: bool) -> Batch:
    return Batch(step, starts, torch.zeros(6, dtype=torch.long), torch.zeros(6, 1), ())


def test_usage__tells_how_classes_are_used() -> None:
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
    assert monitor.facts() == {}


@pytest.mark.parametrize("sure", [0.97, 0.4])
def test_usage__stops_where_one_class_takes_all_for_three_epochs(sure: float) -> None:
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
def test_usage__stops_only_from_a_step_on(stop_from: int | None, last: int | None) -> None:
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


def test_usage__of_uneven_classes_is_no_error() -> None:
    monitor = CollapseMonitor(4, [1])
    p = torch.eye(4)[torch.tensor([0] * 14 + [1] * 4 + [2] * 2)]  # 70, 20 and 10 of a hundred
    for epoch in range(6):
        monitor.begin(batch(epoch, True), lambda **_: None, "simgcd")
        monitor.add(p)


@pytest.mark.parametrize(("classes", "stops"), [(2, True), (3, False)])
def test_usage__stops_where_half_of_the_known_classes_are_lost(classes: int, stops: bool) -> None:
    """Five known of eight: two in use are too few, for all that no single one takes all."""
    monitor, p = CollapseMonitor(8, range(5)), torch.full((40, 8), 0.1)
    p[torch.arange(40), torch.arange(40) % classes] = 0.3
    for epoch in range(3):
        monitor.begin(batch(epoch, True), lambda **_: None, "simgcd")
        monitor.add(p)
    with pytest.raises(TrainingError, match="2 of 8") if stops else nullcontext():
        monitor.begin(batch(3, True), lambda **_: None, "simgcd")
