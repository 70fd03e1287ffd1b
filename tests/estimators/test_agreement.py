"""Agreement as the mean score: the temperature is found again, and its limits."""

import numpy as np
import pytest

from anyclass.estimators.agreement import (
    RANGE,
    mean_agreement,
    mean_score,
    temperature_of_mean,
)
from anyclass.estimators.class_quality import ClassQuality


def quality(agreement: float) -> ClassQuality:
    return ClassQuality(agreement, 0.0, None, 0.0, None)


def test_mean_agreement__over_images_of_judged_classes() -> None:
    qualities = [quality(0.9), None, quality(0.3)]
    predicted = np.array([0, 0, 2, 1])
    assert mean_agreement(qualities, predicted) == pytest.approx((0.9 + 0.9 + 0.3) / 3)
    assert mean_agreement(qualities, np.array([1, 1])) is None


def test_mean_score__is_that_of_a_softmax() -> None:
    log_p = np.random.default_rng(0).normal(size=(7, 4))
    rows = np.exp(log_p / 2.5)
    expected = (rows / rows.sum(1, keepdims=True)).max(1).mean()
    assert mean_score(log_p, 2.5) == pytest.approx(expected)


@pytest.mark.parametrize("t", [0.05, 1.0, 40.0])
def test_temperature_of_mean__is_found_again(t: float) -> None:
    log_p = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    assert temperature_of_mean(log_p, mean_score(log_p, t)) == pytest.approx(t, rel=1e-4)


def test_temperature_of_mean__out_of_reach() -> None:
    log_p = np.array([[0.0, -1.0], [-1.0, 0.0]])
    assert temperature_of_mean(log_p, 0.5) == RANGE[1]
    assert temperature_of_mean(log_p, 1.0) == RANGE[0]
    one_class = np.zeros((3, 1))
    assert temperature_of_mean(one_class, 0.8) == RANGE[1]
