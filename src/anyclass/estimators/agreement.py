"""Scores of discovered classes that are as sure as clusterings agree, where no label can say more.

    a = mean over images of T_kk, k the class of the image     agreement, see `class_quality.py`
    T : mean over images of max_k p_k^(1/T) / sum_k p_k^(1/T) = a

Of two classifiers that were trained alike on different images, the share of new images on which
they agree is close to the share on which each is right (Jiang et al., ICLR 2022, arXiv 2106.13799).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from anyclass.estimators.class_quality import ClassQuality

RANGE = (1e-3, 1e3)
"""T is between these."""


def mean_agreement(
    qualities: Sequence[ClassQuality | None], predicted: Int[np.ndarray, " n"]
) -> float | None:
    """a of some images; None if none is of a class that was judged.

    Args:
        qualities: of each class; None where it has too few images.
        predicted: class of each image.
    """
    agreement = np.array([np.nan if q is None else q.agreement for q in qualities])[predicted]
    if np.isnan(agreement).all():
        return None
    return float(np.nanmean(agreement))


def temperature_of_mean(log_p: Float[np.ndarray, "n K"], mean: float) -> float:
    """T at which the mean of the largest probabilities is `mean`, or the nearest that there is.

    Args:
        log_p: log-probabilities of each image, up to a constant for each.
        mean: the mean to reach, above 1 / K.
    """
    from scipy.optimize import brentq

    def excess(log_t: float) -> float:
        return mean_score(log_p, float(np.exp(log_t))) - mean

    low, high = np.log(RANGE)
    if excess(high) >= 0:
        return RANGE[1]
    if excess(low) <= 0:
        return RANGE[0]
    return float(np.exp(brentq(excess, low, high)))


def mean_score(log_p: Float[np.ndarray, "n K"], t: float) -> float:
    """Mean of the largest of the probabilities p^(1/T) / sum p^(1/T)."""
    best = log_p.max(1, keepdims=True).astype(np.float64)
    return float((1 / np.exp((log_p - best) / t).sum(1)).mean())
