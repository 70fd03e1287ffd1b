"""LDA whitening, then PCA.

Own method, based on linear discriminant analysis. Light, pose and background vary within labelled
classes. Whitening removes this variation; the remaining variation separates classes, also unknown
ones.

    a   = unit( (h - mean) Sigma^-1/2 )                Sigma: covariance within labelled classes
    r_h = unit( first q principal components of a )
    r_x                                                the same for x, the space shared with texts
    u   = unit( [r_h | beta r_x] )

Letters: N images, D dimensions, x (N, D) unit features, h (N, H) features of the image tower
before its projection, u (N, R).
"""

from dataclasses import dataclass as plain_dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import normalize, one_hot


@plain_dataclass(frozen=True)
class WhitenedPCA:
    """Fitted LDA whitening and PCA of x and of h; their concatenation u.

    Rows are [x | h | 1]: projected features, backbone features and a one.
    """

    x_centre: Float[Tensor, " D"]
    """Mean of x."""
    x_whiten: Float[Tensor, "D D"]
    """Inverse square root of the covariance of x within labelled classes."""
    x_middle: Float[Tensor, " D"]
    """Mean of the whitened unit vectors."""
    x_axes: Float[Tensor, "D P"]
    """Principal axes of the whitened unit vectors."""
    h_centre: Float[Tensor, " H"]
    """Mean of h."""
    h_whiten: Float[Tensor, "H H"]
    """As for x."""
    h_middle: Float[Tensor, " H"]
    """As for x."""
    h_axes: Float[Tensor, "H Q"]
    """As for x."""
    share: float
    """beta, weight of x relative to h."""

    @property
    def width(self) -> int:
        """R, number of columns of u."""
        return self.h_axes.shape[1] + self.x_axes.shape[1]

    def transform(self, f: Float[Tensor, "n F"]) -> Float[Tensor, "n R"]:
        """Unit vectors u of rows [x | h | 1]."""
        return self.joined(*self.reduced(f))

    def reduced(self, f: Float[Tensor, "n F"]) -> tuple[Float[Tensor, "n P"], Float[Tensor, "n Q"]]:
        """Coordinates of x and of h along their principal axes, by decreasing variance."""
        d = len(self.x_centre)
        x = normalize((f[:, :d] - self.x_centre) @ self.x_whiten, dim=1)
        h = normalize((f[:, d:-1] - self.h_centre) @ self.h_whiten, dim=1)
        return (x - self.x_middle) @ self.x_axes, (h - self.h_middle) @ self.h_axes

    def joined(self, x: Float[Tensor, "n P"], h: Float[Tensor, "n Q"]) -> Float[Tensor, "n R"]:
        """Unit vectors u of all or the first few coordinates."""
        both = [normalize(h, dim=1), self.share * normalize(x, dim=1)]
        return normalize(torch.cat(both, dim=1), dim=1)


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Whitening:
    """Settings of LDA whitening and PCA."""

    sharpen: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Weight of the covariance within labelled classes in Sigma; the rest is a multiple of the
    identity (shrinkage). Raise it if there are many labelled images."""
    shared: Annotated[float, Field(ge=0)] = 0.5
    """beta, weight of projected features relative to backbone features."""

    def spaces(
        self, rows: Float[Tensor, "N E"], d: int, labels: Int[Tensor, " N"], q: int
    ) -> WhitenedPCA:
        """Fit whitening and PCA of x and of h.

        Args:
            rows: [x | h | 1].
            d: how many columns are x.
            labels: class of each labelled image, -1 otherwise.
            q: number of principal components of each space.
        """
        x = fit_whitened_pca(rows[:, :d], labels, q, self.sharpen)
        h = fit_whitened_pca(rows[:, d:-1], labels, q, self.sharpen)
        return WhitenedPCA(*x, *h, share=self.shared)


def fit_whitened_pca(
    h: Float[Tensor, "N H"], labels: Int[Tensor, " N"], q: int, sharpen: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fit whitening and PCA of one space.

    Args:
        h: features.
        labels: class of each labelled image, -1 otherwise.
        q: number of principal components.
        sharpen: weight of the covariance within labelled classes in Sigma.

    Returns:
        The mean (H), Sigma^-1/2 (H, H), the mean of the whitened unit vectors (H), and their
        first q principal axes (H, q).
    """
    centre = h.mean(0)
    known = labels >= 0
    z = one_hot(labels[known]).to(h)
    means = torch.einsum("nk,nh,k->kh", z, h[known], 1 / z.sum(0).clamp_min(1))
    residuals = h[known] - z @ means
    within = residuals.T @ residuals / max(1, len(residuals))
    width = len(within)
    level = (within.trace() / width).clamp_min(1e-12)
    sigma = sharpen * within + (1 - sharpen) * level * torch.eye(width).to(h)
    values, vectors = torch.linalg.eigh(sigma)
    whiten = vectors * values.clamp_min(1e-12).rsqrt()
    a = normalize((h - centre) @ whiten, dim=1)
    middle = a.mean(0)
    axes = torch.linalg.eigh((a - middle).T @ (a - middle)).eigenvectors.flip(1)
    components = min(q, width, len(h) - 1)
    return centre, whiten, middle, axes[:, :components].contiguous()
