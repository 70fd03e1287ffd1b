"""LatteCLIP's equations: weights of texts, their mixture, and the prototypes.

Letters as in `latteclip.py`: C classes, D dimensions, B batch, K kinds of text; 2 branches.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def nearest_prototype(f: Float[Tensor, "n D"], p: Float[Tensor, "C D"]) -> Int[Tensor, " n"]:
    """argmax_c f . p_c, on the CPU."""
    return (f.to(p.device) @ p.T).argmax(1).cpu()


def margin_weights(
    v: Float[Tensor, "2 K B D"],
    p: Float[Tensor, "C D"],
    c: Int[Tensor, "2 B"],
    present: Bool[Tensor, "2 K B"],
    margin: Literal["unsigned", "signed", "equal"] = "unsigned",
    floor: float = 1e-6,
) -> Float[Tensor, "2 K B"]:
    """Weights of texts, w = top1(s) - top2(s) of s_c = v . p_c, without a gradient.

    Args:
        v: unit text features: branch, kind of text, sample.
        p: unit prototypes.
        c: assigned class of each sample in each branch.
        present: mask of existing texts; the others get weight 0.
        margin: unsigned: Eq. 1; signed: max(0, s_c - best other) of the assigned class c; equal: 1.
        floor: added to the weights, so that generic texts get equal weights.
    """
    s = torch.einsum("nkbd,cd->nkbc", v.detach(), p)
    if margin == "equal":
        return present.to(s)
    top = s.topk(2, dim=-1).values
    w = top[..., 0] - top[..., 1]  # Eq. 1
    if margin == "signed":
        assigned = c.to(s.device)[:, None, :, None].expand(*s.shape[:3], 1)
        best_other = s.scatter(-1, assigned, float("-inf")).amax(-1)
        w = (s.gather(-1, assigned)[..., 0] - best_other).clamp_min(0)
    return torch.where(present, w + floor, 0.0)


def mix(
    v: Float[Tensor, "2 K B D"], w: Float[Tensor, "2 K B"], otherwise: Float[Tensor, "2 B D"]
) -> Float[Tensor, "2 B D"]:
    """Weighted mean of the texts of a sample; `otherwise` if it has none."""
    total = w.sum(1)
    share = torch.einsum("nkb,nb->nkb", w, 1 / total.clamp_min(1e-12))
    m = torch.einsum("nkb,nkbd->nbd", share, v)  # Eq. 2
    return torch.where((total > 0)[..., None], m, otherwise)


def mix_as_released(
    v: Float[Tensor, "2 K D D"], w: Float[Tensor, "2 K D"], otherwise: Float[Tensor, "2 D D"]
) -> Float[Tensor, "2 D D"]:
    """Eq. 2 with the slip of the released code, where B = D hides it; the class prompt is first.

    In both branches dimension d of every class prompt is multiplied by the weight of the ft class
    prompt of sample d, and the sum divided by the own weights of branch and sample:
    m_b,i,d = ( w_ft,class,d v_b,class,i,d + sum_k w_b,k,i v_b,k,i,d ) / sum_all w_b,i.
    """
    total = w.sum(1)
    slip = torch.einsum("d,nbd->nbd", w[1, 0], v[:, 0])
    summed = slip + torch.einsum("nkb,nkbd->nbd", w[:, 1:], v[:, 1:])
    m = torch.einsum("nb,nbd->nbd", 1 / total.clamp_min(1e-12), summed)
    return torch.where((total > 0)[..., None], m, otherwise)


def move(
    p: Float[Tensor, "C D"],
    m: Float[Tensor, "M D"],
    c: Int[Tensor, " M"],
    mu: float = 0.99,
    momentum: Literal["single", "double", "none"] = "single",
    alpha: float = 0.99,
) -> Float[Tensor, "C D"]:
    """Move prototypes towards the m of their class; classes without samples do not change.

    single: norm(mu p + (1 - mu) mean m), which is norm(mean t) where mu is alpha.
    double: norm(mu p + (1 - mu) mean t), t = alpha p + (1 - alpha) m.   none: norm(mean m).
    """
    c = c.to(p.device)
    zeros = torch.zeros(len(p), dtype=p.dtype, device=p.device)
    count = zeros.index_add(0, c, torch.ones_like(m[:, 0]))
    mean = torch.zeros_like(p).index_add(0, c, m) / count.clamp_min(1)[:, None]
    keep = {"single": mu, "double": mu + (1 - mu) * alpha, "none": 0.0}[momentum]
    return torch.where((count > 0)[:, None], normalize(keep * p + (1 - keep) * mean, dim=-1), p)


def prototype_loss(
    f: Float[Tensor, "B D"],
    t: Float[Tensor, "B D"],
    c: Int[Tensor, " B"],
    p: Float[Tensor, "C D"],
    scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """C-way cross-entropy of f_i . p_c / tau, with f_i . t_i for the assigned class of i."""
    c = c.to(f.device)
    own = torch.einsum("bd,bd->b", f, t)
    logits = scale * (f @ p.T).scatter(1, c[:, None], own[:, None])
    return cross_entropy(logits, c)
