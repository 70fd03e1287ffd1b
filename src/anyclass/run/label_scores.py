"""Labels that a result is scored on: not those that it was trained on, if that can be helped."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from anyclass.data import ImageDataset
from anyclass.run.columns import CROSS_FITTED, TRAINING, TRAINING_CAVEAT, UNSEEN
from anyclass.run.opinions import Opinions
from anyclass.run.predictions import AllPredictions, log_of


class FairLabels(NamedTuple):
    """What is scored."""

    dataset: ImageDataset
    """The images with the labels that are scored; the other labels are hidden."""
    predictions: AllPredictions
    """Predictions that these labels are compared with."""
    kind: str | None
    """`UNSEEN`, `CROSS_FITTED` or `TRAINING`; None without labels."""
    caveats: list[str]
    """Warnings about the scores."""


def fair_labels(
    dataset: ImageDataset,
    trained_on: Bool[np.ndarray, " N"],
    predictions: AllPredictions,
    opinions: Opinions | None,
) -> FairLabels:
    """Choose the labels to score a result on, and the predictions to compare them with.

    Labels that were not trained on come first. If there is none, each label is compared with the
    opinion of the other images, if the method gives one; otherwise the scores are training scores.

    Args:
        dataset: the images, all readable, with all labels.
        trained_on: whether each label was trained on.
        predictions: predictions for these images.
        opinions: what the other images say of the labels; None if the method does not tell.
    """
    labelled = dataset.labels >= 0
    if not labelled.any():
        return FairLabels(dataset, predictions, None, [])
    if (labelled & ~trained_on).any():
        labels = np.where(trained_on, -1, dataset.labels)
        return FairLabels(replace(dataset, labels=labels), predictions, UNSEEN, [])
    if opinions is None or not (opinions.classes >= 0).any():
        return FairLabels(dataset, predictions, TRAINING, [TRAINING_CAVEAT])
    with_opinion = opinions.classes >= 0
    others = log_of(opinions.probabilities(predictions.log_adapted.shape[1]))
    log_adapted = np.where(with_opinion[:, None], others, predictions.log_adapted)
    dataset = replace(dataset, labels=np.where(with_opinion, dataset.labels, -1))
    return FairLabels(dataset, predictions._replace(log_adapted=log_adapted), CROSS_FITTED, [])
