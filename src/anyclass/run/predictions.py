"""Predictions of all images of a run: probabilities of the classifier and of zero-shot.

Letters: N images, C classes, M images whose features are kept, E columns of a feature.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from anyclass.run.columns import UNUSUAL

Probabilities = Float[np.ndarray, "N C"]
"""Probabilities of N images."""

LogProbabilities = Float[np.ndarray, "N C"]
"""Log-probabilities of N images."""


class AllPredictions(NamedTuple):
    """Predictions of the same N images by several classifiers.

    Log-probabilities are stored: where one class leads by far, the probabilities of all others are
    0 and the best of them could not be told.
    """

    log_zero_shot: LogProbabilities
    """Zero-shot with the template of the classifier; -inf for a class without a name."""
    log_zero_shot_ensemble: LogProbabilities | None
    """Zero-shot with OpenAI's 80 templates; None if not requested."""
    log_adapted: LogProbabilities
    """The classifier."""
    familiarity: Float[np.ndarray, " N"] | None = None
    """Share of the training images that are at least as unusual; None if not known."""
    sample: Float[np.ndarray, "M E"] | None = None
    """Features of the images that `predict_all` was asked for; None if it was not."""

    def probabilities(self) -> Probabilities:
        """Compute the probabilities by the classifier: a new array of N x C."""
        found: Probabilities = np.exp(self.log_adapted)
        return found

    def confidence(self) -> Float[np.ndarray, " N"]:
        """Compute the score of each image that `--min-score` is compared with."""
        return confidence(np.exp(self.log_adapted.max(1)), self.familiarity)

    def of(self, rows: Bool[np.ndarray, " N"]) -> "AllPredictions":
        """Select the rows of some images."""
        ensemble = self.log_zero_shot_ensemble
        if ensemble is not None:
            ensemble = ensemble[rows]
        familiarity = self.familiarity
        if familiarity is not None:
            familiarity = familiarity[rows]
        return AllPredictions(
            self.log_zero_shot[rows], ensemble, self.log_adapted[rows], familiarity
        )


def log_of(probabilities: Probabilities) -> LogProbabilities:
    """Logarithms; -inf of 0."""
    with np.errstate(divide="ignore"):
        logs: LogProbabilities = np.log(probabilities)
    return logs


def confidence(
    probability: Float[np.ndarray, " N"], familiarity: Float[np.ndarray, " N"] | None
) -> Float[np.ndarray, " N"]:
    """Probability times min(1, familiarity / UNUSUAL); the probability if that is not known."""
    if familiarity is None:
        return probability
    return probability * np.minimum(1.0, familiarity / UNUSUAL)
