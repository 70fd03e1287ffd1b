"""How far a discovered class can be trusted: agreement over resamples, and the nearest class.

    z^b   = classes of all images by a clustering of a random share of them, b = 1 ... B
    P^b   = share of the images of class a that are in cluster c of z^b          (K, clusters)
    T     = mean over b of P^b (P^b)^T      chance that an image of a and one of a' stay together
    T_aa  = agreement of class a: 1 if each resample finds it again
    d     = distance of the means of two classes over the deviation within them, along the line
            between them; means of one half of the images, deviations of the other half

The clustering is that of `discovery.py`. A class of low agreement mostly holds images of several
classes; two classes that often get together, and are close, are often one. Letters: N images, K
classes, D and H dimensions.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from anyclass.estimators.discovery import (
    DiscoverySpace,
    average_neighbours,
    neighbours,
    refine,
)
from anyclass.estimators.kmeans import class_means, nearest_centre
from anyclass.estimators.ward import Hierarchy
from anyclass.rng import seeded_rng

RESAMPLES = 5
"""B."""
SHARE = 0.6
"""Share of the images in a resample."""
MAX_IMAGES = 3000
"""Maximum number of images in a resample."""
MIN_IMAGES = 3
"""Minimum number of images of a class that is judged."""
SOUND = 0.85
"""Minimum agreement of a class that looks sound."""
MIXED = 0.5
"""Agreement below which a class mostly holds images of several classes."""
SECOND = 0.25
"""Share of a class that leaves it in a resample, at which it looks like two."""
TOGETHER = 0.3
"""Chance of two classes to stay together, relative to their own agreement, at which they may be
one."""
CLOSE = 3.0
"""d below which they may be one. The halves of a single Gaussian have 2.65."""


class ClassQuality(NamedTuple):
    """What resamples say of one class."""

    agreement: float
    """Chance that two of its images stay together when a random share is clustered anew."""
    second: float
    """Mean share of its images in the second largest cluster."""
    nearest: int | None
    """The class that it is most often mixed up with, else the one with the nearest mean."""
    together: float
    """Chance of the two classes to stay together, relative to the smaller agreement of both."""
    separation: float | None
    """d of the two classes; None if one has fewer than `MIN_IMAGES` images."""

    @property
    def is_mixed(self) -> bool:
        """Whether it looks like more than one class."""
        return self.agreement < MIXED or self.second > SECOND

    @property
    def may_be_nearest(self) -> bool:
        """Whether it may be a part of the nearest class."""
        close = self.separation is not None and self.separation < CLOSE
        return self.nearest is not None and close and self.together > TOGETHER

    @property
    def is_sound(self) -> bool:
        """Whether nothing speaks against it."""
        return self.agreement >= SOUND and not (self.is_mixed or self.may_be_nearest)


@torch.no_grad()
def class_quality(
    x: Float[Tensor, "N D"],
    found: Int[Tensor, " N"],
    labels: Int[Tensor, " N"],
    classes: int,
    extra: Float[Tensor, "N H"] | None = None,
    seed: int = 0,
) -> list[ClassQuality | None]:
    """Judge each of the K classes; None for one with fewer than `MIN_IMAGES` images.

    Args:
        x: image features.
        found: class of each image.
        labels: class of each labelled image, -1 otherwise.
        classes: K.
        extra: further features of the same images.
        seed: random seed of the resamples.
    """
    u = DiscoverySpace.fit(x, labels, extra).transform(x, extra)
    sizes = found.bincount(minlength=classes)
    judged = sizes >= MIN_IMAGES
    together = torch.zeros(classes, classes)
    second = torch.zeros(classes)
    for b in range(RESAMPLES):
        p = _shares(_resampled(u, labels, classes, seed, b), found, classes)
        together += p @ p.T / RESAMPLES
        if p.shape[1] > 1:
            second += p.topk(2, dim=1).values[:, 1] / RESAMPLES
    mu = class_means(u, found, classes)
    return [
        _quality(k, u, found, mu, together, second, judged) if bool(judged[k]) else None
        for k in range(classes)
    ]


def _resampled(
    u: Float[Tensor, "N R"], labels: Int[Tensor, " N"], k: int, seed: int, b: int
) -> Int[Tensor, " N"]:
    """Class of each image by a clustering of a random share of the images."""
    n = min(MAX_IMAGES, max(k + 1, round(SHARE * len(u))), len(u))
    rows = torch.randperm(len(u), generator=seeded_rng(seed, b))[:n].sort().values
    v = average_neighbours(u[rows], neighbours(labels, k))
    of_rows = labels[rows]
    z = refine(v, of_rows, Hierarchy.fit(v, of_rows, k, seed).cut(k), k)
    used, z = z.unique(return_inverse=True)
    return nearest_centre(u, class_means(u[rows], z, len(used)))


def _shares(
    clusters: Int[Tensor, " N"], found: Int[Tensor, " N"], classes: int
) -> Float[Tensor, "K c"]:
    """Share of the images of each class in each cluster; 0 for a class without images."""
    counts = one_hot(found, classes).float().T @ one_hot(clusters).float()
    return counts / counts.sum(1, keepdim=True).clamp_min(1)


def _quality(
    k: int,
    u: Float[Tensor, "N R"],
    found: Int[Tensor, " N"],
    mu: Float[Tensor, "K R"],
    together: Float[Tensor, "K K"],
    second: Float[Tensor, " K"],
    judged: Bool[Tensor, " K"],
) -> ClassQuality:
    """Quality of class k."""
    agreement = together.diagonal()
    others = judged.clone()
    others[k] = False
    if not bool(others.any()):
        return ClassQuality(float(agreement[k]), float(second[k]), None, 0.0, None)
    mixed_up = together[k].masked_fill(~others, -1.0)
    distance = (mu - mu[k]).square().sum(1).masked_fill(~others, torch.inf)
    other = int(mixed_up.argmax()) if float(mixed_up.max()) > 0 else int(distance.argmin())
    least = float(torch.minimum(agreement[k], agreement[other]).clamp_min(1e-6))
    d = separation(u[found == k], u[found == other])
    relative = float(together[k, other]) / least
    return ClassQuality(float(agreement[k]), float(second[k]), other, relative, d)


def separation(a: Float[Tensor, "n R"], b: Float[Tensor, "m R"]) -> float | None:
    """d of two groups of images; None if one is too small or nothing varies."""
    if min(len(a), len(b)) < MIN_IMAGES:
        return None
    along: list[Tensor] = [a.new_zeros(0), a.new_zeros(0)]
    for half in (0, 1):
        means = [g[half::2].mean(0) for g in (a, b)]
        rest = [g[1 - half :: 2] for g in (a, b)]
        axis = means[0] - means[1]
        middle = (means[0] + means[1]) / 2
        axis = axis / axis.norm().clamp_min(1e-12)
        along = [torch.cat([s, (r - middle) @ axis]) for s, r in zip(along, rest, strict=True)]
    squares = sum((s - s.mean()).square().sum() for s in along)
    deviation = (squares / (len(a) + len(b))) ** 0.5
    if not float(deviation) > 0:
        return None
    return float((along[0].mean() - along[1].mean()) / deviation)
