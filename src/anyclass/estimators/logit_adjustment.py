"""How often classes occur: what zero-shot logits over-guess is taken back, without a label.

Each function returns a bias (C,) to be added to logits (N, C), so that what was found on one set of
images serves for others.

    sinkhorn      InMaP, Qian et al., NeurIPS 2023, arXiv 2310.19752; one round is DPA's marginal
                  correction with the mean over all images, Ali et al., arXiv 2408.03403
    fixed_point   Frolic, Zhu et al., NeurIPS 2024, arXiv 2410.19294
"""

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDS = 20
"""Of Sinkhorn (InMaP: 20)."""

GUESSED = 10
"""Corrections by the fixed point (Frolic: about 10)."""

POWER = 100
"""Most steps of the power iteration."""

LEAST = 0.1
"""Smallest prior, in shares of 1 / C: a class that nobody predicts is not lifted without end."""

TINY = 1e-12


def sinkhorn(
    logits: Float[Tensor, "N C"], gamma: float = 0.0, rounds: int = ROUNDS
) -> Float[Tensor, " C"]:
    """Bias after which classes are as frequent as r_c, in proportion to (sum_i q_ic) ** gamma.

    Args:
        logits: q = softmax(logits).
        gamma: 0: all alike; 1: as frequent as they are guessed to be, which changes nothing.
        rounds: of scaling columns to r and rows to 1.
    """
    r = logits.softmax(1).mean(0) ** gamma
    r, bias = r / r.sum(), torch.zeros_like(logits[0])
    for _ in range(rounds):
        bias = bias + (r / (logits + bias).softmax(1).mean(0).clamp_min(TINY)).log()
    return bias


def fixed_point(logits: Float[Tensor, "N C"], rounds: int = GUESSED) -> Float[Tensor, " C"]:
    """Bias -ln pi, pi the class frequencies that predictions reproduce, again and again.

    M[k', k] = mean softmax_k' of the sure images predicted k (top two further apart than 1 / C);
    pi = M pi by power iteration.
    """
    classes, bias = logits.shape[1], torch.zeros_like(logits[0])
    for _ in range(rounds):
        pi = _stationary((logits + bias).softmax(1))
        pi = pi.clamp_min(LEAST / classes)
        step = -(pi / pi.sum() + TINY).log()
        bias = bias + step - step.mean()
        if (step - step.mean()).abs().max() < 1e-6:
            break
    return bias


def _stationary(q: Float[Tensor, "N C"]) -> Float[Tensor, " C"]:
    """Pi = M pi from the uniform; uniform where no image is sure."""
    classes = q.shape[1]
    best = q.topk(2, dim=1).values
    sure = q[best[:, 0] - best[:, 1] > 1 / classes]
    label = torch.nn.functional.one_hot(sure.argmax(1), classes).to(q)
    m = torch.einsum("nk,nc->kc", sure, label) / label.sum(0).clamp_min(1)
    pi = torch.full_like(q[0], 1 / classes)
    for _ in range(POWER):
        following = (m @ pi).clamp_min(0)
        if following.sum() <= 0:
            return pi
        following = following / following.sum()
        if (following - pi).abs().max() < 1e-7:
            return following
        pi = following
    return pi
