"""What labels are scored on, what the earlier run had, and the rows of given labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyclass.classifier.record import FitRecord
from anyclass.data import Classes, ImageDataset, Rejection
from anyclass.data.label_tables import KnownLabels
from anyclass.report.confusions import confusion_table
from anyclass.run.columns import CROSS_FITTED, TRAINING, UNSEEN
from anyclass.run.earlier import EarlierRun, compare_rounds
from anyclass.run.label_scores import fair_labels
from anyclass.run.opinions import Opinions, opinions_of
from anyclass.run.predictions import AllPredictions, confidence, log_of
from anyclass.run.scoring import compare, majority, stored_confusion
from anyclass.run.sentences import basis, decision, order_only, rounds
from anyclass.run.tables import (
    compared_rows,
    confidences,
    prediction_row,
    ranked,
    rejected_row,
    suspicious_rows,
)

NAMES = ("hen", "cow", "ant")
LABELS = np.array([0, 1, -1, 2, 1])
ADAPTED = np.array(
    [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.3, 0.6, 0.1]],
    np.float32,
)
TRAINED_ON = LABELS >= 0
NAN = float("nan")
RECORD = FitRecord(
    opinions=[0, 2, -1, 2, 0],
    opinion_scores=[0.6, 0.9, NAN, 0.5, 0.8],
    label_quality=[0.6, 0.05, NAN, 0.5, 0.1],
    suspicious=[4, 1],
)


def dataset(labels: np.ndarray = LABELS) -> ImageDataset:
    classes = Classes.of(NAMES, labelled=NAMES)
    return ImageDataset(Path("/"), tuple(f"{i}.png" for i in range(5)), labels.copy(), classes)


def predictions(familiarity: Any = None) -> AllPredictions:
    return AllPredictions(
        log_of(np.full((5, 3), 1 / 3, np.float32)), None, log_of(ADAPTED), familiarity
    )


def opinions() -> Opinions:
    found = opinions_of(RECORD)
    assert found is not None
    return found


def test_opinions_of__lowest_quality_first() -> None:
    assert opinions().suspicious.tolist() == [1, 4]
    assert opinions_of(FitRecord()) is None


def test_fair_labels__labels_that_were_not_trained_on_come_first() -> None:
    trained_on = TRAINED_ON & (np.arange(5) != 3)
    found = fair_labels(dataset(), trained_on, predictions(), opinions())
    assert found.kind == UNSEEN
    assert found.dataset.labels.tolist() == [-1, -1, -1, 2, -1]
    assert found.predictions.probabilities() == pytest.approx(ADAPTED)


def test_fair_labels__cross_fitted_where_all_were_trained_on() -> None:
    found = fair_labels(dataset(), TRAINED_ON, predictions(), opinions())
    assert (found.kind, found.caveats) == (CROSS_FITTED, [])
    scores = compare(found.dataset.labels, found.predictions, found.dataset.classes)
    assert scores["adapted"]["accuracy"] == 0.5, "opinions 0, 2, 2, 0 of labels 0, 1, 2, 1"
    assert scores["confusion"] == [[1, 0, 0], [1, 0, 1], [0, 0, 1]]
    gaps = {0.6: 1, 0.9: 0, 0.5: 1, 0.8: 0}
    mean = sum(abs(right - top) for top, right in gaps.items()) / 4
    assert scores["calibration_error"] == pytest.approx(mean, abs=1e-6)
    assert scores["majority"] == {
        "name": "cow",
        "accuracy": 0.5,
        "mean_per_class": pytest.approx(1 / 3),
        "n": 4,
    }


def test_fair_labels__training_scores_are_named_so() -> None:
    found = fair_labels(dataset(), TRAINED_ON, predictions(), None)
    assert found.kind == TRAINING
    assert "these scores are training scores" in found.caveats[0]
    nothing = fair_labels(dataset(np.full(5, -1)), ~(LABELS < 9), predictions(), None)
    assert (nothing.kind, nothing.caveats) == (None, [])


def test_majority__without_labels_there_is_none() -> None:
    assert majority(np.array([-1, -1]), NAMES) is None


def test_compared_rows__a_given_label_stays() -> None:
    rows = compared_rows(dataset(), predictions(np.full(5, 0.5)), [], TRAINED_ON, opinions())
    assert [row["label"] for row in rows] == ["hen", "cow", "cow", "ant", "cow"]
    assert [row["status"] for row in rows] == ["given", "given", "ok", "given", "given"]
    assert [row["predicted_label"] for row in rows] == [None, None, "cow", None, None]
    given = rows[1]
    assert (given["score"], given["margin"], given["runner_up"]) == (1.0, 1.0, None)
    assert (given["opinion"], given["opinion_score"], given["label_quality"]) == ("ant", 0.9, 0.05)
    assert "opinion" not in rows[2]
    held_out = compared_rows(dataset(), predictions(), [], TRAINED_ON & (LABELS != 2), opinions())[
        3
    ]
    assert (held_out["status"], held_out["true_label"]) == ("ok", "ant")


def test_suspicious_rows__the_clearest_first() -> None:
    rows = suspicious_rows(dataset(), opinions())
    assert [(row["file_name"], row["label"], row["opinion"]) for row in rows] == [
        ("1.png", "cow", "ant"),
        ("4.png", "cow", "hen"),
    ]
    assert [row["label_quality"] for row in rows] == [0.05, 0.1]


def test_confidence__falls_in_proportion_below_a_twentieth() -> None:
    probability = np.array([0.8, 0.8, 0.8, 0.8])
    usual = np.array([1.0, 0.05, 0.025, 0.0])
    assert confidence(probability, usual).tolist() == pytest.approx([0.8, 0.8, 0.4, 0.0])
    assert confidence(probability, None) is probability
    assert predictions(np.array([1, 1, 0.01, 1, 1])).confidence()[2] == pytest.approx(0.1)


def test_ranked__the_least_sure_first() -> None:
    usual = np.array([0.01, 0.5, 0.5, 0.025, 0.5])
    rows = compared_rows(dataset(), predictions(usual), [], LABELS == 1)
    assert [row["rank"] for row in rows] == [1, None, 3, 2, None], "0.7 / 5, given, 0.5, 0.8 / 2"


@pytest.mark.parametrize("seed", range(3))
def test_ranked__like_a_slow_count(seed: int) -> None:
    some = np.random.default_rng(seed).integers(24, 40, 17) / 40
    rows = [
        prediction_row(f"{i}.png", np.array([p, 1 - p]), Classes.of(NAMES[:2]), 0.75)
        for i, p in enumerate(some.tolist())
    ]
    rows.insert(3, rejected_row(Rejection("torn.png", "missing", "")))
    found = list(ranked(rows, confidences(rows)))
    assert found.pop(3)["rank"] is None
    for i, row in enumerate(found):
        before = sum(p < some[i] or (p == some[i] and k < i) for k, p in enumerate(some))
        assert row["rank"] == before + 1


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        ({"scored_on": None}, "no label has checked them"),
        ({"scored_on": TRAINING, "scored": 99, "calibration_error": 0.0}, "no label"),
        ({"scored_on": UNSEEN, "scored": 29, "calibration_error": 0.0}, "fewer than 30 labels"),
        ({"scored_on": UNSEEN, "scored": 30, "calibration_error": 0.11}, "off by 11%"),
        ({"scored_on": CROSS_FITTED, "scored": 30, "calibration_error": 0.1}, ""),
        ({"scored_on": None, "expected": {"accuracy": None}}, "no label has checked them"),
        ({"scored_on": UNSEEN, "scored": 99, "expected": {"accuracy": None}}, "no label"),
        ({"scored_on": None, "expected": {"accuracy": 0.5}}, ""),
        ({"scored_on": None, "expected": {"accuracy": 0.5, "calibration_error": 0.2}}, "by 20%"),
    ],
)
def test_order_only__until_enough_labels_agree(metrics: Any, why: str) -> None:
    assert why in order_only(metrics)
    assert bool(order_only(metrics)) == bool(why)


@pytest.mark.parametrize(
    ("least", "familiarity", "label", "reason"),
    [
        (0.7, 1.0, "hen", None),
        (0.7, None, "hen", None),
        (0.5, 0.02, None, "unlike the training images; most likely hen"),
        (0.8, 1.0, None, "below --min-score 0.8; most likely hen"),
        (0.8, 0.0, None, "below --min-score 0.8; most likely hen"),
        (0.0, 0.0, "hen", None),
    ],
)
def test_prediction_row__abstains(
    least: float, familiarity: float | None, label: str | None, reason: str | None
) -> None:
    p = np.array([0.75, 0.2, 0.05])
    row = prediction_row("a.png", p, Classes.of(NAMES), least, familiarity)
    assert (row["label"], row["reason"], row["predicted_label"]) == (label, reason, label)
    assert row["status"] == ("ok" if label else "unsure")
    assert (row["score"], row["familiarity"]) == (0.75, familiarity)


@pytest.mark.parametrize("p", [[0.3, 0.4, 0.3], [0.5, 0.0, 0.5], [0.0, 0.0, 1.0]])
def test_prediction_row__the_first_of_equals(p: list[float]) -> None:
    best, second, _ = np.argsort(-np.array(p), kind="stable").tolist()
    row = prediction_row("a.png", np.array(p), Classes.of(NAMES))
    assert (row["label"], row["runner_up"]) == (NAMES[best], NAMES[second])
    assert row["margin"] == pytest.approx(p[best] - p[second])


def test_prediction_row__of_a_single_class() -> None:
    row = prediction_row("a.png", np.array([1.0]), Classes.of(["hen"]))
    assert (row["label"], row["runner_up"], row["margin"]) == ("hen", None, 1.0)


def test_stored_confusion__of_many_classes_grows_with_the_images() -> None:
    labels = np.arange(2000) % 1000
    predicted = np.where(labels == 7, 3, labels)
    found = stored_confusion(labels, predicted, 1000)
    assert found["confusion"] is None
    counts = found["confusion_counts"]
    assert [len(counts[key]) for key in ("true", "predicted", "count")] == [1000] * 3
    assert sum(counts["count"]) == 2000
    names = [f"name {c}" for c in range(1000)]
    shown = confusion_table(names, found)
    mistakes = [("name 7", "name 3", 2)]
    assert shown == {"rows": [], "unused": 0, "mistakes": mistakes, "total": 2}
    matrix = np.zeros((1000, 1000), int)
    np.add.at(matrix, (labels, predicted), 1)
    assert confusion_table(names, {"confusion": matrix.tolist()}) == shown
    assert stored_confusion(np.full(3, -1), np.zeros(3, int), 1000) == {"confusion": None}


def test_compare_rounds__on_labels_that_are_fair_to_both() -> None:
    known = KnownLabels(
        {"0.png": "hen", "3.png": "ant"}, {"1.png": "cow", "3.png": "hen", "4.png": "ant"}
    )
    before = EarlierRun({"holdout": 0.5}, known, frozenset({"0.png"}), Classes.of(["a"]))
    assert before.held_out == {"3.png"}
    assert before.unchanged(dataset()).tolist() == [True, False, False, True, False]
    trained_on = TRAINED_ON & (LABELS != 2)
    found = compare_rounds(before, dataset(), trained_on, ADAPTED, opinions())
    assert found == {
        "kept": 2,
        "new": 2,
        "unseen": {"n": 1, "before": 0.0, "after": 1.0},
        "corrected": {"n": 2, "before": 0.5, "after": 0.0},
    }
    assert rounds({"second_round": found}) == [
        "labels kept from the earlier run: 2, new labels: 2",
        "accuracy before 0.0%, now 100.0%, on labels that neither run was trained on (1)",
        "accuracy before 50.0%, now 0.0%, on new labels, each predicted without itself (2)",
    ]
    assert compare_rounds(before, dataset(), trained_on, ADAPTED, None)["corrected"] is None


def test_sentences__in_words() -> None:
    shares = {"text": 0.24, "labels": 0.61, "images": 0.15}
    assert (
        decision({"contributions": shares})
        == "labels 61 %, class names 24 %, unlabelled images 15 %"
    )
    assert decision({}) == ""
    assert basis({"scored_on": CROSS_FITTED, "scored": 9}).startswith("cross-fitted on 9 labels")
    assert basis({"scored_on": UNSEEN, "scored": 9}) == ""
    assert rounds({}) == []
