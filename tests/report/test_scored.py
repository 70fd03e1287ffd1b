"""Intervals, gains and calibration, beside slow counts and published numbers."""

from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from anyclass.estimators.metrics import expected_calibration_error
from anyclass.report.calibration import calibration, expected
from anyclass.report.scored import Scored, paired_difference, scored_labels, wilson
from anyclass.report.scores import headline


def scored_of(right: np.ndarray, before: np.ndarray, score: np.ndarray | None = None) -> Scored:
    """Images of class a, predicted as a or b."""
    names = np.array(["b", "a"])
    n = len(right)
    scores = np.full(n, 0.5) if score is None else score
    predicted = names[right.astype(int)].tolist()
    return Scored(
        [f"{i}.jpg" for i in range(n)],
        ["a"] * n,
        predicted,
        scores,
        names[before.astype(int)].tolist(),
    )


def test_wilson__published_example() -> None:
    low, high = wilson(15 / 148, 148)  # Newcombe 1998, table I: 15 of 148
    assert (round(low, 4), round(high, 4)) == (0.0624, 0.1605)
    assert wilson(0.0, 20)[0] == pytest.approx(0.0, abs=1e-12)
    assert wilson(1.0, 20)[1] == pytest.approx(1.0)


def test_paired_difference__contains_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    hits = []
    for _ in range(2000):
        before = draw.random(60) < 0.6
        after = np.where(draw.random(60) < 0.3, draw.random(60) < 0.9, before)
        low, high = paired_difference(before, after)
        hits.append(low <= 0.3 * (0.9 - 0.6) <= high)
    assert 0.93 <= np.mean(hits) <= 0.98


def test_paired_difference__of_equal_predictions_includes_nothing_but_0() -> None:
    low, high = paired_difference(np.ones(40, bool), np.ones(40, bool))
    assert low == pytest.approx(-high)
    assert low < 0 < high


def metrics_of(
    before: float, after: float, means: tuple[float, float], n: int
) -> dict[str, object]:
    rows = [
        {"accuracy": a, "mean_per_class": m, "n": n}
        for a, m in zip((before, after), means, strict=True)
    ]
    return {
        "zero_shot": rows[0],
        "adapted": rows[1],
        "scored_on": "labels that were not trained on",
    }


@pytest.mark.parametrize(
    ("gained", "lost", "means", "verdict"),
    [
        (30, 2, (0.5, 0.7), "better"),
        (3, 2, (0.5, 0.52), "open"),  # the interval includes 0
        (30, 2, (0.236, 0.21), "open"),  # more are right, but rare classes lose
        (2, 30, (0.5, 0.4), "worse"),
        (2, 3, (0.5, 0.48), "worse"),  # not clear, but both scores fall
        (2, 3, (0.5, 0.52), "open"),
    ],
)
def test_headline__is_green_only_if_it_is_clear_and_no_class_pays(
    gained: int, lost: int, means: tuple[float, float], verdict: str
) -> None:
    before = np.array([False] * gained + [True] * lost + [True] * 40)
    after = np.array([True] * gained + [False] * lost + [True] * 40)
    n = len(after)
    found = headline(metrics_of(before.mean(), after.mean(), means, n), scored_of(after, before))
    assert found is not None
    gain = found["gain"]
    assert gain["verdict"] == verdict
    assert gain["points"] == pytest.approx((gained - lost) / n)
    assert gain["low"] < gain["points"] < gain["high"]
    assert found["low"] < found["accuracy"] < found["high"]


def test_headline__is_none_for_training_labels() -> None:
    metrics = metrics_of(0.5, 1.0, (0.5, 1.0), 9) | {"scored_on": "training labels"}
    assert headline(metrics, scored_of(np.ones(9, bool), np.ones(9, bool))) is None


def test_calibration__counts_like_a_slow_loop_and_like_the_metric() -> None:
    draw = np.random.default_rng(5)
    score = draw.random(70)
    right = draw.random(70) < score**2
    found = calibration(scored_of(right, right, score))
    assert found is not None
    for b, row in enumerate(found["bins"]):
        inside = [i for i in range(70) if b / 15 < score[i] <= (b + 1) / 15]
        assert row["count"] == len(inside)
        if inside:
            assert row["accuracy"] == pytest.approx(np.mean([right[i] for i in inside]))
            assert row["score"] == pytest.approx(np.mean([score[i] for i in inside]))
    assert sum(row["count"] for row in found["bins"]) == found["n"] == 70
    probabilities = np.stack([score, np.zeros(70)], axis=1)
    labels = np.where(right, 0, 1)
    assert found["error"] == pytest.approx(expected_calibration_error(labels, probabilities))
    assert calibration(scored_of(right[:29], right[:29], score[:29])) is None


@pytest.mark.parametrize(
    ("n", "error", "unlabelled"), list(product((99, 100), (0.05, 0.2), (0, 8)))
)
def test_expected__only_where_scores_are_calibrated(n: int, error: float, unlabelled: int) -> None:
    found = expected({"n": n, "error": error}, 0.8, unlabelled)
    assert (found is not None) == (n == 100 and error == 0.05 and unlabelled == 8)


def test_scored_labels__are_those_that_the_metrics_were_computed_on() -> None:
    columns = {
        "file_name": ["a", "b", "c", "d"],
        "label": ["x", "y", "x", None],
        "score": [1.0, 0.7, 0.6, None],
        "status": ["given", "ok", "ok", "rejected"],
        "true_label": ["x", "x", None, None],
        "zero_shot_label": ["y", "x", "x", None],
        "opinion": ["y", None, None, None],
        "opinion_score": [0.4, None, None, None],
    }
    table = pa.table(columns)
    unseen = scored_labels(table, {"scored_on": "labels that were not trained on"})
    assert (unseen.files, unseen.predicted, unseen.score.tolist()) == (["b"], ["y"], [0.7])
    assert (unseen.right.tolist(), unseen.right_before.tolist()) == ([False], [True])
    cross = scored_labels(table, {"scored_on": "cross-fitted labels"})
    assert (cross.files, cross.predicted, cross.score.tolist()) == (["a"], ["y"], [0.4])
    assert scored_labels(table, {"scored_on": "training labels"}).files == []
