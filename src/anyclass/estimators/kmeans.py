"""k-means and semi-supervised k-means.

Semi-supervised k-means is that of GCD (Vaze et al., CVPR 2022, arXiv 2201.02609); plain k-means is
scikit-learn's.

    |x - mu|^2 = |x|^2 - 2 x . mu + |mu|^2         one matrix product for all restarts at once

Letters: n images, D dimensions, K clusters, R restarts; x (n, D) unit features, mu centres.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits
from torch import Tensor

from anyclass.data.classes import plural
from anyclass.errors import RequestError

AT_ONCE = 2**25
"""Maximum number of distances in memory at once; it limits the restarts that run in parallel."""

TOLERANCE = 1e-4
"""Squared sum of the centres' moves below which a restart stops."""

UNCALIBRATED = 0.1
"""Temperature of the probabilities softmax(-|x - mu|^2 / 2 temperature) before calibration."""


class Clusters(NamedTuple):
    """Result of k-means."""

    labels: Int[Tensor, " n"]
    """Cluster of each image."""
    centres: Float[Tensor, "K D"]
    """Mean of the images of each cluster."""
    inertia: float
    """Sum of squared distances to the centres."""


def kmeans(x: Float[Tensor, "n D"], k: int, restarts: int = 10, seed: int = 0) -> Clusters:
    """Plain k-means: k-means++ starts, at most 300 iterations, tolerance 1e-4; the best restart.

    Raises:
        RequestError: more clusters than images.
    """
    from sklearn.cluster import KMeans

    check_clusters(k, len(x))
    rows = x.detach().cpu().double().numpy()
    with threadpool_limits(1):  # several threads are slower on a busy machine
        found = KMeans(k, n_init=restarts, max_iter=300, tol=1e-4, random_state=seed).fit(rows)
    labels = torch.from_numpy(found.labels_).long()
    centres = torch.from_numpy(found.cluster_centers_)
    return Clusters(labels.to(x.device), centres.to(x), float(found.inertia_))


