"""Stacking of E = 2 experts over C = 4 classes."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from anyclass.estimators.stacking import stack


def given(n: int, truth: tuple[float, float], seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Logits of two experts, and labels drawn from softmax of their weighted sum."""
    draw = torch.Generator().manual_seed(seed)
    logits = [scale * torch.randn(n, 4, generator=draw) for scale in (1.0, 5.0)]
    total = truth[0] * logits[0] + truth[1] * logits[1]
    return logits, torch.multinomial(total.softmax(1), 1, generator=draw)[:, 0]


def test_stack__recovers_the_weights_of_many_images() -> None:
    logits, labels = given(20_000, (2.0, 0.3))
    weights, offsets = stack(logits, labels, [1.0, 0.02])
    assert weights == pytest.approx([2.0, 0.3], rel=0.05)
    assert offsets == []


def test_stack__recovers_the_offset_of_a_group() -> None:
    logits, _ = given(20_000, (2.0, 0.3))
    group = torch.tensor([1.0, 0.0, 0.0, 1.0]).expand(20_000, -1)
    total = 2 * logits[0] + 0.3 * logits[1] - 0.7 * group
    draw = torch.Generator().manual_seed(1)
    labels = torch.multinomial(total.softmax(1), 1, generator=draw)[:, 0]
    weights, offsets = stack(logits, labels, [1.0, 0.02], [group])
    assert weights == pytest.approx([2.0, 0.3], rel=0.05)
    assert offsets == pytest.approx([-0.7], abs=0.05)


def test_stack__one_image_leaves_the_weights_near_their_priors() -> None:
    logits, labels = given(1, (1.0, 0.02))
    weights, _ = stack(logits, labels, [1.0, 0.02])
    assert weights == pytest.approx([1.0, 0.02], rel=0.5)


def slow_loss(
    theta: np.ndarray, parts: list[Tensor], n_weights: int, labels: Tensor, v: Tensor
) -> float:
    """The objective, image by image; the prior of both weights is 1 and 0.1."""
    factors = [*np.exp(theta[:n_weights]), *theta[n_weights:]]
    loss = 0.0
    for i, label in enumerate(labels.tolist()):
        rows = [part[i].double().numpy() for part in parts]
        total = sum(factor * row for factor, row in zip(factors, rows, strict=True))
        loss -= float(v[i]) * (total[label] - np.log(np.exp(total).sum()))
    prior = np.array([0.0, np.log(0.1), 0.0])
    return loss + float(np.square(theta - prior).sum()) / 2


def test_stack__is_the_minimum_that_scipy_finds() -> None:
    logits, labels = given(17, (1.5, 0.5), seed=3)
    group = torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(17, -1)
    v = torch.linspace(0.2, 3, 17)
    weights, offsets = stack(logits, labels, [1.0, 0.1], [group], v)
    arguments = ([*logits, group], 2, labels, v)
    found = minimize(slow_loss, np.array([0.0, np.log(0.1), 0.0]), arguments, tol=1e-8)
    assert weights == pytest.approx(np.exp(found.x[:2]), rel=1e-3)
    assert offsets == pytest.approx(found.x[2:], abs=1e-3)


def test_stack__works_without_gradients_and_leaves_the_logits_alone() -> None:
    logits, labels = given(6, (1.0, 1.0))
    before = [part.clone() for part in logits]
    with torch.no_grad():
        first = stack(logits, labels, [1.0, 0.1])
    assert first == stack(logits, labels, [1.0, 0.1])
    for part, old in zip(logits, before, strict=True):
        assert torch.equal(part, old)
        assert not part.requires_grad
