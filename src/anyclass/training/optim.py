"""How parameters step: the optimiser, and its learning rate over the steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import cos, pi
from typing import Any, Literal

import torch
from torch import nn

Decayed = Literal["matrices", "all"]
"""What weight decay pulls at: not biases, norms and the logit scale | everything."""


@dataclass(frozen=True)
class LearningRate:
    """Learning rate of each step: a line up, then half a cosine down."""

    peak_lr: float
    """Learning rate at the top of the cosine."""
    warm_up: int = 0
    """Steps of linear growth before it."""
    min_lr: float | None = 0.0
    """Where the cosine ends; None: there is none, the rate stays at its highest."""
    epoch: int = 1
    """Steps between two changes."""
    first: float | None = None
    """Rate of the whole first epoch, instead of what the cosine says; None: no exception."""

    def at(self, step: int, steps: int) -> float:
        """Learning rate of `step` (0-based) of `steps`."""
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
    """AdamW; its defaults are torch's."""

    rate: LearningRate
    """Learning rate over the steps."""
    weight_decay: float = 0.01
    """Pull to zero, in learning rates."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Momentum of gradient and of its square."""
    eps: float = 1e-8
    """Floor of the square's root."""
    decay: Decayed = "all"
    """What weight decay pulls at."""

    def optimiser(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """Torch's optimiser of these parameters."""
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
    """Stochastic gradient descent."""

    rate: LearningRate
    """Learning rate over the steps."""
    momentum: float = 0.9
    """Share of the last step in the next."""
    weight_decay: float = 0.0
    """Pull to zero, in learning rates."""
    decay: Decayed = "all"
    """What weight decay pulls at."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Part of the learning rate that parameters get whose name begins so; the others all of it."""

    def optimiser(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """Torch's optimiser of these parameters."""
        rest, groups = dict(parameters), []
        for start, share in self.shares.items():
            some = {name: rest.pop(name) for name in parameters if name.startswith(start)}
            groups += [group | {"share": share} for group in _groups(some, self.decay)]
        groups, rate = groups + _groups(rest, self.decay), self.rate.peak_lr
        return torch.optim.SGD(groups, rate, self.momentum, weight_decay=self.weight_decay)


Schedule = AdamW | Sgd
"""An optimiser with its learning rates."""


def _groups(parameters: Mapping[str, nn.Parameter], decay: Decayed) -> list[dict[str, Any]]:
    if decay == "all":
        return [{"params": list(parameters.values())}] if parameters else []
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    flat = [p for p in parameters.values() if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": flat, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
