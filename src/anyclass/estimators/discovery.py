"""Category discovery: divide images into classes of which some have labels.

The project's own, after semi-supervised k-means (GCD, arXiv 2201.02609), linear discriminant
analysis, and Ward's clustering (1963). No part is trained by gradient.

    u   = LDA whitening and PCA of x, and of h         `whitening.py`
    v   = u, averaged T times with its m neighbours    v_i <- unit( (v_i + mean_j w_ij v_j) / 2 )
    z   = Ward's clustering of v, down to K            two labelled classes are never merged
    z   = semi-supervised k-means of v from there
    z^i = argmin_k |u_i - mu_k|^2, mu_k = mean of u    for new images: linear in u

Averaging with neighbours moves an image towards its class, since most neighbours belong to the same
class; it helps more than anything else does. Ward's merges replace the random restarts of k-means
and yield the partitions for all K at once (`num_classes.py`).

Letters: N images, K classes, x (N, D) features, h (N, H) further features, u (N, R), M groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.errors import RequestError
from anyclass.estimators.kmeans import centroid_bias, nearest, semi_supervised_kmeans
from anyclass.estimators.linear import Linear
from anyclass.estimators.whitening import fit_whitened_pca
from anyclass.rng import seeded_rng

SHARPEN = 0.6
"""Weight of the covariance within labelled classes; the rest is a multiple of the identity."""
COMPONENTS = 48
"""Principal components of each feature space."""
SHARE = 0.5
"""beta, weight of x relative to h."""
NEIGHBOURS = 10
"""m."""
AVERAGES = 3
"""T."""
GROUPS = 1000
"""Minimum number of groups that Ward's clustering starts from, if there are so many images."""
GROUPS_PER_CLASS = 4
"""Minimum number of groups per class that Ward's clustering starts from."""
ROWS = 12000
"""Maximum number of images that are clustered; all others go to the nearest class."""
BLOCK = 2048
"""Images whose similarities are in memory at once."""
ITERATIONS = 100
"""Maximum number of iterations of k-means."""


@dataclass(frozen=True)
class DiscoverySpace:
    """Whitened features u of x and of h. `fit` learns it, `transform` applies it."""

    parts: tuple[tuple[Tensor, Tensor, Tensor, Tensor], ...]
    """Mean, Sigma^-1/2, mean after whitening and axes: of h, if there is h, then of x."""

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

    def transform(
        self, x: Float[Tensor, "n D"], extra: Float[Tensor, "n H"] | None = None
    ) -> Float[Tensor, "n R"]:
        """Unit vectors u."""
        spaces = [x] if extra is None else [extra, x]
        shares = [1.0, SHARE]
        found = []
        for f, share, part in zip(spaces, shares, self.parts, strict=False):
            centre, whiten, middle, axes = part
            a = normalize((f - centre) @ whiten, dim=1)
            found.append(share * normalize((a - middle) @ axes, dim=1))
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
    x: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    k: int,
    *,
    extra: Float[Tensor, "N H"] | None = None,
    confidences: Float[Tensor, "N C"] | None = None,
    seed: int = 0,
) -> Discovered:
    """Divide images into K classes; a labelled class keeps its index.

    Args:
        x: features; those of CLIP have unit length.
        labels: class of each labelled image, -1 otherwise.
        k: K, more than the largest label; indices without a label are new classes.
        extra: h, further features of the same images.
        confidences: that an image is of each of the first C classes: the most confident images of
            each class that has no label stand in for labels of it.
        seed: random seed of the sample and the groups of many images; few are all used.

    Raises:
        RequestError: fewer images than classes can be found in, or labels beyond K.
    """
    if len(labels) and int(labels.max()) >= k:
        raise RequestError(f"there are labels of {int(labels.max()) + 1} classes, but K is {k}")
    anchors = labels if confidences is None else with_guesses(labels, confidences, k)
    missing = k - len(anchors[anchors >= 0].unique())
    if missing > int((anchors < 0).sum()):
        raise RequestError(
            f"{k} classes cannot be found in {len(x)} images; ask for fewer (--unknown)"
        )
    space = DiscoverySpace.fit(x, anchors, extra)
    u = space.transform(x, extra)
    rows = sample(anchors, max(ROWS, GROUPS_PER_CLASS * k), seed)
    v = average_neighbours(u[rows])
    start = Hierarchy.fit(v, anchors[rows], k, seed).cut(k)
    z = refine(v, labels[rows], start, k)
    mu = class_means(u[rows], z, k)
    everyone = nearest(u, mu)
    everyone[rows] = z
    found = torch.where(labels >= 0, labels, everyone)
    return Discovered(found, space, Linear(mu, centroid_bias(mu)))


