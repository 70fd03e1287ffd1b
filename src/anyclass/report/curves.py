"""Training curves of a run, and the metrics of its method that are no curve."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anyclass.files import Json
from anyclass.report.words import SHARES, metric
from anyclass.run.content import lines
from anyclass.run.progress import STAGES

LARGEST = 1e30
"""Numbers in the log that are larger are not drawn."""

BARS = 48
"""Maximum number of bars of a curve."""

COUNTERS = ("step", "epoch", "done", "total", "failed")
"""Keys of the log that only count."""


def curves_of(path: Path) -> list[Json]:
    """Each number that was logged at least twice: name, first, last, bars from 0 to 1.

    Raises:
        FileError: a line of the log is damaged.
    """
    series: dict[tuple[str, str], list[float]] = {}
    for line in lines(path):
        stage = str(line.get("stage", "fit"))
        for key, value in line.items():
            number = isinstance(value, int | float) and abs(value) < LARGEST
            if number and key not in COUNTERS:
                series.setdefault((stage, key), []).append(value)
    return [
        {"name": _curve_name(*name), "first": values[0], "last": values[-1], "bars": _bars(values)}
        for name, values in series.items()
        if len(values) > 1
    ]


def method_metrics(metrics: Json, curves: Sequence[Json]) -> list[tuple[str, bool, int | float]]:
    """Metrics of the method that are no curve: words, whether it is a share, and value."""
    drawn = {curve["name"] for curve in curves}
    return [
        (metric(key), key in SHARES, value)
        for key, value in metrics.items()
        if metric(key) not in drawn
    ]


def _curve_name(stage: str, key: str) -> str:
    """Name of a curve; the stage is left out where it is training."""
    words = metric(key)
    of_training = stage == "fit" or stage not in STAGES
    return words if of_training else f"{words}, {STAGES[stage]}"


def _bars(values: Sequence[float]) -> list[float]:
    """Means of at most `BARS` sections of a curve, scaled to 0 ... 1."""
    means = np.array([part.mean() for part in np.array_split(values, min(BARS, len(values)))])
    scaled: list[float] = ((means - means.min()) / (np.ptp(means) or 1)).tolist()
    return scaled
