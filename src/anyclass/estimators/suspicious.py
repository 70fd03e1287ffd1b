"""Labels that the other images contradict: confident learning (Northcutt et al., arXiv 1911.00068).

    t_c = mean of p_ic over the images with label c          threshold of class c
    image i with label c is suspicious if argmax_k p_ik = k != c and p_ik >= t_k

p: predictions by the other folds. The package cleanlab finds more in the same probabilities.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def suspicious(
    labels: Int[Tensor, " N"],
    best: Int[Tensor, " N"],
    top: Float[Tensor, " N"],
    given: Float[Tensor, " N"],
) -> Bool[Tensor, " N"]:
    """Mark suspicious labels.

    Args:
        labels: class of each image, -1 without a label.
        best: predicted class.
        top: its probability.
        given: probability of the label, NaN without a label.
    """
    known = (labels >= 0) & ~given.isnan()
    size = int(torch.stack([labels.max(), best.max(), torch.tensor(0)]).max()) + 1
    sums = torch.zeros(size).index_add(0, labels[known], given[known])
    counts = labels[known].bincount(minlength=size)
    threshold = torch.where(counts > 0, sums / counts.clamp_min(1), 1.0)
    other = known & (best != labels) & (best >= 0)
    return other & (top >= threshold[best.clamp_min(0)])
