"""Features in which what tells labelled classes apart, and others with them, is the loudest.

The project's own, after linear discriminant analysis: what varies within labelled classes is light,
pose and background; undone, what is left varies between classes, named or not.

    a   = unit( (h - mean) Sigma^-1/2 )                Sigma: covariance within labelled classes
    r_h = unit( first q principal components of a )    what still varies varies between classes
    r_x                                                the same of x, the space shared with texts
    u   = unit( [r_h | beta r_x] )

Letters: N pictures, D dimensions, x (N, D) unit features, h (N, H) features of the image tower
before its projection, u (N, R).
"""

from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from anyclass.heads import Spaces


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Sharpening:
    """How features are sharpened by labels."""

    sharpen: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the covariance within labelled classes that is undone; the rest is one number for
    all dimensions."""
    shared: Annotated[float, Field(ge=0)] = 0.5
    """beta, weight of the space shared with texts beside the tower's own."""

    def spaces(
        self, rows: Float[Tensor, "N E"], d: int, labels: Int[Tensor, " N"], q: int
    ) -> Spaces:
        """Both spaces, sharpened and reduced.

        Args:
            rows: [x | h | 1].
            d: how many columns are x.
            labels: -1 where there is none.
            q: principal components of each space.
        """
        x, h = rows[:, :d], rows[:, d:-1]
        of_x, of_h = (sharpened(some, labels, q, self.sharpen) for some in (x, h))
        return Spaces(*of_x, *of_h, share=self.shared)


def sharpened(
    h: Float[Tensor, "N H"], labels: Int[Tensor, " N"], q: int, sharpen: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What whitens features and reduces them.

    Returns:
        centre (H), Sigma^-1/2 (H, H), and of the unit vectors they make: centre (H) and the first
        q principal axes (H, q).
    """
    centre, known = h.mean(0), labels >= 0
    z = one_hot(labels[known]).to(h)
    means = torch.einsum("nk,nh,k->kh", z, h[known], 1 / z.sum(0).clamp_min(1))
    rest = h[known] - z @ means
    within = rest.T @ rest / max(1, len(rest))
    width = len(within)
    level = (within.trace() / width).clamp_min(1e-12)
    sigma = sharpen * within + (1 - sharpen) * level * torch.eye(width).to(h)
    values, vectors = torch.linalg.eigh(sigma)
    whiten = vectors * values.clamp_min(1e-12).rsqrt()
    a = normalize((h - centre) @ whiten, dim=1)
    middle = a.mean(0)
    axes = torch.linalg.eigh((a - middle).T @ (a - middle)).eigenvectors.flip(1)
    return centre, whiten, middle, axes[:, : min(q, width, len(h) - 1)].contiguous()
