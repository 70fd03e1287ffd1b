"""Scores of discovered classes where the method has no calibration of its own."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool

from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import fitted_head, with_temperature
from anyclass.estimators.agreement import mean_agreement, temperature_of_mean
from anyclass.estimators.class_quality import ClassQuality
from anyclass.run.predictions import AllPredictions


def calibrated(
    classifier: Classifier,
    predictions: AllPredictions,
    qualities: Sequence[ClassQuality | None],
    trained_on: Bool[np.ndarray, " N"],
) -> tuple[Classifier, AllPredictions]:
    """Set the temperature at which the mean score of unlabelled images is their mean agreement.

    No prediction changes. Nothing is done where the method has calibrated its scores, or was given
    a temperature.

    Args:
        classifier: a classifier with discovered classes.
        predictions: its predictions of the N training images.
        qualities: how far each class can be trusted.
        trained_on: whether the label of each image was trained on.
    """
    unlabelled = ~trained_on
    if classifier.record.expected or classifier.fields.get("temperature") or not unlabelled.any():
        return classifier, predictions
    log_p = predictions.log_adapted
    agreement = mean_agreement(qualities, log_p[unlabelled].argmax(1))
    if agreement is None:
        return classifier, predictions
    t = temperature_of_mean(log_p[unlabelled], agreement)
    record = replace(classifier.record, expected={"accuracy": agreement, "temperature": t})
    head = with_temperature(fitted_head(classifier.head), t)
    log_p = (torch.from_numpy(log_p) / t).log_softmax(1).numpy()
    return (
        replace(classifier, head=head, record=record),
        predictions._replace(log_adapted=log_p),
    )
