"""Gaussian experts: class means with text anchors and one shared, shrunk covariance.

    mu_c    = ( sum_i z_ic h_i + kappa m_c ) / ( n_c + kappa )     n_c = sum_i z_ic
    m_c     = a (t_c - mean t)                                     anchor; a by least squares
    S       = within-class scatter / ( n - C' )                    C' classes with an image
    Sigma   = (1 - s) S + s tr(S)/H I                              s: oracle approximating shrinkage
    g_c(h)  = mu_c' Sigma^-1 h - mu_c' Sigma^-1 mu_c / 2 + v_c / 2
    v_c     = tr(Sigma^-1 S) n_c / ( n_c + kappa )^2               see below

The mean of few images is longer than the true mean: E mu_c' Sigma^-1 mu_c exceeds the value of the
true mean by v_c. Without the correction, the logits of a class depend on its number of images.

Letters: n images, C classes, H features h (n, H), centred; z (n, C) class probabilities, t (C, H)
texts in the space of h. The shrinkage is that of Chen et al., IEEE Trans. Signal Process. 2010.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anyclass.estimators.linear import Linear

TINY = 1e-6
"""Smallest number of images that a division uses."""
ROUNDING = 1e-3
"""Share of scatter within classes below which it counts as a rounding error of equal images."""
FLAT = 1e-10
"""Minimum mean variance of a feature; less counts as a rounding error."""


@dataclass(frozen=True)
class Statistics:
    """Sufficient statistics of weighted images."""

    counts: Float[Tensor, " C"]
    """n_c, sum of the weights of each class."""
    sums: Float[Tensor, "C H"]
    """Weighted sum of the features of each class."""
    scatter: Float[Tensor, "H H"]
    """Weighted sum of h h'."""

    @classmethod
    def of(cls, h: Float[Tensor, "n H"], z: Float[Tensor, "n C"]) -> "Statistics":
        """Statistics of features h (n, H) with class weights z (n, C)."""
        return cls(z.sum(0), z.T @ h, (h * z.sum(1, keepdim=True)).T @ h)

    @classmethod
    def zero(cls, classes: int, width: int) -> "Statistics":
        """Statistics of no image."""
        return cls(torch.zeros(classes), torch.zeros(classes, width), torch.zeros(width, width))

    def __add__(self, other: "Statistics") -> "Statistics":
        """Statistics of both sets of images."""
        return Statistics(
            self.counts + other.counts, self.sums + other.sums, self.scatter + other.scatter
        )

    def __sub__(self, other: "Statistics") -> "Statistics":
        """Statistics without a subset of the images."""
        return Statistics(
            (self.counts - other.counts).clamp_min(0),
            self.sums - other.sums,
            self.scatter - other.scatter,
        )


@dataclass(frozen=True)
class Anchors:
    """What is known of the class means before any image is seen."""

    texts: Float[Tensor, "C H"]
    """t_c - mean t in the space of h; zero for a class without a name."""
    named: Bool[Tensor, " C"]
    """Classes with a name."""
    strength: float
    """kappa, in images."""
    level: float
    """Mean variance of a feature over all images, used where no class has two images."""


def gaussian_expert(found: Statistics, anchors: Anchors, shrinkage: float) -> Linear:
    """Fit g.

    Args:
        found: statistics of the images.
        anchors: text anchors.
        shrinkage: smallest s.
    """
    n = found.counts
    means = found.sums / n.clamp_min(TINY)[:, None]
    m = _scaled(anchors, n, means)
    kappa = torch.where(anchors.named, max(anchors.strength, TINY), TINY)
    mu = (found.sums + kappa[:, None] * m) / (n + kappa)[:, None]
    root, trace = _whitening(found, means, anchors.level, shrinkage)
    weights = mu @ root.T @ root  # Sigma^-1 mu
    v = trace * (n / (n + kappa).square()).clamp_max(1)  # soft classes: never above one image
    v = torch.where(n > TINY, v, 0)
    return Linear(weights, (v - (mu * weights).sum(1)) / 2)


def _whitening(
    found: Statistics, means: Float[Tensor, "C H"], level: float, shrinkage: float
) -> tuple[Float[Tensor, "H H"], float]:
    """A root R of the inverse covariance, Sigma^-1 = R' R, and tr(Sigma^-1 S).

    Args:
        found: statistics of the images.
        means: mean of the images of each class.
        level: variance of a feature where no class has two images.
        shrinkage: smallest s.
    """
    n = found.counts
    width = len(found.scatter)
    eye = torch.eye(width)
    freedom = float(n.sum() - (n > 0.5).sum())
    within = found.scatter - (means.T * n) @ means
    s = 1.0
    level = max(level, FLAT)
    cov = level * eye  # S
    if freedom >= 1 and float(within.trace()) > ROUNDING * float(found.scatter.trace()):
        cov = within / freedom
        s = max(shrinkage, oas_shrinkage(cov, freedom))
    level = float(cov.trace()) / width
    sigma = (1 - s) * cov + (s + TINY) * level * eye
    root = torch.linalg.solve_triangular(torch.linalg.cholesky(sigma), eye, upper=False)
    inverse = float(root.square().sum())  # tr(Sigma^-1)
    trace = (width - (s + TINY) * level * inverse) / (1 - s) if s < 1 else float(width)
    return root, trace


def _scaled(
    anchors: Anchors, n: Float[Tensor, " C"], means: Float[Tensor, "C H"]
) -> Float[Tensor, "C H"]:
    """m, the anchors scaled by least squares to the means of named classes."""
    weight = torch.where(anchors.named, n, 0)[:, None]
    products = (weight * means * anchors.texts).sum()
    squares = (weight * anchors.texts.square()).sum()
    a = products / squares if float(squares) > 0 else torch.ones(())
    return a.clamp_min(0) * anchors.texts


def oas_shrinkage(cov: Float[Tensor, "H H"], n: float) -> float:
    """Oracle approximating shrinkage of a covariance of n samples.

    Eq. 23 of Chen et al. without its terms 2 / H, as in scikit-learn.
    """
    width = len(cov)
    alpha = float(cov.square().mean())
    mu = float(cov.trace()) / width
    denominator = (n + 1) * (alpha - mu**2 / width)
    return 1.0 if denominator <= 0 else min(1.0, (alpha + mu**2) / denominator)
