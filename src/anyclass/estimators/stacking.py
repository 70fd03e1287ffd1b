"""Stacking: weights of experts by the log-loss of held-out labels.

    min_w   - sum_i v_i log softmax( sum_e w_e l_e(i) + sum_o b_o u_o )_{y_i}
            + sum_e (log w_e - log w0_e)^2 / 2 + sum_o b_o^2 / 2          w_e > 0

Letters: n held-out images with labels y, C classes, E experts with logits l_e (n, C), offsets b_o
of groups of classes u_o (n, C). The penalty counts as much as a few images, so that a handful of
labels leaves the weights near their priors w0.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax, nll_loss

STEPS = 60
"""Maximum number of iterations of L-BFGS."""
LARGEST = 12.0
"""Largest |log w|: a line search may try any, and large logits would overflow."""


GRID = np.geomspace(0.005, 2.0, 25)
"""Weights of a single expert to choose from."""


def best_weight(loss: Callable[[float], Tensor]) -> float:
    """The weight of a single expert in `GRID` with the smallest loss."""
    return float(GRID[int(np.argmin([float(loss(w)) for w in GRID]))])


def stack(
    logits: Sequence[Float[Tensor, "n C"]],
    labels: Int[Tensor, " n"],
    priors: Sequence[float],
    offsets: Sequence[Float[Tensor, "n C"]] = (),
    weights: Float[Tensor, " n"] | None = None,
) -> tuple[list[float], list[float]]:
    """Weights w of the experts and offsets b of groups of classes.

    Args:
        logits: of each expert for held-out images.
        labels: of these images.
        priors: w0 of each expert.
        offsets: indicators of groups of classes.
        weights: v, weight of each image; None: one.
    """
    start = torch.tensor([*priors]).log()
    theta = torch.cat([start, torch.zeros(len(offsets))]).requires_grad_()
    prior = theta.detach().clone()
    v = torch.ones(len(labels)) if weights is None else weights
    optimiser = torch.optim.LBFGS([theta], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        total = torch.zeros_like((*logits, *offsets)[0])
        for log_w, l_e in zip(theta, logits, strict=False):
            total = total + log_w.clamp(-LARGEST, LARGEST).exp() * l_e
        for b, u in zip(theta[len(logits) :], offsets, strict=True):
            total = total + b * u
        losses = nll_loss(log_softmax(total, dim=1), labels, reduction="none")
        value: Tensor = (v * losses).sum() + (theta - prior).square().sum() / 2
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    found = theta.detach()
    weights = found[: len(logits)].clamp(-LARGEST, LARGEST).exp()
    return weights.tolist(), found[len(logits) :].tolist()
