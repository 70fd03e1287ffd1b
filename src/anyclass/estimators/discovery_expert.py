"""Gaussian expert that tells unknown classes from known ones, after discovery.

    G_k(h) = Gaussian expert of all images by their discovered class     `gaussian_expert.py`
    v G    = its logits; v minimises the log-loss of labels by the other folds

Letters: N images, K classes, H features h (N, H).
"""

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import nll_loss, one_hot

from anyclass.estimators.gaussian_expert import Anchors, Statistics, gaussian_expert
from anyclass.estimators.linear import Linear
from anyclass.estimators.rows import Rows
from anyclass.estimators.stacking import best_weight

MAX_IMAGES = 20_000
"""Maximum number of images that choose v."""


def discovery_expert(
    rows: Rows,
    found: Int[Tensor, " N"],
    labels: Int[Tensor, " N"],
    fold: Int[Tensor, " N"],
    classes: int,
    shrinkage: float,
) -> Linear:
    """Fit v G, a linear function of centred h.

    Args:
        rows: images.
        found: discovered class of each image.
        labels: class of each labelled image, -1 otherwise.
        fold: fold of each image.
        classes: K.
        shrinkage: smallest shrinkage of the covariance.
    """
    parts, level = _statistics(rows, found, fold, classes)
    total = sum(parts, Statistics.zero(classes, parts[0].sums.shape[1]))
    nothing = torch.zeros_like(total.sums)
    anchors = Anchors(nothing, torch.zeros(classes, dtype=torch.bool), 0.0, level)
    judges = (labels if bool((labels >= 0).any()) else found) >= 0
    index = torch.nonzero(judges)[:, 0].numpy()
    index = index[:: max(1, len(index) // MAX_IMAGES)]
    _, h = rows.at(index)
    g = torch.empty(len(index), classes)
    for f, part in enumerate(parts):
        mine = fold[index] == f
        g[mine] = gaussian_expert(total - part, anchors, shrinkage).logits(h[mine])
    v = best_weight(lambda w: nll_loss((w * g).log_softmax(1), found[index]))
    return gaussian_expert(total, anchors, shrinkage).times(v)


def _statistics(
    rows: Rows, found: Int[Tensor, " N"], fold: Int[Tensor, " N"], classes: int
) -> tuple[list[Statistics], float]:
    """Statistics of each fold by discovered class, and the mean variance of a feature."""
    width = rows.width
    parts = [Statistics.zero(classes, width) for _ in range(int(fold.max()) + 1)]
    for block, _, h in rows.blocks():
        z = one_hot(found[block], classes).float()
        for f in range(len(parts)):
            mine = fold[block] == f
            parts[f] = parts[f] + Statistics.of(h[mine], z[mine])
    scatter = sum((part.scatter for part in parts), torch.zeros(width, width))
    return parts, float(scatter.trace()) / len(rows) / width
