"""Opinions of the other images on each label: cross-fitted, so that no label confirms itself."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    import anyclass.classifier.record


class Opinions(NamedTuple):
    """What the other images say of each labelled image; N images."""

    classes: Int[np.ndarray, " N"]
    """Most probable class, -1 without a label."""
    scores: Float[np.ndarray, " N"]
    """Its probability, NaN without a label."""
    quality: Float[np.ndarray, " N"]
    """Probability of the label, NaN without one."""
    suspicious: Int[np.ndarray, " S"]
    """Indices of the labels that the other images contradict, the least probable first."""

    def probabilities(self, classes: int) -> Float[np.ndarray, "N C"]:
        """Probability of the most probable class, 0 for the others: for scores by argmax."""
        table = np.zeros((len(self.classes), classes), np.float32)
        rows = np.flatnonzero(self.classes >= 0)
        table[rows, self.classes[rows]] = self.scores[rows]
        return table


def opinions_of(record: "anyclass.classifier.record.FitRecord") -> Opinions | None:
    """Opinions in the record of a fit; None if the method gives none."""
    if not len(record.opinions):
        return None
    quality = np.array(record.label_quality, np.float64)
    suspicious = np.array(record.suspicious, np.int64)
    return Opinions(
        classes=np.array(record.opinions, np.int64),
        scores=np.array(record.opinion_scores, np.float64),
        quality=quality,
        suspicious=suspicious[np.argsort(quality[suspicious], kind="stable")],
    )
