"""GET's equations: losses of the text embedding synthesizer, and the consistency of the branches.

Letters as in `get.py`: N views or images, D dimensions, c labelled classes of the batch.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from anyclass.methods.simgcd import NONE, label_loss

MIN_NORM = 3.0
"""Mean norm of z^ below which `text_length` auto rescales it: the bias of ln_t would dominate."""

Direction = Literal["both", "text_to_image", "image_to_text"]
"""Direction of L_CICO, from teacher to student."""

Length = Literal["auto", "raw", "image"]
"""Scaling of z^."""


def align(
    z: Float[Tensor, "N D"], z_hat: Float[Tensor, "N D"], scale: float, ignore: bool = False
) -> Float[Tensor, ""]:
    """L_align: symmetric contrastive loss between views and their texts, summed.

    With `ignore`, the other view of the same image (row i + N / 2) is not a negative.
    """
    s = scale * normalize(z, dim=-1) @ normalize(z_hat, dim=-1).T
    own = torch.arange(len(z), device=z.device)
    if ignore:
        s = s.index_put((own, own.roll(len(z) // 2)), s.new_tensor(float("-inf")))
    return cross_entropy(s, own) + cross_entropy(s.T, own)


def name_loss(
    z_hat: Float[Tensor, "N D"],
    anchors: Float[Tensor, "C D"],
    labels: Int[Tensor, " N"],
    tau: float = 1.0,
) -> Float[Tensor, ""]:
    """L_distill, first part: cross-entropy with the class prompts; 0 without labels."""
    logits = normalize(z_hat, dim=-1) @ anchors.T / tau
    return label_loss(logits.log_softmax(dim=1), labels)


def distance_loss(
    z_hat: Float[Tensor, "N D"], anchors: Float[Tensor, "C D"], labels: Int[Tensor, " N"]
) -> Float[Tensor, ""]:
    """L_distill, second part: squared distance of unit vectors; 0 without labels."""
    z_hat = normalize(z_hat[labels != NONE], dim=-1)
    labels = labels[labels != NONE]
    return (z_hat - anchors[labels]).square().sum() / max(1, len(labels))


def text_scale(z: Float[Tensor, "n D"], z_hat: Float[Tensor, "n D"], length: Length) -> float:
    """Factor on z^ before ln_t: 1, or the ratio of the mean norms of z and z^."""
    text_norm = float(z_hat.norm(dim=1).mean())
    image_norm = float(z.norm(dim=1).mean())
    long_enough = text_norm >= min(MIN_NORM, image_norm)
    if length == "raw" or text_norm == 0 or (length == "auto" and long_enough):
        return 1.0
    return image_norm / text_norm


def anchor_log_probs(
    f: Float[Tensor, "N F"], labels: Int[Tensor, " N"], temperature: float
) -> Float[Tensor, "N c"]:
    """log s of all views, over the c classes with a labelled view in the batch."""
    present, place = labels[labels != NONE].unique(return_inverse=True)
    labelled = f.detach()[labels != NONE]
    total = f.new_zeros(len(present), f.shape[1]).index_add(0, place, labelled)
    a = normalize(total, dim=-1)  # a_c
    return (normalize(f, dim=-1) @ a.T / temperature).log_softmax(dim=1)


def consistency(
    log_v: Float[Tensor, "N c"], log_t: Float[Tensor, "N c"], direction: Direction = "both"
) -> Float[Tensor, ""]:
    """L_CICO: mutual distillation of s between the branches; 0 for fewer than two anchors."""
    image_loss = -torch.einsum("nc,nc->n", log_t.detach().exp(), log_v)
    text_loss = -torch.einsum("nc,nc->n", log_v.detach().exp(), log_t)
    one_way = {"text_to_image": [image_loss], "image_to_text": [text_loss]}
    return torch.stack(one_way.get(direction, [image_loss, text_loss])).sum(0).mean()


@torch.no_grad()
def divergence(log_v: Float[Tensor, "N c"], log_t: Float[Tensor, "N c"]) -> Float[Tensor, ""]:
    """KL(s^t || s^v) + KL(s^v || s^t): L_CICO minus the entropies of s^t and s^v."""
    return torch.einsum("nc,nc->n", log_t.exp() - log_v.exp(), log_t - log_v).mean()
