"""Cross-validation of labelled rows, to choose the settings of baselines without test labels.

Letters: k labelled rows.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from feature_sets import Task
from jaxtyping import Bool, Int

FOLDS = 3
"""Folds of cross-validation; at most the rows of a class."""


class Split(NamedTuple):
    """Labelled rows without and with their labels, to choose a setting by."""

    kept: Bool[np.ndarray, " k"]
    """Mask of the rows to fit on."""
    held: Bool[np.ndarray, " k"]
    """Mask of the rows to score on."""
    columns: Int[np.ndarray, " M"]
    """Candidate classes."""
    y: Int[np.ndarray, " k"]
    """Labels."""

    def score(self, guess: np.ndarray) -> float:
        """Accuracy of positions in `columns`; H where some classes have no row to fit on."""
        right = self.columns[guess] == self.y[self.held]
        fitted = np.isin(self.y[self.held], self.y[self.kept])
        shares = [float(right[mask].mean()) for mask in (fitted, ~fitted) if mask.any()]
        return len(shares) / sum(1 / max(share, 1e-9) for share in shares)


def splits(task: Task, y: Int[np.ndarray, " k"]) -> list[Split]:
    """Folds of the labelled rows; none with one row per class.

    With named classes, half of the labelled ones play them: all of their rows are held out.
    """
    if np.bincount(y).max() < 2:
        return []
    columns = np.unique(y)
    folds = list(folds_of(y, task.seed))
    if not task.named:
        return [Split(~fold, fold, columns, y) for fold in folds]
    second = y >= np.median(columns)
    halves = [(folds[0], second), (folds[-1], ~second)]
    return [Split(~(fold | played), fold | played, columns, y) for fold, played in halves]


def folds_of(
    y: Int[np.ndarray, " k"], seed: int, most: int = FOLDS
) -> Iterator[Bool[np.ndarray, " k"]]:
    """Masks of held-out rows; a class with a single row is never held out."""
    counts = np.bincount(y)
    folds = min(most, int(np.median(counts[counts > 0])))
    place = np.full(len(y), -1)
    order = np.random.default_rng(seed).permutation(len(y))
    for c in np.flatnonzero(counts > 1):
        rows = order[y[order] == c]
        place[rows] = np.arange(len(rows)) % max(2, folds)
    for fold in range(folds):
        yield place == fold
