"""SHIP's equations: code of an image, both terms of the loss, variance within classes.

Letters as in `ship_vae.py`: S batch, B labelled classes, K views, D dimensions, Z those of a code.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def code(
    mu: Float[Tensor, "S Z"], lambda_: Float[Tensor, "S Z"], eps: Float[Tensor, "S Z"]
) -> Float[Tensor, "S Z"]:
    """z = mu + exp(lambda / 2) eps, a sample of N(mu, e^lambda)."""
    return mu + (lambda_ / 2).exp() * eps


def squared_distance(x: Float[Tensor, "S D"], x_hat: Float[Tensor, "S D"]) -> Float[Tensor, " S"]:
    """|x - x^|^2 summed over dimensions; for unit vectors, 2 - 2 cos(x, x^)."""
    return (x - x_hat).pow(2).sum(1)


def kl_to_normal(mu: Float[Tensor, "S Z"], lambda_: Float[Tensor, "S Z"]) -> Float[Tensor, " S"]:
    """KL( N(mu, e^lambda) || N(0, I) ) = -1/2 sum_j (1 + lambda_j - mu_j^2 - e^lambda_j)."""
    return -0.5 * (1 + lambda_ - mu.pow(2) - lambda_.exp()).sum(dim=1)


def class_means_and_variance(
    x: Float[Tensor, "m K D"], c: Int[Tensor, " m"]
) -> tuple[Float[Tensor, "B D"], float]:
    """Mean feature of each class in c, and the variance within classes, E|x - mean|^2.

    The variance is the mean over views of the unbiased estimate; 0 if no class has two rows.
    """
    place = c.unique(return_inverse=True)[1].to(x.device)
    count = place.bincount()
    sums = x.new_zeros(len(count), *x.shape[1:]).index_add(0, place, x)
    means = torch.einsum("bkd,b->bkd", sums, 1 / count)
    deviation = (x - means[place]).pow(2).sum() / x.shape[1]
    return means.mean(1), float(deviation) / max(1, len(x) - len(count))


def normal_like(like: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal values in the shape of `like`."""
    return torch.randn(like.shape, generator=rng).to(like)
