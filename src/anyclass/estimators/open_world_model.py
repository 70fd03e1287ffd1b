"""Fitted open-world classifier: logits of the classes, and whether an image is of none of them.

    p(c | i) = p(known | i) softmax_c k(i)              labelled and named classes
    p(u | i) = softmax_u G(i)                           unknown classes
    p(known | i) = sigmoid( log odds of the known classes by G(i) + (r(i) - r_0) / 2 )
    o(i)     = -KL( uniform || p ) = mean_c log p_c + log K             outlier score
               - r(i) / 2                                               if all classes are known
    f(i)     = share of the training images with an outlier score of o(i) or more

k: all experts, for known classes; G: the image expert, for all K classes, the only one that has an
opinion of unknown classes. Predictions are p^(1/T). Rows are [x | h | 1], or [x | 1] without
further features h.
"""

from dataclasses import dataclass, field
from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from anyclass.estimators.negative_texts import WEIGHT, NegativeTexts

QUANTILES = 201
"""Number of quantiles that stand for the outlier scores of the training images."""


@dataclass(frozen=True)
class OpenWorldModel:
    """Logits that are linear in rows, with a second level where classes are unknown."""

    weights: Float[Tensor, "K E"]
    """k, if all classes are known, else G; the last column is the bias."""
    known: Float[Tensor, "J E"]
    """k of the C known classes, if others are unknown; J = 0 otherwise."""
    scores: Float[Tensor, " Q"]
    """Quantiles of the outlier scores of the training images, ascending."""
    names: Float[Tensor, "P D"] = field(default_factory=lambda: torch.zeros(0, 0))
    """s t_c, the class names; P = 0 without nouns."""
    nouns: Float[Tensor, "M D"] = field(default_factory=lambda: torch.zeros(0, 0))
    """s n_m, the nouns."""
    cut: Float[Tensor, " O"] = field(default_factory=lambda: torch.zeros(0))
    """r_0; O = 0 unless there are nouns and unknown classes."""
    temperature: Float[Tensor, ""] = field(default_factory=lambda: torch.ones(()))
    """T, 1 unless classes are unknown, see `discovery_calibration.py`."""

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together.

        Raises:
            ValueError: there are nouns without names, or several r_0.
        """
        if bool(len(self.names)) != bool(len(self.nouns)) or len(self.cut) > bool(len(self.names)):
            raise ValueError("names, nouns and cut do not belong together")

    def logits(self, rows: Float[Tensor, "n E"]) -> Float[Tensor, "n K"]:
        """log p / T, up to a constant for each image."""
        return self._log_p(rows) / self.temperature.to(rows)

    def _log_p(self, rows: Float[Tensor, "n E"]) -> Float[Tensor, "n K"]:
        """log p, up to a constant for each image."""
        g = rows @ self.weights.T
        c = len(self.known)
        if not c:
            return g
        k = (rows @ self.known.T).log_softmax(1)
        known = g[:, :c].logsumexp(1, keepdim=True)
        if len(self.cut):
            known = known + WEIGHT * (self._odds(rows) - self.cut)[:, None]
        return torch.cat([known + k, g[:, c:]], dim=1)

    def outlier_score(self, rows: Float[Tensor, "n E"]) -> Float[Tensor, " n"]:
        """o; higher where no class stands out."""
        score = outlier_score(self._log_p(rows))
        if len(self.names) and not len(self.cut):
            score = score - WEIGHT * self._odds(rows)
        return score

    def _odds(self, rows: Float[Tensor, "n E"]) -> Float[Tensor, " n"]:
        """r."""
        x = rows[:, : self.names.shape[1]]
        return NegativeTexts(self.names, self.nouns).odds(x)

    def familiarity(self, rows: Float[Tensor, "n E"]) -> Float[Tensor, " n"]:
        """f, in [0, 1]."""
        below = torch.searchsorted(self.scores, self.outlier_score(rows).contiguous())
        return 1 - below / max(1, len(self.scores))


def outlier_score(logits: Float[Tensor, "n K"]) -> Float[Tensor, " n"]:
    """o, from logits."""
    log_p = logits.log_softmax(1)
    return log_p.mean(1) + log(logits.shape[1])


def quantiles(scores: Float[Tensor, " n"]) -> Float[Tensor, " Q"]:
    """Quantiles of outlier scores."""
    steps = torch.linspace(0, 1, QUANTILES)
    found: Tensor = torch.quantile(scores.double(), steps.double()).float()
    return found
