"""Baselines on arrays of features where some classes are unknown.

Each is a function from a `Task` to classes of the test images (n,), or to probabilities (n, K).
Known classes come first, then clusters. Where a method needs to know how many images are of unknown
classes, it gets the share of unknown classes.

Letters: N training images, n test images, C known classes, K classes in all, D dimensions.
"""

from functools import partial

import numpy as np
import torch
from feature_baselines import (
    Method,
    logistic_regression,
    rows_of,
    ship_plus,
    silent,
    softmax,
    texts,
)
from feature_sets import Task, unit
from gaussian_em import gaussians, log_frequencies
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from anyclass.estimators.kmeans import kmeans, nearest_centre, semi_supervised_kmeans
from anyclass.estimators.linear import Linear
from anyclass.estimators.num_classes import count_classes
from anyclass.estimators.whitening import WhitenedPCA, fit_whitened_pca

Labels = Int[np.ndarray, " n"]

RESTARTS = 20
"""Restarts of k-means."""

FARTHEST = 0.85
"""Share of the negative texts kept, those least like the known names (NegLabel's mining)."""


def plain_kmeans(task: Task, space: str = "x") -> Labels:
    """k-means of all training rows, without labels."""
    train, test = (torch.from_numpy(rows) for rows in rows_of(task, space))
    found = kmeans(train, task.data.classes, RESTARTS, task.seed)
    return nearest_centre(test, found.centres).numpy()


def labelled_kmeans(task: Task, space: str = "x") -> Labels:
    """Semi-supervised k-means of GCD."""
    train, test = (torch.from_numpy(rows) for rows in rows_of(task, space))
    y = torch.from_numpy(task.y)
    found = semi_supervised_kmeans(train, y, task.data.classes, RESTARTS, seed=task.seed)
    return nearest_centre(test, found.centres).numpy()


def get_plus(task: Task, k: int | None = None) -> Float[np.ndarray, "n K"]:
    """0.1's `get-plus`: whitening, semi-supervised k-means, then EM, with the true K or `k`.

    Without backbone features, x takes their place as well.
    """
    k = k or task.data.classes
    train, test = (torch.from_numpy(rows) for rows in _stacked(task))
    y = torch.from_numpy(task.y)
    width = task.data.train_x.shape[1]
    x = fit_whitened_pca(train[:, :width], y, 2 * k, sharpen=0.5)
    h = fit_whitened_pca(train[:, width:-1], y, 2 * k, sharpen=0.5)
    space = WhitenedPCA(*x, *h, share=0.5)
    u = space.transform(train)
    clusters = semi_supervised_kmeans(u, y, k, RESTARTS, seed=task.seed).labels
    return softmax(_em(u, y, clusters, k).logits(space.transform(test)).numpy())


def get_plus_auto(task: Task) -> Float[np.ndarray, "n K"]:
    """0.1's estimate of the number of classes, then `get-plus`."""
    train = torch.from_numpy(_stacked(task)[0])
    y = torch.from_numpy(task.y)
    width = task.data.train_x.shape[1]
    h = train[:, width:-1]
    count = count_classes(train[:, :width], y, silent, extra=h, seed=task.seed)
    return get_plus(task, max(count.classes, task.known + 1))


def rejected_kmeans(task: Task, rule: str, space: str = "x") -> Labels:
    """Zero-shot over the known names, and k-means of the rows that `rule` rejects.

    Args:
        task: what is known.
        rule: `negatives` rejects where the negative texts are likelier than the names (NegLabel,
            arXiv 2403.20078, one group), `negatives, share` rejects as large a share as there are
            unknown classes, by the same score; `confidence` the same by the largest softmax.
        space: features of k-means.
    """
    train = task.data.train_x
    test = task.data.test_x
    score = confidence if rule == "confidence" else neg_label
    certain = score(task, train)
    share = task.unknown / task.data.classes
    threshold = 0.5 if rule == "negatives" else float(np.quantile(certain, share))
    guess = (test @ texts(task).T).argmax(1)
    rejected_test = score(task, test) < threshold
    return _clustered(task, certain < threshold, rejected_test, guess, space)


def ship_plus_kmeans(task: Task) -> Labels:
    """0.1's `ship-plus` on labels and names, then k-means of the rows of low confidence."""
    p = ship_plus(task)
    p_train = ship_plus(task.on_training_rows())
    certain = p_train.max(1)
    free = np.where(task.y >= 0, np.inf, certain)
    threshold = float(np.quantile(free[task.y < 0], task.unknown / task.data.classes))
    return _clustered(task, free < threshold, p.max(1) < threshold, p.argmax(1))


def get_plus_named(task: Task) -> Labels:
    """0.1's `get-plus`, then names for its clusters by the Hungarian method on text similarity."""
    from scipy.optimize import linear_sum_assignment

    train_p = get_plus(task.on_training_rows())
    p = get_plus(task)
    clusters = np.arange(task.labelled, p.shape[1])
    means = (train_p / train_p.sum(0).clip(1e-9)).T @ task.data.train_x
    similar = texts(task)[task.labelled :] @ unit(means[clusters] + 1e-9).T
    named, chosen = linear_sum_assignment(similar, maximize=True)
    number = np.arange(p.shape[1])
    number[clusters[chosen]] = task.labelled + named
    rest = np.setdiff1d(clusters, clusters[chosen])
    number[rest] = task.known + np.arange(len(rest))
    renamed: Labels = number[p.argmax(1)]
    return renamed


