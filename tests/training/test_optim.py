"""Learning rates by hand: LatteCLIP's, CoOp's, GET's."""

from math import cos, pi

import pytest
import torch
from torch import nn

from anyclass.training.loop import _set_rate
from anyclass.training.optim import AdamW, LearningRate, Sgd


def test_rate__warms_up_then_follows_a_cosine_to_zero() -> None:
    rate, steps = LearningRate(1e-6, warm_up=37), 1850  # EuroSAT: 18,900 images, 512 at once
    rates = [rate.at(step, steps) for step in range(steps)]
    assert rates[:3] == pytest.approx([1e-6 / 37, 2e-6 / 37, 3e-6 / 37])
    assert rates[36] == rates[37] == max(rates) == pytest.approx(1e-6)
    for step in (100, 944, 1500):
        assert rates[step] == pytest.approx(0.5e-6 * (1 + cos(pi * (step - 37) / (1850 - 37))))
    assert rates[943] > 0.5e-6 > rates[944]  # half of it in the middle of 37 ... 1850
    assert 0 < rates[-1] < 1e-6 * 1e-5
    assert rate.at(steps, steps) == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize(
    ("warm_up", "steps", "wanted"),
    [
        (0, 4, [1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
        (2, 2, [0.5, 1]),
        (5, 2, [0.2, 0.4]),  # stopped before it is warm
        (1, 1, [1]),
    ],
)
def test_rate__of_few_steps(warm_up: int, steps: int, wanted: list[float]) -> None:
    rate = LearningRate(1.0, warm_up)
    assert [rate.at(step, steps) for step in range(steps)] == pytest.approx(wanted)


def test_rate__without_a_cosine_stays() -> None:
    assert {LearningRate(0.3, min_lr=None).at(step, 9) for step in range(9)} == {0.3}


def test_rate__of_epochs_is_that_of_get() -> None:
    rate = LearningRate(0.1, min_lr=1e-4, epoch=46)  # CUB: 46 steps an epoch, 200 epochs
    found = [rate.at(46 * epoch + 45, 46 * 200) for epoch in (0, 100, 199)]
    assert found == pytest.approx([0.1, 0.05005, 1.0616e-4], rel=1e-4)
    assert len({rate.at(step, 46 * 200) for step in range(46 * 7)}) == 7


def test_rate__of_the_first_epoch_is_that_of_coop() -> None:
    rate = LearningRate(2e-3, epoch=5, first=1e-5)
    rates = [rate.at(step, 20) for step in range(20)]
    wanted = [1e-5, *(1e-3 * (1 + cos(pi * epoch / 4)) for epoch in (1, 2, 3))]
    assert rates == pytest.approx([each for each in wanted for _ in range(5)])


@pytest.mark.parametrize("kind", [AdamW, Sgd])
def test_optimiser__decays_matrices_only_if_told(kind: type[AdamW | Sgd]) -> None:
    given = {"matrix": nn.Parameter(torch.zeros(2, 3)), "bias": nn.Parameter(torch.zeros(4))}
    (everything,) = kind(LearningRate(0.1), weight_decay=0.5).optimiser(given).param_groups
    assert (everything["weight_decay"], len(everything["params"])) == (0.5, 2)
    some = kind(LearningRate(0.1), weight_decay=0.5, decay="matrices").optimiser(given).param_groups
    assert [(g["weight_decay"], g["params"][0].ndim) for g in some] == [(0.5, 2), (0.0, 1)]


def test_sgd__gives_parts_of_a_model_a_share_of_the_rate() -> None:
    names = ("visual.block.weight", "head.weight", "visual.block.bias")
    given = {name: nn.Parameter(torch.ones(2, *[3] * (name != names[2]))) for name in names}
    sgd = Sgd(LearningRate(0.1), 0.0, weight_decay=0.5, decay="matrices", shares={"visual.": 0.01})
    optimiser = sgd.optimiser(given)
    _set_rate(optimiser, 0.04)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimiser.param_groups
        for p in group["params"]
    }
    wanted = {names[0]: (4e-4, 0.5), names[1]: (0.04, 0.5), names[2]: (4e-4, 0.0)}
    assert {n: found[id(p)] for n, p in given.items()} == {
        n: pytest.approx(row) for n, row in wanted.items()
    }
