"""Calibration: whether scores are frequencies, on labels that were not trained on."""

import numpy as np

from anyclass.files import Json
from anyclass.report.scored import Scored
from anyclass.run.sentences import CALIBRATED, FEWEST

BINS = 15
"""Intervals of the score."""

ENOUGH = 100
"""Minimum number of labels for an expected accuracy."""


def calibration(scored: Scored) -> Json | None:
    """Reliability diagram: per interval of the score, images, mean score and accuracy.

    `error` is the expected calibration error, the mean distance of score and accuracy
    (Guo et al. 2017, arXiv 1706.04599). None for fewer than `FEWEST` labels.
    """
    n = len(scored.files)
    if n < FEWEST:
        return None
    interval = np.clip(np.ceil(scored.score * BINS).astype(int) - 1, 0, BINS - 1)
    bins: list[Json] = []
    for b in range(BINS):
        rows = interval == b
        count = int(rows.sum())
        bins.append(
            {
                "count": count,
                "share": count / n,
                "score": float(scored.score[rows].mean()) if count else None,
                "accuracy": float(scored.right[rows].mean()) if count else None,
            }
        )
    gaps = [abs(row["score"] - row["accuracy"]) * row["share"] for row in bins if row["count"]]
    bias = float(scored.score.mean() - scored.right.mean())
    most = max(row["count"] for row in bins)
    return {"n": n, "bins": bins, "error": sum(gaps), "bias": bias, "most": most}


def expected(found: Json | None, mean_score: float | None, unlabelled: int) -> Json | None:
    """Expected accuracy on the images without a label; None unless the scores are calibrated.

    Args:
        found: the result of `calibration`.
        mean_score: mean score of the images without a label.
        unlabelled: number of these images.
    """
    if found is None or mean_score is None or not unlabelled:
        return None
    if found["n"] < ENOUGH or found["error"] > CALIBRATED:
        return None
    return {"accuracy": mean_score, "images": unlabelled, "error": found["error"], "classes": None}


def expected_of_discovery(found: Json | None) -> Json | None:
    """Expected accuracy with discovered classes, from what `metrics.json` says (`expected`).

    It rests on labelled classes that were treated as unknown, else (`classes` is None) on the
    agreement of clusterings.
    """
    if not found or found.get("accuracy") is None:
        return None
    return {
        "accuracy": found["accuracy"],
        "images": found["unlabelled"],
        "error": found.get("calibration_error"),
        "classes": found.get("classes"),
    }
