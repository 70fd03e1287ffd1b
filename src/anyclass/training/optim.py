"""Optimisers and learning-rate schedules."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import cos, pi
from typing import Any, Literal

import torch
from torch import nn

Decayed = Literal["matrices", "all"]
"""Weight decay for matrices only (not for biases, norms and the logit scale) | for everything."""


@dataclass(frozen=True)
class LearningRate:
    """Learning rate with linear warm-up and cosine decay."""

    peak_lr: float
    """Learning rate at the start of the cosine."""
    warm_up: int = 0
    """Steps of linear warm-up."""
    min_lr: float | None = 0.0
    """Learning rate at the end of the cosine; None: constant rate after the warm-up."""
    epoch: int = 1
    """Steps between two changes."""
    first: float | None = None
    """Constant rate of the first epoch instead of the cosine; None: no exception."""

    def at(self, step: int, steps: int) -> float:
        """Learning rate of `step` (from 0) out of `steps`."""
        if step < self.warm_up:
            return self.peak_lr * (step + 1) / self.warm_up
        if self.first is not None and step < self.epoch:
            return self.first
        if self.min_lr is None:
            return self.peak_lr
        done = step - step % self.epoch - self.warm_up
        fall = (1 + cos(pi * done / max(1, steps - self.warm_up))) / 2
        return self.min_lr + (self.peak_lr - self.min_lr) * fall


@dataclass(frozen=True)
class AdamW:
    """AdamW; the defaults are torch's."""

    rate: LearningRate
    """Learning-rate schedule."""
    weight_decay: float = 0.01
    """Weight decay, relative to the learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the running averages of the gradient and of its square."""
    eps: float = 1e-8
    """Added to the denominator."""
    decay: Decayed = "all"
    """Parameters with weight decay."""

    def optimiser(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """Create torch's optimiser for these parameters."""
        groups = _groups(parameters, self.decay)
        return torch.optim.AdamW(
            groups,
            lr=self.rate.peak_lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum."""

    rate: LearningRate
    """Learning-rate schedule."""
    momentum: float = 0.9
    """Momentum."""
    weight_decay: float = 0.0
    """Weight decay, relative to the learning rate."""
    decay: Decayed = "all"
    """Parameters with weight decay."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Prefix of parameter names -> factor on their learning rate (1 for all others)."""

    def optimiser(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """Create torch's optimiser for these parameters."""
        rest = dict(parameters)
        groups = []
        for start, share in self.shares.items():
            some = {name: rest.pop(name) for name in parameters if name.startswith(start)}
            groups += [group | {"share": share} for group in _groups(some, self.decay)]
        groups += _groups(rest, self.decay)
        return torch.optim.SGD(
            groups, self.rate.peak_lr, self.momentum, weight_decay=self.weight_decay
        )


Schedule = AdamW | Sgd
"""An optimiser with its learning-rate schedule."""


def _groups(parameters: Mapping[str, nn.Parameter], decay: Decayed) -> list[dict[str, Any]]:
    if decay == "all":
        return [{"params": list(parameters.values())}] if parameters else []
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    flat = [p for p in parameters.values() if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": flat, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
