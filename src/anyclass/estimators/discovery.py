"""Category discovery: divide images into classes of which some have labels.

The project's own, after semi-supervised k-means (GCD, arXiv 2201.02609), linear discriminant
analysis, and Ward's clustering (1963). No part is trained by gradient.

    u   = LDA whitening and PCA of x, and of h         `whitening.py`
    v   = u, averaged T times with its m neighbours    v_i <- unit( (v_i + mean_j w_ij v_j) / 2 )
    m   = 10; without labels two thirds of the images per class, 10 at most
    z   = Ward's clustering of v, down to K            two labelled classes are never merged
    z   = semi-supervised k-means of v from there
    z^i = argmin_k |u_i - mu_k|^2, mu_k = mean of u    for new images: linear in u

Averaging with neighbours moves an image towards its class, since most neighbours belong to the same
class; it helps more than anything else does, unless a class has fewer images than m. Ward's merges
replace the random restarts of k-means and yield the partitions for all K at once
(`num_classes.py`).

Letters: N images, K classes, x (N, D) features, h (N, H) further features, u (N, R), M groups.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.data.classes import plural
from anyclass.errors import RequestError
from anyclass.estimators.kmeans import centroid_bias, class_means, nearest_centre
from anyclass.estimators.linear import Linear
from anyclass.estimators.rows import Rows
from anyclass.estimators.ward import GROUPS_PER_CLASS, Hierarchy
from anyclass.estimators.whitening import Whitening, fit_in_blocks, fit_whitened_pca
from anyclass.rng import seeded_rng

SHARPEN = 0.6
"""Weight of the covariance within labelled classes; the rest is a multiple of the identity."""
COMPONENTS = 48
"""Principal components of each feature space."""
SHARE = 0.5
"""beta, weight of x relative to h."""
NEIGHBOURS = 10
"""Maximum of m."""
AVERAGES = 3
"""T."""
MAX_IMAGES = 12000
"""Maximum number of images that are clustered; all others go to the nearest class."""
BLOCK = 2048
"""Images whose similarities are in memory at once."""
READ = 16384
"""Images whose features are in memory at once, beside those that are clustered."""
MAX_ITERATIONS = 100
"""Maximum number of iterations of k-means."""


@dataclass(frozen=True)
class DiscoverySpace:
    """Whitened features u of x and of h. `fit` learns it, `transform` applies it."""

    parts: tuple[Whitening, ...]
    """Of h, if there is h, then of x."""

    @classmethod
    def fit(
        cls,
        x: Float[Tensor, "N D"],
        labels: Int[Tensor, " N"],
        extra: Float[Tensor, "N H"] | None = None,
    ) -> "DiscoverySpace":
        """Fit whitening and PCA of both spaces; without two labels of a class, only PCA."""
        spaces = [x] if extra is None else [extra, x]
        return cls(tuple(fit_whitened_pca(f, labels, COMPONENTS, SHARPEN) for f in spaces))

    @classmethod
    def fit_rows(cls, rows: Rows, labels: Int[Tensor, " N"]) -> "DiscoverySpace":
        """The same, with rows that are read in blocks."""

        def h_blocks() -> Iterator[Float[Tensor, "n H"]]:
            return (h for _, _, h in rows.blocks(READ))

        def x_blocks() -> Iterator[Float[Tensor, "n D"]]:
            return (x for _, x, _ in rows.blocks(READ))

        spaces = [x_blocks] if rows.extra is None else [h_blocks, x_blocks]
        return cls(tuple(fit_in_blocks(f, labels, COMPONENTS, SHARPEN) for f in spaces))

    def transform(
        self, x: Float[Tensor, "n D"], extra: Float[Tensor, "n H"] | None = None
    ) -> Float[Tensor, "n R"]:
        """Unit vectors u."""
        spaces = [x] if extra is None else [extra, x]
        shares = [1.0, SHARE]
        found = []
        for f, share, part in zip(spaces, shares, self.parts, strict=False):
            found.append(share * part.transform(f))
        return normalize(torch.cat(found, dim=1), dim=1)


@dataclass(frozen=True)
class Discovered:
    """Classes of all images, and a classifier of new images."""

    labels: Int[Tensor, " N"]
    """Class of each image; labelled images keep theirs."""
    space: DiscoverySpace
    """Features u."""
    linear: Linear
    """Nearest class mean, as logits of u."""

    def logits(
        self, x: Float[Tensor, "n D"], extra: Float[Tensor, "n H"] | None = None
    ) -> Float[Tensor, "n K"]:
        """mu_k . u - |mu_k|^2 / 2 of new images."""
        return self.linear.logits(self.space.transform(x, extra))


def discover(
    rows: Rows,
    labels: Int[Tensor, " N"],
    k: int,
    *,
    confidences: Callable[[Float[Tensor, "n D"]], Float[Tensor, "n C"]] | None = None,
    seed: int = 0,
) -> Discovered:
    """Divide images into K classes; a labelled class keeps its index.

    Args:
        rows: features of the images, read in blocks.
        labels: class of each labelled image, -1 otherwise.
        k: K, more than the largest label; indices without a label are new classes.
        confidences: by x, that an image is of each of the first C classes: the most confident
            images of each class that has no label stand in for labels of it.
        seed: random seed of the sample and the groups of many images; few are all used.

    Raises:
        RequestError: fewer images than classes can be found in, or labels beyond K.
    """
    if len(labels) and int(labels.max()) >= k:
        raise RequestError(f"there are labels of {int(labels.max()) + 1} classes, but K is {k}")
    pseudo_labels = labels
    if confidences is not None:
        pseudo_labels = with_pseudo_labels(labels, _most_confident(rows, confidences), k)
    missing = k - len(pseudo_labels[pseudo_labels >= 0].unique())
    if missing > int((pseudo_labels < 0).sum()):
        raise RequestError(
            f"{plural(k, 'class')} cannot be found in {plural(len(rows), 'image')}; ask for fewer "
            "(--unknown)"
        )
    space = DiscoverySpace.fit_rows(rows, pseudo_labels)
    chosen = sample(pseudo_labels, max(MAX_IMAGES, GROUPS_PER_CLASS * k), seed)
    u = space.transform(*rows.x_and_extra(chosen.numpy()))
    v = average_neighbours(u, neighbours(labels[chosen], k))
    start = Hierarchy.fit(v, pseudo_labels[chosen], k, seed).cut(k)
    z = refine(v, labels[chosen], start, k)
    mu = class_means(u, z, k)
    found = labels.clone()
    if len(chosen) < len(rows):
        for block, x, h in rows.blocks(READ):
            extra = None if rows.extra is None else h
            found[block] = nearest_centre(space.transform(x, extra), mu)
    found[chosen] = z
    found = torch.where(labels >= 0, labels, found)
    return Discovered(found, space, Linear(mu, centroid_bias(mu)))


class Confident(NamedTuple):
    """The class that each image is most likely of, by names."""

    confidence: Float[Tensor, " N"]
    """That it is of this class; only the order counts."""
    predicted: Int[Tensor, " N"]
    """The class."""
    classes: int
    """C, the number of classes that it is chosen from."""


def _most_confident(
    rows: Rows, confidences: Callable[[Float[Tensor, "n D"]], Float[Tensor, "n C"]]
) -> Confident:
    """Maximum over the classes, block by block."""
    confidence = torch.empty(len(rows))
    predicted = torch.empty(len(rows), dtype=torch.int32)
    classes = 0
    for block, x, _ in rows.blocks(READ):
        p = confidences(x)
        classes = p.shape[1]
        confidence[block], predicted[block] = p.max(1)
    return Confident(confidence, predicted, classes)


def with_pseudo_labels(labels: Int[Tensor, " N"], by_names: Confident, k: int) -> Int[Tensor, " N"]:
    """Label the most confident images of each named class that has no label.

    As many images count as these classes would have if all K were equally frequent, and at most
    half of that of each class.

    Args:
        labels: class of each labelled image, -1 otherwise.
        by_names: the class that each image is most likely of, among the first C.
        k: K.
    """
    found = labels.clone()
    confidence, predicted, classes = by_names
    labelled = labels[labels >= 0].unique()
    named = [c for c in range(classes) if not bool((labelled == c).any())]
    free = labels < 0
    if not bool(free.any()):
        return found
    share = len(named) / (k - len(labelled) / 2)  # half of the images of a labelled class have one
    count = max(1, int(float(free.sum()) * min(1.0, share)))
    least = confidence[free].topk(min(count, int(free.sum()))).values[-1:]
    most = max(1, len(labels) // (2 * k))
    for c in named:
        fits = ((predicted == c) & free & (confidence >= least)).nonzero()[:, 0]
        order = confidence[fits].argsort(descending=True, stable=True)
        found[fits[order[:most]]] = c
    return found


def sample(labels: Int[Tensor, " N"], most: int, seed: int) -> Int[Tensor, " n"]:
    """Choose at most `most` rows: one of each labelled class, then at random; ascending."""
    n = len(labels)
    if n <= most:
        return torch.arange(n, device=labels.device)
    order = torch.randperm(n, generator=seeded_rng(seed)).to(labels.device)
    of = labels[order]
    first = torch.zeros_like(of, dtype=torch.bool)
    for c in of[of >= 0].unique():
        first[(of == c).nonzero()[0]] = True
    chosen = torch.cat([order[first], order[~first]])[:most]
    return chosen.sort().values


def neighbours(labels: Int[Tensor, " n"], k: int) -> int:
    """m for images of K classes: fewer where a class has few images and none has a label."""
    if bool((labels >= 0).any()):
        return NEIGHBOURS
    return max(1, min(NEIGHBOURS, 2 * len(labels) // (3 * k)))


def average_neighbours(
    u: Float[Tensor, "n R"], m: int = NEIGHBOURS, times: int = AVERAGES
) -> Float[Tensor, "n R"]:
    """v: unit vectors, averaged with their m nearest neighbours, weighted by cosine."""
    m = min(m, len(u) - 1)
    if m < 1:
        return u
    weights, indices = _neighbours(u, m)
    v = u
    for _ in range(times):
        mean = torch.zeros_like(v)
        for j in range(m):
            mean += weights[:, j, None] * v[indices[:, j]]
        v = normalize(v + mean, dim=1)
    return v


def _neighbours(u: Float[Tensor, "n R"], m: int) -> tuple[Float[Tensor, "n m"], Int[Tensor, "n m"]]:
    """Weights (positive cosines, sum 1 or 0) and indices of the m nearest other rows."""
    weights = []
    indices = []
    for start in range(0, len(u), BLOCK):
        cosine = u[start : start + BLOCK] @ u.T
        own = torch.arange(len(cosine), device=u.device)
        cosine[own, own + start] = -2
        best = cosine.topk(m, dim=1)
        weights.append(best.values.clamp_min(0))
        indices.append(best.indices)
    w = torch.cat(weights)
    return w / w.sum(1, keepdim=True).clamp_min(1e-6), torch.cat(indices)


def refine(
    v: Float[Tensor, "n R"], labels: Int[Tensor, " n"], z: Int[Tensor, " n"], k: int
) -> Int[Tensor, " n"]:
    """Semi-supervised k-means from given clusters; no cluster becomes empty.

    Args:
        v: features.
        labels: class of each labelled image, -1 otherwise; these do not move.
        z: initial clusters.
        k: K.
    """
    for _ in range(MAX_ITERATIONS):
        moved = torch.where(labels >= 0, labels, nearest_centre(v, class_means(v, z, k)))
        if len(moved.unique()) < len(z.unique()) or bool((moved == z).all()):
            break
        z = moved
    return z
