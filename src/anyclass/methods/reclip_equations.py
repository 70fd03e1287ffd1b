"""ReCLIP's equations: projection, graph, label propagation, centroids and the loss.

Letters as in `reclip.py`: N images, C classes, D dimensions, B batch, M = C + N nodes h.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array, diags_array, eye_array
from scipy.sparse.linalg import cg
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

NONE = -1
"""Label of an image without one: T and V disagree, or no class reaches it."""

BLOCK = 512
"""Rows of the similarity matrix in memory at once."""


def projection(a: Float[Tensor, "C D"], directions: int | None = None) -> Float[Tensor, "D D"]:
    """Pi, projection onto singular vectors 2 to r of the text features; None: all but the first."""
    u = torch.linalg.svd(a.T, full_matrices=False).U[:, 1:directions]
    return torch.einsum("dr,er->de", u, u)


def graph(h: Float[Tensor, "M D"], neighbours: int) -> csr_array:
    """S (M, M), the normalised graph of the nearest neighbours of unit nodes."""
    k = min(neighbours, len(h) - 1)
    values = []
    columns = []
    for rows in torch.arange(len(h), device=h.device).split(BLOCK):
        a = ((h[rows] @ h.T + 1) / 2).clamp_min(0)  # opposite nodes: rounding gives -1e-7
        a[rows - rows[0], rows] = 0  # no node is its own neighbour
        top = a.topk(k)
        values.append(top.values.cpu())
        columns.append(top.indices.cpu())
    data = torch.cat(values).flatten().numpy().astype(float)
    starts = np.arange(0, len(data) + 1, k)
    a = csr_array((data, torch.cat(columns).flatten().numpy(), starts), (len(h), len(h)))
    w = (a + a.T) / 2
    delta = diags_array(w.sum(axis=1).clip(np.finfo(float).tiny) ** -0.5)  # zero rows remain zero
    return csr_array(delta @ w @ delta)


def propagate(
    s: csr_array, classes: int, alpha: float, iterations: int, tolerance: float
) -> tuple[Int[Tensor, " M"], Float[Tensor, ""]]:
    """argmax_c z_c of (I - alpha S) z_c = e_c, and the largest residual |e_c - (I - alpha S) z_c|.

    A node that no class reaches has no label.
    """
    system = eye_array(s.shape[0], format="csr") - alpha * s
    error = 0.0
    best = np.zeros(s.shape[0])
    y = np.full(s.shape[0], NONE)
    for c in range(classes):
        e = np.zeros_like(best)
        e[c] = 1
        z, _ = cg(system, e, rtol=tolerance, atol=0.0, maxiter=iterations)
        error = max(error, float(np.linalg.norm(e - system @ z)))
        y[z > best] = c
        best = np.maximum(best, z)
    return torch.from_numpy(y), torch.tensor(error)


def centroids(
    h: Float[Tensor, "M D"], y: Int[Tensor, " M"], before: Float[Tensor, "C D"]
) -> Float[Tensor, "C D"]:
    """Unit mean of the nodes of each class; the previous one for a class without nodes."""
    h = h[(y != NONE).to(h.device)]
    y = y[y != NONE]
    total = torch.zeros_like(before).index_add(0, y.to(h.device), h)
    count = y.bincount(minlength=len(before)).to(h.device)
    return torch.where((count > 0)[:, None], normalize(total, dim=-1), before)


def labelled_loss(logits: Float[Tensor, "B C"], y: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of the labelled samples; 0 if there are none."""
    total = cross_entropy(logits, y, ignore_index=NONE, reduction="sum")
    return total / (y != NONE).sum().clamp_min(1)