def confidence(task: Task, x: Float[np.ndarray, "n D"]) -> Float[np.ndarray, " n"]:
    """Largest softmax over the known names."""
    return np.asarray(softmax(task.data.scale * x @ texts(task).T).max(1))


def neg_label(task: Task, x: Float[np.ndarray, "n D"]) -> Float[np.ndarray, " n"]:
    """NegLabel's score: the share of the known names in the softmax over names and negatives."""
    negatives = task.data.negatives
    if negatives is None:
        raise ValueError(f"{task.data.name} has no negative texts")
    t = texts(task)
    nearness = (negatives @ t.T).max(1)
    kept = negatives[nearness <= np.quantile(nearness, FARTHEST)]
    p = softmax(task.data.scale * x @ np.concatenate([t, kept]).T)
    return np.asarray(p[:, : len(t)].sum(1))


def max_softmax(task: Task, scale: float | None = None) -> Float[np.ndarray, " n"]:
    """Minus the largest softmax over the names; MCM (arXiv 2211.13445) has a scale of 1."""
    scale = scale or task.data.scale
    return np.asarray(-softmax(scale * task.data.test_x @ texts(task).T).max(1))


def negatives_score(task: Task) -> Float[np.ndarray, " n"]:
    """Minus NegLabel's score."""
    return -neg_label(task, task.data.test_x)


def regression_score(task: Task) -> Float[np.ndarray, " n"]:
    """Minus the largest probability of logistic regression on the labels."""
    return np.asarray(-logistic_regression(task).max(1))


def neighbour_distance(task: Task, k: int = 5, space: str = "x") -> Float[np.ndarray, " n"]:
    """Minus the cosine with the k-th nearest training row (Sun et al., arXiv 2204.06507)."""
    train, test = rows_of(task, space)
    cosines = test @ train.T
    return -np.partition(cosines, -k, axis=1)[:, -k]


OUTLIERS = {
    "zero-shot, max softmax": Method(max_softmax, "text"),
    "MCM": Method(partial(max_softmax, scale=1.0), "text"),
    "NegLabel": Method(negatives_score, "text negatives"),
    "logistic regression, max softmax": Method(regression_score, "no-text"),
    "5th nearest neighbour": Method(neighbour_distance),
}
"""Scores of none of the known classes."""

CLUSTERING = {
    "k-means": Method(plain_kmeans),
    "k-means, h": Method(partial(plain_kmeans, space="h"), "h"),
    "semi-supervised k-means": Method(labelled_kmeans),
    "semi-supervised k-means, h": Method(partial(labelled_kmeans, space="h"), "h"),
    "get-plus (0.1)": Method(get_plus),
}
"""Baselines of labels for half of the classes and unknown others."""

COUNTING = {"estimate and get-plus (0.1)": Method(get_plus_auto)}
"""Baselines where the number of classes is unknown as well."""

NAMED_AND_UNKNOWN = {
    "zero-shot, NegLabel + k-means": Method(
        partial(rejected_kmeans, rule="negatives"), "text negatives"
    ),
    "zero-shot, NegLabel share + k-means": Method(
        partial(rejected_kmeans, rule="negatives, share"), "text negatives"
    ),
    "zero-shot, NegLabel share + k-means, h": Method(
        partial(rejected_kmeans, rule="negatives, share", space="h"), "text h negatives"
    ),
    "zero-shot, max softmax + k-means": Method(partial(rejected_kmeans, rule="confidence"), "text"),
    "k-means": Method(plain_kmeans),
}
"""Baselines of names for half of the classes, no label, and unknown others."""

THIRDS = {
    "ship-plus + k-means (0.1)": Method(ship_plus_kmeans, "text"),
    "get-plus + names (0.1)": Method(get_plus_named, "text"),
}
"""Baselines of a third each labelled, named and unknown."""


def _stacked(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows [x | h | 1]."""
    pairs = zip((task.data.train_x, task.data.test_x), rows_of(task, "h raw"), strict=True)
    train, test = (np.concatenate([x, h, np.ones_like(x[:, :1])], axis=1) for x, h in pairs)
    return train, test


def _em(
    u: Float[Tensor, "N R"], y: Int[Tensor, " N"], clusters: Int[Tensor, " N"], k: int
) -> Linear:
    """EM of Gaussians with a shared covariance from clusters; labelled rows keep their class."""
    mean = u.mean(0)
    h = u - mean
    free = (y < 0)[:, None]
    given = one_hot(y.clamp_min(0), k).to(u)
    z = one_hot(clusters, k).to(u)
    for _ in range(10):
        g = gaussians(h, z, h.T @ h, 0.5)
        bias = g.intercept + log_frequencies(z, free, 5.0, least=1e-6)
        g = Linear(g.weights, bias)
        z = torch.where(free, g.logits(h).softmax(1), given)
    return g.uncentred(mean)


def _clustered(
    task: Task,
    rejected: Bool[np.ndarray, " N"],
    rejected_test: Bool[np.ndarray, " n"],
    guess: Labels,
    space: str = "x",
) -> Labels:
    """`guess`, or for rejected test rows the nearest cluster of the rejected training rows."""
    k = min(task.unknown, int(rejected.sum()))
    if k == 0 or not rejected_test.any():
        return guess
    train, test = (torch.from_numpy(rows) for rows in rows_of(task, space))
    found = kmeans(train[torch.from_numpy(rejected)], k, RESTARTS, task.seed)
    cluster = task.known + nearest_centre(test, found.centres).numpy()
    return np.where(rejected_test, cluster, guess)
