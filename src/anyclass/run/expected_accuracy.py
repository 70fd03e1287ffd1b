"""How far the scores of a run with discovered classes can be trusted."""

import numpy as np
from jaxtyping import Bool

from anyclass.classifier.record import FitRecord
from anyclass.files import Json
from anyclass.run.predictions import AllPredictions


def expected_accuracy(
    record: FitRecord,
    predictions: AllPredictions,
    trained_on: Bool[np.ndarray, " N"],
    metrics: Json,
) -> Json:
    """Expected accuracy beside the mean score, for `metrics.json`.

    Labels exist for classes that were given alone, so that a calibration error on them says nothing
    of discovered classes: it is called `calibration_error_known`, and `calibration_error` is that
    of labelled classes that were treated as unknown.

    Args:
        record: the record of the fit.
        predictions: predictions for the N readable images.
        trained_on: whether the label of each image was trained on.
        metrics: the metrics so far.
    """
    scores = np.exp(predictions.log_adapted.max(1))[~trained_on]
    mean = float(scores.mean()) if len(scores) else None
    expected: Json = {"mean_score": mean, "unlabelled": len(scores)} | dict(record.expected)
    return {
        "expected": expected,
        "calibration_error_known": metrics["calibration_error"],
        "calibration_error": record.expected.get("calibration_error"),
    }
