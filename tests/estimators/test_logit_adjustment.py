"""Corrections of class frequencies: identities of the specification, N = 60, C = 4."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from anyclass.estimators.logit_adjustment import fixed_point, sinkhorn


@pytest.fixture
def logits() -> Tensor:
    """Guesses that lean towards class 2."""
    noise = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    return 2 * noise + torch.tensor([0.0, -0.5, 2.0, 0.3])


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_sinkhorn__columns_reach_the_frequencies_and_rows_are_shares(
    logits: Tensor, gamma: float
) -> None:
    r = logits.softmax(1).mean(0) ** gamma
    errors = []
    for rounds in (0, 1, 20, 200):
        q = (logits + sinkhorn(logits, gamma, rounds)).softmax(1)
        errors.append(float((q.mean(0) - r / r.sum()).abs().max()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


def test_sinkhorn__is_the_plain_scaling_of_columns_and_rows(logits: Tensor) -> None:
    q = logits.softmax(1) / 60
    for _ in range(3):
        for c in range(4):
            q[:, c] *= 0.25 / q[:, c].sum()
        for i in range(60):
            q[i] /= q[i].sum() * 60
    found = (logits + sinkhorn(logits, 0.0, 3)).softmax(1)
    assert torch.allclose(found, 60 * q, atol=1e-6)


def test_sinkhorn__gamma_one_and_even_guesses_change_nothing(logits: Tensor) -> None:
    assert torch.allclose(sinkhorn(logits, 1.0), torch.zeros(4), atol=1e-5)
    even = torch.stack([logits[:15].roll(k, 1) for k in range(4)]).flatten(0, 1)
    assert torch.allclose(sinkhorn(even, 0.0, 1), torch.zeros(4), atol=1e-6)


def test_fixed_point__sure_predictions_of_every_class_stay(logits: Tensor) -> None:
    label = torch.arange(60) % 3 + (torch.arange(60) % 20 == 0)  # all four classes, unevenly
    sure = 50 * one_hot(label, 4).float()
    assert (sure + fixed_point(sure)).argmax(1).tolist() == label.tolist()


def test_fixed_point__takes_back_what_is_guessed_too_often(logits: Tensor) -> None:
    bias = fixed_point(logits)
    assert int(bias.argmin()) == 2
    assert torch.isfinite(bias).all()
    before, after = ((logits + b).argmax(1).bincount(minlength=4) for b in (0, bias))
    assert after.max() < before.max()


def test_fixed_point__nobody_sure_changes_nothing() -> None:
    assert torch.equal(fixed_point(torch.zeros(9, 4)), torch.zeros(4))


def test_fixed_point__a_class_that_nobody_predicts_is_not_lifted_without_end() -> None:
    logits = torch.zeros(30, 3)
    logits[:20, 0], logits[20:, 1], logits[:, 2] = 9.0, 9.0, -30.0
    assert (logits + fixed_point(logits)).argmax(1).bincount(minlength=3)[2] == 0
