"""Unsupervised correction of the class prior in zero-shot logits.

Each function returns a bias (C,) for logits (N, C), which can be applied to other images as well.

    sinkhorn      InMaP, Qian et al., NeurIPS 2023, arXiv 2310.19752; one round is DPA's marginal
                  correction with the mean over all images, Ali et al., arXiv 2408.03403
    fixed_point   Frolic, Zhu et al., NeurIPS 2024, arXiv 2410.19294
"""

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDS = 20
"""Rounds of Sinkhorn (InMaP: 20)."""

CORRECTIONS = 10
"""Corrections by the fixed point (Frolic: about 10)."""

POWER = 100
"""Most steps of the power iteration."""

LEAST = 0.1
"""Smallest prior as a share of 1 / C, which limits the bias of a class that is never predicted."""

TINY = 1e-12


def sinkhorn(
    logits: Float[Tensor, "N C"], gamma: float = 0.0, rounds: int = ROUNDS
) -> Float[Tensor, " C"]:
    """Bias for predicted class frequencies r_c, which are proportional to (sum_i q_ic) ** gamma.

    Args:
        logits: q = softmax(logits).
        gamma: interpolates the target between uniform (0) and the predicted frequencies (1, no
            change).
        rounds: rounds of scaling columns to r and rows to 1.
    """
    r = logits.softmax(1).mean(0) ** gamma
    r = r / r.sum()
    bias = torch.zeros_like(logits[0])
    for _ in range(rounds):
        bias = bias + (r / (logits + bias).softmax(1).mean(0).clamp_min(TINY)).log()
    return bias


def fixed_point(logits: Float[Tensor, "N C"], rounds: int = CORRECTIONS) -> Float[Tensor, " C"]:
    """Bias -ln pi, where pi are the class frequencies that the predictions reproduce.

    M[k', k] = mean softmax_k' of the confident images predicted k (top two differ by more than
    1 / C); pi = M pi by power iteration. Repeated `rounds` times.
    """
    classes = logits.shape[1]
    bias = torch.zeros_like(logits[0])
    for _ in range(rounds):
        pi = _stationary((logits + bias).softmax(1))
        pi = pi.clamp_min(LEAST / classes)
        step = -(pi / pi.sum() + TINY).log()
        bias = bias + step - step.mean()
        if (step - step.mean()).abs().max() < 1e-6:
            break
    return bias


def _stationary(q: Float[Tensor, "N C"]) -> Float[Tensor, " C"]:
    """pi = M pi, starting from the uniform pi, which is returned if no image is confident."""
    classes = q.shape[1]
    best = q.topk(2, dim=1).values
    confident = q[best[:, 0] - best[:, 1] > 1 / classes]
    label = torch.nn.functional.one_hot(confident.argmax(1), classes).to(q)
    m = torch.einsum("nk,nc->kc", confident, label) / label.sum(0).clamp_min(1)
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
