"""Discovery expert: N = 66 images (`conftest.py`), H = 13 features, K = 4 classes, F = 3 folds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from anyclass.estimators.discovery_expert import discovery_expert
from anyclass.estimators.gaussian_expert import Anchors, Statistics, gaussian_expert
from anyclass.estimators.rows import Rows
from anyclass.estimators.stacking import GRID


@pytest.mark.parametrize("labelled", [False, True])
def test_discovery_expert__has_the_scale_of_least_held_out_loss(
    toy: Callable[..., Any], labelled: bool
) -> None:
    rows = Rows.checked(toy(noise=1.5).x, toy(noise=1.5).extra).centred()
    found = torch.tensor(toy().truth)
    fold = torch.arange(66) % 3
    labels = torch.tensor(toy().labels(0, 2)) if labelled else torch.full((66,), -1)
    expert = discovery_expert(rows, found, labels, fold, 4, 0.3)
    h = rows.at(slice(0, 66))[1]
    level = float(h.double().square().mean())
    nothing = Anchors(torch.zeros(4, 13), torch.zeros(4, dtype=torch.bool), 0.0, level)

    def fitted(chosen: torch.Tensor) -> Any:
        z = torch.eye(4)[found[chosen]]
        return gaussian_expert(Statistics.of(h[chosen], z), nothing, 0.3)

    without = [fitted(fold != f) for f in range(3)]
    losses = []
    for v in GRID:
        loss = []
        for i in range(66):
            if not labelled or labels[i] >= 0:
                g = without[int(fold[i])].logits(h[i : i + 1])[0]
                loss.append(-float((v * g).log_softmax(0)[found[i]]))
        losses.append(np.mean(loss))
    best = GRID[int(np.argmin(losses))]
    whole = fitted(torch.ones(66, dtype=torch.bool))
    assert torch.allclose(expert.logits(h), float(best) * whole.logits(h), rtol=1e-3, atol=1e-3)


def test_discovery_expert__finds_the_classes_again(toy: Callable[..., Any]) -> None:
    rows = Rows.checked(toy().x, None).centred()
    found = torch.tensor(toy().truth)
    fold = torch.arange(66) % 3
    expert = discovery_expert(rows, found, torch.full((66,), -1), fold, 4, 0.3)
    guess = expert.logits(rows.at(slice(0, 66))[1]).argmax(1)
    assert float((guess == found).float().mean()) > 0.95


def test_discovery_expert__a_class_without_images_is_finite(toy: Callable[..., Any]) -> None:
    rows = Rows.checked(toy().x, None).centred()
    found = torch.tensor(toy().truth)
    fold = torch.arange(66) % 3
    expert = discovery_expert(rows, found, torch.full((66,), -1), fold, 6, 0.3)
    p = expert.logits(rows.at(slice(0, 66))[1]).softmax(1)
    assert torch.isfinite(p).all()
    assert p.argmax(1).max() < 4
