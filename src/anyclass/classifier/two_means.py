"""Gate that divides the images of a class in two, by 2-means."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from anyclass.errors import RequestError
from anyclass.estimators.kmeans import kmeans

RESTARTS = 10
"""Restarts of 2-means, of which the best is kept."""
SHARPEST = 1e-3
"""Minimum variance within the halves of a split, relative to the squared distance of their
means."""


def two_means(rows: Float[Tensor, "n E"]) -> Float[Tensor, " F"]:
    """Gate [w | bias] that divides images by 2-means; g > 0 is the larger half.

    g is the log-odds of two Gaussians with the means of the halves and their variance along the
    line between them. Columns are divided by their standard deviation first.

    Args:
        rows: features of the images of a class.

    Raises:
        RequestError: there are not two different images.
    """
    x = rows.detach().cpu().double()
    centre = x.mean(0)
    spread = (x - centre).square().mean(0).sqrt()
    usable = spread > 1e-6 * (spread.max() if len(x) else 1.0)
    scale = torch.where(usable, 1 / spread.clamp_min(1e-300), torch.zeros_like(spread))
    u = (x - centre) * scale
    if len(x) < 2 or not bool(usable.any()):
        raise RequestError("a class can only be split if it has two different images")
    centres = kmeans(u.float(), 2, RESTARTS, seed=0).centres.double()
    side: Int[Tensor, " n"] = torch.cdist(u, centres).argmin(1)
    if int((side == 0).sum()) < int((side == 1).sum()):
        centres = centres.flip(0)
    axis = centres[0] - centres[1]
    middle = centres.mean(0)
    squared = axis @ axis
    along = (u - middle) @ axis
    within = along - along.sign() * squared / 2
    variance = within.square().mean().clamp_min(SHARPEST * squared.square())
    w = axis * squared / variance
    bias = -(centre * scale + middle) @ w
    w = w * scale
    return pad(w, (0, 1), value=float(bias)).float()
