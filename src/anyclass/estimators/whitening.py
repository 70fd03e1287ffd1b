"""LDA whitening, then PCA.

The project's own, after linear discriminant analysis. Light, pose and background vary within
labelled classes. Whitening removes this variation; the remaining variation separates classes, also
unknown ones.

    a   = unit( (h - mean) Sigma^-1/2 )                Sigma: shrunk covariance within classes
    r_h = unit( first q principal components of a )
    r_x                                                the same for x, the space shared with texts
    u   = unit( [r_h | beta r_x] )

Letters: N images, D dimensions, x (N, D) unit features, h (N, H) features of the image tower
before its projection, u (N, R).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import eigh
from torch.nn.functional import normalize, one_hot

Blocks = Callable[[], Iterator[Float[Tensor, "n H"]]]
"""Reads all rows in their order, some at a time, from the first on at each call."""


class Whitening(NamedTuple):
    """LDA whitening and PCA of one space."""

    centre: Float[Tensor, " H"]
    """Mean of h."""
    whiten: Float[Tensor, "H H"]
    """Sigma^-1/2."""
    middle: Float[Tensor, " H"]
    """Mean of the whitened unit vectors a."""
    axes: Float[Tensor, "H q"]
    """Principal axes of a."""

    def transform(self, h: Float[Tensor, "n H"]) -> Float[Tensor, "n q"]:
        """Unit vectors r_h."""
        a = normalize((h - self.centre) @ self.whiten, dim=1)
        return normalize((a - self.middle) @ self.axes, dim=1)


@dataclass(frozen=True)
class WhitenedPCA:
    """Whitening of x and of h, with the fields of `Whitening` for each, as in saved classifiers.

    Rows are [x | h | 1]: projected features, backbone features and a one.
    """

    x_centre: Float[Tensor, " D"]
    x_whiten: Float[Tensor, "D D"]
    x_middle: Float[Tensor, " D"]
    x_axes: Float[Tensor, "D P"]
    h_centre: Float[Tensor, " H"]
    h_whiten: Float[Tensor, "H H"]
    h_middle: Float[Tensor, " H"]
    h_axes: Float[Tensor, "H Q"]
    share: float
    """beta, weight of x relative to h."""

    @property
    def width(self) -> int:
        """R, number of columns of u."""
        return self.h_axes.shape[1] + self.x_axes.shape[1]

    def transform(self, f: Float[Tensor, "n F"]) -> Float[Tensor, "n R"]:
        """Unit vectors u of rows [x | h | 1]."""
        d = len(self.x_centre)
        of_x = Whitening(self.x_centre, self.x_whiten, self.x_middle, self.x_axes)
        of_h = Whitening(self.h_centre, self.h_whiten, self.h_middle, self.h_axes)
        r_x = of_x.transform(f[:, :d])
        r_h = of_h.transform(f[:, d:-1])
        return normalize(torch.cat([r_h, self.share * r_x], dim=1), dim=1)


def fit_whitened_pca(
    h: Float[Tensor, "N H"], labels: Int[Tensor, " N"], q: int, sharpen: float
) -> Whitening:
    """Fit whitening and PCA of one space.

    Args:
        h: features.
        labels: class of each labelled image, -1 otherwise.
        q: number of principal components.
        sharpen: weight of the covariance within labelled classes in Sigma; the rest is a multiple
            of the identity.
    """
    return fit_in_blocks(lambda: iter([h]), labels, q, sharpen)


def fit_in_blocks(blocks: Blocks, labels: Int[Tensor, " N"], q: int, sharpen: float) -> Whitening:
    """The same, with features that are read in blocks; `fit_whitened_pca` has the arguments."""
    n = len(labels)
    centre = _mean(blocks(), n)
    within = _within(blocks, labels)
    width = len(within)
    level = (within.trace() / width).clamp_min(1e-12)
    sigma = sharpen * within + (1 - sharpen) * level * torch.eye(width).to(within)
    values, vectors = (part.to(within) for part in eigh(sigma.double()))  # float32 may not converge
    whiten = vectors * values.clamp_min(1e-12).rsqrt()

    def whitened() -> Iterator[Float[Tensor, "n H"]]:
        for h in blocks():
            yield normalize((h - centre) @ whiten, dim=1)

    middle = _mean(whitened(), n)
    scatter = torch.zeros_like(within)
    for a in whitened():
        scatter += (a - middle).T @ (a - middle)
    axes = eigh(scatter.double()).eigenvectors.flip(1).to(within)
    components = min(q, width, n - 1)
    return Whitening(centre, whiten, middle, axes[:, :components].contiguous())


def _mean(blocks: Iterator[Float[Tensor, "n H"]], n: int) -> Float[Tensor, " H"]:
    """Mean of n rows."""
    return torch.as_tensor(sum(h.sum(0) for h in blocks) / n)


def _within(blocks: Blocks, labels: Int[Tensor, " N"]) -> Float[Tensor, "H H"]:
    """Covariance within the labelled classes."""
    classes = max(1, int(labels.max()) + 1)
    counts = labels[labels >= 0].bincount(minlength=classes).clamp_min(1)
    means = sum(z.T @ h for h, z in _labelled(blocks, labels, classes)) / counts[:, None]
    total = sum((h - z @ means).T @ (h - z @ means) for h, z in _labelled(blocks, labels, classes))
    return torch.as_tensor(total / max(1, int((labels >= 0).sum())))


def _labelled(
    blocks: Blocks, labels: Int[Tensor, " N"], classes: int
) -> Iterator[tuple[Float[Tensor, "n H"], Float[Tensor, "n K"]]]:
    """Features and one-hot labels of the labelled rows of each block."""
    start = 0
    for h in blocks():
        y = labels[start : start + len(h)]
        yield h[y >= 0], one_hot(y[y >= 0], classes).to(h)
        start += len(h)
