"""Ward's clustering (1963) of images, some of which have labels: the partitions for all K at once.

Letters: n images, R features, K clusters, M groups to begin with.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anyclass.estimators.kmeans import class_means, semi_supervised_kmeans

GROUPS = 1000
"""Minimum number of groups that the clustering starts from, if there are so many images."""
GROUPS_PER_CLASS = 4
"""Minimum number of groups per class that the clustering starts from."""


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


def partitions(
    hierarchy: Hierarchy, numbers: Sequence[int]
) -> Iterator[tuple[int, Int[Tensor, " n"]]]:
    """Yield each number of clusters that the hierarchy has, with the cluster of each image."""
    for k in numbers:
        if hierarchy.size - len(hierarchy.merges) <= k <= hierarchy.size:
            yield k, hierarchy.partition(k)[hierarchy.groups]


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
    cost = _merge_costs(mu, n, fixed)
    # the cheapest partner of each group, and the cost of that merge
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
        total = n[a] + n[b]  # a becomes the union
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
        # groups whose cheapest partner was a or b, or is the union now, look for it again
        stale = ((partner == a) | (partner == b) | (row < least)) & alive
        stale[a] = True
        changed = stale.nonzero()[0]
        partner[changed] = cost[changed].argmin(1)
        least[changed] = cost[changed, partner[changed]]
        least[b] = np.inf


def _merge_costs(
    mu: Float[np.ndarray, "M R"], n: Float[np.ndarray, " M"], fixed: Bool[np.ndarray, " M"]
) -> Float[np.ndarray, "M M"]:
    """Cost of each merge; infinite for two fixed groups, and of a group with itself."""
    squares = np.square(mu).sum(1)
    cost: np.ndarray = np.maximum(squares[:, None] + squares - 2 * mu @ mu.T, 0)
    cost *= n[:, None] * n / (n[:, None] + n)
    cost[np.ix_(fixed, fixed)] = np.inf
    np.fill_diagonal(cost, np.inf)
    return cost
