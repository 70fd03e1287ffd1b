"""Active learning: which images to label next.

    useful(i) = (1 - margin(i)) density(i)      density-weighted uncertainty

`density` is the mean cosine similarity of image i to its nearest images: it leaves out outliers,
whose label says little of other images. The most useful images are often much alike, so k-means
weighted by `useful` divides them, and one of each cluster is taken (Settles and Craven, EMNLP 2008;
Zhdanov, arXiv 1901.05954). Letters: N images, D dimensions, M of them chosen.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

NEIGHBOURS = 10
"""Nearest images that the density is a mean over."""
REFERENCES = 4096
"""Maximum number of images that neighbours are looked for among; of more images a random sample."""
SHORTLIST = 50
"""Images per chosen one that are divided into clusters, the most useful ones."""
BLOCK = 1024
"""Images whose similarities are in memory at a time."""


def most_useful(
    x: Float[np.ndarray, "N D"],
    margin: Float[np.ndarray, " N"],
    candidates: Bool[np.ndarray, " N"],
    count: int,
    seed: int = 0,
) -> Int[np.ndarray, " M"]:
    """Images whose label would teach most, the most useful first: M <= count.

    Args:
        x: unit features of all images.
        margin: probability of the first class minus that of the second, 0 to 1.
        candidates: images that may be chosen: those without a label.
        count: how many to choose.
        seed: random seed of the clusters, and of the sample that densities refer to.
    """
    rows = np.flatnonzero(candidates)
    if not len(rows) or count < 1:
        return rows[:0]
    useful = (1 - margin[rows]) * density(x, rows, seed)
    short = np.argsort(-useful, kind="stable")[: SHORTLIST * count]
    cluster = _clusters(x[rows[short]], useful[short], min(count, len(short)), seed)
    _, first = np.unique(cluster, return_index=True)  # `short` is sorted: the most useful one
    chosen: Int[np.ndarray, " M"] = rows[short[np.sort(first)]]
    return chosen


def density(
    x: Float[np.ndarray, "N D"], rows: Int[np.ndarray, " n"], seed: int = 0
) -> Float[np.ndarray, " n"]:
    """Mean cosine similarity of some rows to their nearest other rows, at least 0."""
    draw = np.random.default_rng(seed)
    among = np.arange(len(x))
    if len(x) > REFERENCES:
        among = np.sort(draw.choice(len(x), REFERENCES, replace=False))
    nearest = min(NEIGHBOURS, len(among) - 1)
    if not nearest:
        return np.ones(len(rows))
    found = []
    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK]
        similarity = x[some] @ x[among].T
        similarity[some[:, None] == among[None]] = -1  # not to itself
        found.append(np.partition(similarity, -nearest, axis=1)[:, -nearest:].mean(1))
    nearby: Float[np.ndarray, " n"] = np.maximum(np.concatenate(found), 0)
    return nearby


def _clusters(
    x: Float[np.ndarray, "n D"], weight: Float[np.ndarray, " n"], count: int, seed: int
) -> Int[np.ndarray, " n"]:
    """Cluster of each row by weighted k-means."""
    from sklearn.cluster import KMeans

    if count == len(x):
        return np.arange(count)
    weight = np.maximum(weight, 1e-6)  # k-means++ needs some weight
    distinct = len(np.unique(x, axis=0))
    clusters = KMeans(min(count, distinct), n_init=1, random_state=seed)
    labels: Int[np.ndarray, " n"] = clusters.fit_predict(x, sample_weight=weight)
    return labels