def semi_supervised_kmeans(
    x: Float[Tensor, "n D"],
    labels: Int[Tensor, " n"],
    k: int,
    restarts: int = 100,
    iterations: int = 200,
    seed: int = 0,
) -> Clusters:
    """k-means with labelled images fixed to the cluster of their class.

    The other centres start by k-means++ among the unlabelled images, with the means of the labelled
    classes as existing centres. The restart with the lowest inertia wins. A cluster that becomes
    empty moves to the unlabelled image farthest from its centre (NaN in the official code).

    Args:
        x: features, unit or not.
        labels: class of each labelled image, -1 otherwise; class c is cluster c.
        k: K, more than the largest label.
        restarts: R.
        iterations: most iterations of a restart.
        seed: random seed of the restarts.

    Raises:
        RequestError: more clusters than images can fill.
    """
    free = x[labels < 0]
    problem = _Problem(free, x[labels >= 0], labels[labels >= 0], k)
    missing = k - len(problem.fixed)
    check_clusters(missing, len(free))
    draw = torch.Generator().manual_seed(seed)
    chance = torch.rand(restarts, max(1, missing), generator=draw, dtype=torch.float64)
    size = max(1, AT_ONCE // max(1, len(free) * k))
    runs = [problem.run(some.to(x.device), iterations) for some in chance.split(size)]
    inertia, best = torch.cat([run.inertia for run in runs]).min(0)
    found = labels.clone()
    found[labels < 0] = torch.cat([run.labels for run in runs])[best]
    return Clusters(found, torch.cat([run.centres for run in runs])[best], float(inertia))


def centroid_bias(centres: Float[Tensor, "K E"]) -> Float[Tensor, " K"]:
    """-|mu|^2 / 2, the bias that makes the largest product that of the nearest centre."""
    return -centres.square().sum(1) / 2


def class_means(x: Float[Tensor, "n E"], c: Int[Tensor, " n"], k: int) -> Float[Tensor, "K E"]:
    """Mean of the rows of each class; zero for a class without rows."""
    sums = x.new_zeros(k, x.shape[1]).index_add(0, c, x)
    return sums / c.bincount(minlength=k).clamp_min(1)[:, None]


def nearest_centre(x: Float[Tensor, "n E"], centres: Float[Tensor, "K E"]) -> Int[Tensor, " n"]:
    """Index of the nearest centre of each row."""
    return (x @ centres.T + centroid_bias(centres)).argmax(1)


class _Run(NamedTuple):
    """The best state of each of R restarts."""

    labels: Int[Tensor, "R u"]
    """Clusters of the unlabelled images."""
    centres: Float[Tensor, "R K D"]
    """Means of these clusters."""
    inertia: Float[Tensor, " R"]
    """Inertia with respect to the previous centres."""


@dataclass
class _Problem:
    """u unlabelled rows, l labelled rows with their labels, and K."""

    free: Float[Tensor, "u D"]
    known: Float[Tensor, "l D"]
    labels: Int[Tensor, " l"]
    k: int

    def __post_init__(self) -> None:
        self.fixed = self.labels.unique()
        """Clusters that belong to a labelled class."""
        zero = self.free.new_zeros(self.k, self.free.shape[1])
        self.sums = zero.index_add(0, self.labels, self.known)
        self.counts = self.labels.bincount(minlength=self.k).to(zero)
        self.squares = self.free.square().sum(1)

    def run(self, chance: Float[Tensor, "R m"], iterations: int) -> _Run:
        """Run R restarts in parallel until all of them converge."""
        centres = self._starts(chance)
        r = len(centres)
        u = len(self.free)
        active = torch.ones(r, dtype=torch.bool, device=centres.device)
        best = _Run(
            torch.full((r, u), -1, device=centres.device),
            centres.clone(),
            centres.new_full((r,), float("inf")),
        )
        for _ in range(iterations):
            rows = active.nonzero()[:, 0]
            if len(rows) == 0:
                break
            now = centres[rows]
            distance, labels = self._distances(now).min(2)  # (u, r)
            pairs = zip(labels.T, distance.T, strict=True)
            moved = torch.stack([self._means(*pair) for pair in pairs])
            inertia = distance.sum(0) + self._inertia_of_known(now)
            better = inertia < best.inertia[rows]
            for kept, new in zip(best, (labels.T, moved, inertia), strict=True):
                kept[rows[better]] = new[better]
            centres[rows] = moved
            active[rows] = (moved - now).norm(dim=2).sum(1).square() >= TOLERANCE
        return best

    def _starts(self, chance: Float[Tensor, "R m"]) -> Float[Tensor, "R K D"]:
        """Initial centres: means of the labelled classes, k-means++ for the other clusters."""
        means = self.sums / self.counts.clamp_min(1)[:, None]
        centres = means.repeat(len(chance), 1, 1)
        distance = torch.ones(len(self.free), len(chance), device=self.free.device)
        if len(self.fixed):
            distance = self._distances(means[self.fixed][None]).amin(2).expand_as(distance)
        others = [c for c in range(self.k) if not bool((self.fixed == c).any())]
        for j, c in enumerate(others):
            picked = self.free[_draw_rows(distance.T, chance[:, j])]  # (R, D)
            centres[:, c] = picked
            new = self._distances(picked[:, None])[:, :, 0]
            distance = new if j == 0 and not len(self.fixed) else distance.minimum(new)
        return centres

    def _distances(self, centres: Float[Tensor, "R K D"]) -> Float[Tensor, "u R K"]:
        """Squared distances, by one matrix product."""
        flat = centres.flatten(0, 1)
        products = torch.addmm(flat.square().sum(1)[None], self.free, flat.T, alpha=-2)
        squared = (products + self.squares[:, None]).clamp_min(0)
        table: Tensor = squared.unflatten(1, centres.shape[:2])
        return table

    def _inertia_of_known(self, centres: Float[Tensor, "R K D"]) -> Float[Tensor, " R"]:
        """Sum of |x - mu|^2 over the labelled rows, from their sums and counts."""
        squares = torch.einsum("k,rkd->r", self.counts, centres.square())
        products = torch.einsum("kd,rkd->r", self.sums, centres)
        return (self.known.square().sum() - 2 * products + squares).clamp_min(0)

    def _means(
        self, labels: Int[Tensor, " u"], distance: Float[Tensor, " u"]
    ) -> Float[Tensor, "K D"]:
        """Centres of one restart; empty clusters move to the rows farthest from their centre."""
        sums = self.sums.index_add(0, labels, self.free)
        counts = self.counts + labels.bincount(minlength=self.k)
        means = sums / counts.clamp_min(1)[:, None]
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):
            means[empty] = self.free[distance.topk(len(empty)).indices]
        return means


def _draw_rows(weights: Float[Tensor, "R u"], chance: Float[Tensor, " R"]) -> Int[Tensor, " R"]:
    """Draw a row for each restart with probabilities proportional to the weights."""
    total = weights.double().clamp_min(1e-12).cumsum(1)
    row: Tensor = torch.searchsorted(total, chance[:, None] * total[:, -1:], right=True)[:, 0]
    return row.clamp_max(weights.shape[1] - 1)


def check_clusters(clusters: int, images: int) -> None:
    """Refuse more clusters than images.

    Raises:
        RequestError: there are more.
    """
    if clusters > images:
        raise RequestError(
            f"{plural(clusters, 'class')} cannot be found in {plural(images, 'image')}; ask "
            "for fewer (--unknown)"
        )
