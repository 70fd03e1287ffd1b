"""Losses that several methods share: pure functions of tensors.

Letters: B samples, C classes, D dimensions, tau the temperature (`scale` = 1 / tau).
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

Collisions = Literal["ignore", "multi_positive", "mask"]
"""Samples of the same class in a batch are negatives, positives, or ignored."""


def contrastive(
    images: Float[Tensor, "B D"],
    texts: Float[Tensor, "B D"],
    scale: Float[Tensor, ""],
    labels: Int[Tensor, " B"] | None = None,
    collisions: Collisions = "ignore",
) -> Float[Tensor, ""]:
    """CLIP's symmetric contrastive loss; text i belongs to image i.

    l_ij = images_i . texts_j / tau;  loss = ( mean_i -log softmax_j(l_ij)_i + mean_i -log
    softmax_j(l_ji)_i ) / 2

    Args:
        images: unit features.
        texts: features of (nearly) unit length.
        scale: 1 / tau.
        labels: class of each sample; needed unless `collisions` is "ignore".
        collisions: "multi_positive" distributes the target evenly over the samples of the class,
            "mask" removes the other samples of the class from the denominator.
    """
    logits = scale * images @ texts.T
    target: Tensor = torch.arange(len(images), device=images.device)
    if labels is not None and collisions != "ignore":
        same: Bool[Tensor, "B B"] = labels[:, None] == labels[None, :]
        if collisions == "multi_positive":
            target = same.to(logits.dtype) / same.sum(1, keepdim=True)
        else:
            others = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
            logits = logits.masked_fill(others, float("-inf"))
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def unsupervised_contrast(h: Float[Tensor, "N E"], tau: float = 1.0) -> Float[Tensor, ""]:
    """Contrastive loss of N = 2 B unit view features; views i and i + B are of the same image.

    mean_i -log exp(h_i . h_i' / tau) / sum_j!=i exp(h_i . h_j / tau),  i' the other view of i
    """
    logits = (h @ h.T / tau).fill_diagonal_(float("-inf"))
    other = torch.arange(len(h), device=h.device).roll(len(h) // 2)
    return cross_entropy(logits, other)


def supervised_contrast(
    h: Float[Tensor, "N E"], labels: Int[Tensor, " N"], tau: float = 0.07
) -> Float[Tensor, ""]:
    """Supervised contrastive loss of the labelled unit features (label >= 0); 0 if there are none.

    mean_i mean_p -log exp(h_i . h_p / tau) / sum_j!=i exp(h_i . h_j / tau),  p of the class of i
    """
    h = h[labels >= 0]
    labels = labels[labels >= 0]
    if len(h) == 0:
        return h.sum()
    itself = torch.eye(len(h), dtype=torch.bool, device=h.device)
    log_p = (h @ h.T / tau).masked_fill(itself, float("-inf")).log_softmax(dim=1)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    total = torch.where(positive, log_p, 0.0).sum(1)
    return -(total / positive.sum(1).clamp_min(1)).mean()