def with_guesses(
    labels: Int[Tensor, " N"], confidences: Float[Tensor, "N C"], k: int
) -> Int[Tensor, " N"]:
    """Add the most confident images of each named class, which has no label.

    As many images count as these classes would have if all K were equally frequent, and at most
    half of that of each class.

    Args:
        labels: class of each labelled image, -1 otherwise.
        confidences: that an image is of each of the first C classes; only their order counts.
        k: K.
    """
    anchors = labels.clone()
    confidence, guess = confidences.max(1)
    labelled = labels[labels >= 0].unique()
    named = [c for c in range(confidences.shape[1]) if not bool((labelled == c).any())]
    free = labels < 0
    if not bool(free.any()):
        return anchors
    share = len(named) / (k - len(labelled) / 2)  # half of the images of a labelled class have one
    count = max(1, int(float(free.sum()) * min(1.0, share)))
    least = confidence[free].topk(min(count, int(free.sum()))).values[-1:]
    most = max(1, len(labels) // (2 * k))
    for c in named:
        fits = ((guess == c) & free & (confidence >= least)).nonzero()[:, 0]
        order = confidence[fits].argsort(descending=True, stable=True)
        anchors[fits[order[:most]]] = c
    return anchors


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


def class_means(u: Float[Tensor, "n R"], z: Int[Tensor, " n"], k: int) -> Float[Tensor, "K R"]:
    """Mean of the rows of each class; zero for a class without rows."""
    sums = u.new_zeros(k, u.shape[1]).index_add(0, z, u)
    return sums / z.bincount(minlength=k).clamp_min(1)[:, None]


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
    for _ in range(ITERATIONS):
        moved = torch.where(labels >= 0, labels, nearest(v, class_means(v, z, k)))
        if len(moved.unique()) < len(z.unique()) or bool((moved == z).all()):
            break
        z = moved
    return z


@dataclass(frozen=True)
class Hierarchy:
    """Ward's merges of M groups of images."""

    groups: Int[Tensor, " n"]
    """Group of each image; the labelled classes are the first groups, in ascending order."""
    classes: Int[Tensor, " L"]
    """Labelled classes."""
    size: int
    """M."""
    merges: list[tuple[int, int]]
    """Pairs of groups (kept, absorbed), in order of their cost."""

    @classmethod
    def fit(
        cls, v: Float[Tensor, "n R"], labels: Int[Tensor, " n"], k: int, seed: int = 0
    ) -> "Hierarchy":
        """Merge groups by Ward's criterion; two labelled classes are never merged.

        Args:
            v: features.
            labels: class of each labelled image, -1 otherwise.
            k: expected number of clusters, for the number of groups.
            seed: random seed of the groups; without effect if each image is one.
        """
        known = labels >= 0
        classes, of_known = labels[known].unique(return_inverse=True)
        groups = torch.empty_like(labels)
        groups[known] = of_known
        most = max(GROUPS, GROUPS_PER_CLASS * k)
        groups[~known] = len(classes) + _small_groups(v[~known], most, seed)
        size = int(groups.max()) + 1 if len(groups) else 0
        means = class_means(v, groups, size).double().cpu().numpy()
        counts = groups.bincount(minlength=size).double().cpu().numpy()
        merges = list(_ward(means, counts, np.arange(size) < len(classes)))
        return cls(groups, classes, size, merges)

    def partition(self, k: int) -> Int[Tensor, " M"]:
        """Cluster of each group after merges down to K clusters, or as few as possible."""
        parent = list(range(self.size))
        for kept, absorbed in self.merges[: max(0, self.size - k)]:
            parent[absorbed] = kept
        for group in range(self.size):
            root = group
            while parent[root] != root:
                root = parent[root]
            parent[group] = root
        return torch.tensor(parent, dtype=torch.long, device=self.groups.device)

    def cut(self, k: int) -> Int[Tensor, " n"]:
        """Cluster of each image; labelled classes keep their index, new ones fill the gaps."""
        roots, of_group = self.partition(k).unique(return_inverse=True)
        highest = int(self.classes.max()) + 1 if len(self.classes) else 0
        indices = max(k, len(roots), highest)
        free = torch.ones(indices, dtype=torch.bool, device=roots.device)
        free[self.classes] = False
        spare = free.nonzero()[:, 0]
        names = torch.cat([self.classes, spare])[: len(roots)]
        return names[of_group][self.groups]


def _small_groups(v: Float[Tensor, "n R"], most: int, seed: int) -> Int[Tensor, " n"]:
    """At most `most` groups of similar images, numbered from 0: by k-means, or each image one."""
    if len(v) <= most:
        return torch.arange(len(v), device=v.device)
    nobody = torch.full((len(v),), -1, device=v.device)
    found = semi_supervised_kmeans(v, nobody, most, restarts=1, iterations=5, seed=seed)
    groups: Tensor = found.labels.unique(return_inverse=True)[1]
    return groups


def _ward(
    mu: Float[np.ndarray, "M R"], n: Float[np.ndarray, " M"], fixed: Bool[np.ndarray, " M"]
) -> Iterator[tuple[int, int]]:
    """Yield Ward's merges (kept, absorbed) of groups with means mu and n images each.

    The cost of a merge is the gain of inertia, n_a n_b / (n_a + n_b) |mu_a - mu_b|^2. Two groups
    that are `fixed` are never merged.
    """
    mu = mu.copy()
    n = n.copy()
    fixed = fixed.copy()
    squares = np.square(mu).sum(1)
    cost = np.maximum(squares[:, None] + squares - 2 * mu @ mu.T, 0)
    cost *= n[:, None] * n / (n[:, None] + n)
    cost[np.ix_(fixed, fixed)] = np.inf
    np.fill_diagonal(cost, np.inf)
    partner = cost.argmin(1) if len(mu) else np.zeros(0, dtype=int)
    least = cost[np.arange(len(mu)), partner]
    alive = np.ones(len(mu), dtype=bool)
    for _ in range(len(mu) - 1):
        a = int(least.argmin())
        b = int(partner[a])
        if not np.isfinite(least[a]):
            return  # only labelled classes are left
        if fixed[b] or (b < a and not fixed[a]):
            a, b = b, a
        yield a, b
        total = n[a] + n[b]
        mu[a] = (n[a] * mu[a] + n[b] * mu[b]) / total
        n[a] = total
        alive[b] = False
        row = np.square(mu - mu[a]).sum(1) * (total * n / (total + n))
        row[~alive] = np.inf
        row[a] = np.inf
        if fixed[a]:
            row[fixed] = np.inf
        cost[b] = np.inf
        cost[:, b] = np.inf
        cost[a] = row
        cost[:, a] = row
        stale = ((partner == a) | (partner == b) | (row < least)) & alive
        stale[a] = True
        changed = stale.nonzero()[0]
        partner[changed] = cost[changed].argmin(1)
        least[changed] = cost[changed, partner[changed]]
        least[b] = np.inf


def partitions(
    hierarchy: Hierarchy, numbers: Sequence[int]
) -> Iterator[tuple[int, Int[Tensor, " n"]]]:
    """Yield each number of clusters that the hierarchy has, with the cluster of each image."""
    for k in numbers:
        if hierarchy.size - len(hierarchy.merges) <= k <= hierarchy.size:
            yield k, hierarchy.partition(k)[hierarchy.groups]
