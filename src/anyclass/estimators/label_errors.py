"""Labels that are probably wrong: confident learning (Northcutt et al., arXiv 1911.00068).

    t_c = mean of p_ic over the images with label c          threshold of class c
    label c of image i is suspicious if argmax_k p_ik = k != c and p_ik >= t_k

p: predictions by the other folds. The package cleanlab finds more in the same probabilities.
Letters: N images.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def suspicious_labels(
    labels: Int[Tensor, " N"],
    predicted: Int[Tensor, " N"],
    confidence: Float[Tensor, " N"],
    label_quality: Float[Tensor, " N"],
) -> Bool[Tensor, " N"]:
    """Mark the labels that are suspicious; False for an image without a label.

    Args:
        labels: class of each image, -1 without a label.
        predicted: class with the highest probability, -1 without a prediction.
        confidence: probability of this class.
        label_quality: probability of the label, NaN without a label or a prediction.
    """
    known = (labels >= 0) & ~label_quality.isnan()
    size = int(torch.stack([labels.max(), predicted.max(), torch.tensor(0)]).max()) + 1
    sums = torch.zeros(size).index_add(0, labels[known], label_quality[known])
    counts = labels[known].bincount(minlength=size)
    threshold = torch.where(counts > 0, sums / counts.clamp_min(1), 1.0)
    contradicted = known & (predicted != labels) & (predicted >= 0)
    return contradicted & (confidence >= threshold[predicted.clamp_min(0)])
