"""The labels that a run is scored on, image by image: none that was trained on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from anyclass.data.label_tables import GIVEN
from anyclass.files import Json
from anyclass.run.columns import CROSS_FITTED, TRAINING

Z = 1.959964
"""Quantile of the normal distribution for intervals of 95 %."""

Interval = tuple[float, float]


class Scored(NamedTuple):
    """S images whose label was not used for their prediction."""

    files: list[str]
    """File names."""
    true: list[str]
    """Labels of the user."""
    predicted: list[str]
    """Predictions; of a label that was trained on, the cross-fitted one."""
    score: Float[np.ndarray, " S"]
    """Probabilities of the predictions."""
    zero_shot: list[str | None]
    """Zero-shot predictions."""

    @property
    def right(self) -> Bool[np.ndarray, " S"]:
        """Whether each prediction is the label."""
        return _equal(self.true, self.predicted)

    @property
    def right_before(self) -> Bool[np.ndarray, " S"]:
        """Whether each zero-shot prediction is the label."""
        return _equal(self.true, self.zero_shot)


def _equal(true: Sequence[str], other: Sequence[str | None]) -> Bool[np.ndarray, " S"]:
    """Where two lists of names agree."""
    return np.array([a == b for a, b in zip(true, other, strict=True)], bool)


def scored_labels(table: pa.Table, metrics: Json) -> Scored:
    """The labels that the metrics of a run were computed on; none for training scores.

    Args:
        table: all rows of `predictions.parquet`.
        metrics: the content of `metrics.json`.
    """
    kind = metrics.get("scored_on")
    cross = kind == CROSS_FITTED and "opinion" in table.column_names
    label = "opinion" if cross else "label"
    score = "opinion_score" if cross else "score"
    known = pc.field("true_label").is_valid() & pc.field(label).is_valid()
    rows = table.filter(known & (pc.field("status") == (GIVEN if cross else "ok")))
    if kind == TRAINING:
        rows = rows.slice(0, 0)
    return Scored(
        rows["file_name"].to_pylist(),
        rows["true_label"].to_pylist(),
        rows[label].to_pylist(),
        np.array(rows[score].to_pylist(), np.float64),
        rows["zero_shot_label"].to_pylist(),
    )


def wilson(share: float, n: int) -> Interval:
    """Interval of 95 % of a share of n (Wilson 1927).

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    """
    middle = share + Z**2 / (2 * n)
    half = Z * float(np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)))
    return (middle - half) / (1 + Z**2 / n), (middle + half) / (1 + Z**2 / n)


def paired_difference(before: Bool[np.ndarray, " S"], after: Bool[np.ndarray, " S"]) -> Interval:
    """Interval of 95 % of the difference of two accuracies on the same S images.

    Adjusted Wald interval of Agresti and Min (2005): with half an image more in each of the four
    cells, b the images that only `after` has right and c those that only `before` has,
    d = (b - c) / n, d -+ z sqrt(b + c - n d^2) / n.
    """
    n = len(after) + 2
    b = int((after & ~before).sum()) + 0.5
    c = int((before & ~after).sum()) + 0.5
    d = (b - c) / n
    half = Z * float(np.sqrt(b + c - n * d**2)) / n
    return d - half, d + half
