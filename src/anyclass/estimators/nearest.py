"""Nearest rows by cosine, in blocks: time N x M, memory N x k."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 2048
"""Rows that are compared with all others at once."""


def nearest_pairs(
    rows: Float[Tensor, "N D"],
    others: Float[Tensor, "M D"] | None = None,
    k: int = 5,
    least: float = -1.0,
) -> tuple[Int[np.ndarray, "P 2"], Float[np.ndarray, " P"]]:
    """Pairs of each row and its k nearest other ones, with their cosines.

    Args:
        rows: unit vectors.
        others: the unit vectors to choose from; None: the other rows, and each pair (i, j) once,
            with i < j.
        k: number of neighbours.
        least: smallest cosine.
    """
    among = rows if others is None else others
    k = min(k, len(among) - (others is None))
    if len(rows) == 0 or k <= 0:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    pairs = []
    cosines = []
    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK] @ among.T
        index = torch.arange(start, start + len(some))
        if others is None:
            some[index - start, index] = -torch.inf
        top = some.topk(k, dim=1)
        near = top.values >= least
        i = index[:, None].expand_as(near)[near]
        pairs.append(torch.stack([i, top.indices[near]], dim=1))
        cosines.append(top.values[near])
    found = torch.cat(pairs).numpy()
    values = torch.cat(cosines).numpy()
    if others is not None:
        return found, values
    found, first = np.unique(np.sort(found, axis=1), axis=0, return_index=True)
    return found, values[first]
