"""How far scores can be trusted: mean score, expected accuracy, calibration on matched classes."""

from dataclasses import replace

import numpy as np
import pytest

from anyclass.classifier.record import FitRecord
from anyclass.data import Classes, ImageDataset
from anyclass.run.clustering_scores import aligned, clustering_scores
from anyclass.run.expected_accuracy import expected_accuracy
from anyclass.run.predictions import AllPredictions, log_of
from anyclass.run.sentences import expectation


def predictions(p: np.ndarray) -> AllPredictions:
    return AllPredictions(log_of(np.zeros_like(p)), None, log_of(p))


def test_expected_accuracy__mean_score_of_images_without_a_given_label() -> None:
    p = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.3, 0.1, 0.6]], np.float32)
    trained_on = np.array([True, False, False])
    found = {"accuracy": 0.625, "calibration_error": 0.07, "images": 40, "classes": 3}
    metrics = expected_accuracy(
        FitRecord(expected=found), predictions(p), trained_on, {"calibration_error": 0.2}
    )
    assert metrics["expected"]["mean_score"] == pytest.approx(0.7)
    assert metrics["calibration_error"] == 0.07
    assert metrics["calibration_error_known"] == 0.2
    words = expectation(metrics)
    assert words.startswith("about 62% of the labels of unlabelled images are expected to be right")
    assert "3 labelled classes show that were treated as unknown (40 images" in words
    assert words.endswith("the mean score of the 2 unlabelled images is 70%")
    nothing = expected_accuracy(
        FitRecord(), predictions(p), trained_on, {"calibration_error": None}
    )
    assert nothing["calibration_error"] is None
    assert "nothing says how many are right" in expectation(nothing)
    assert expectation({}) == ""


def test_expected_accuracy__by_agreement() -> None:
    p = np.array([[0.7, 0.3], [0.1, 0.9]], np.float32)
    found = FitRecord(expected={"accuracy": 0.8, "temperature": 3.0})
    none_taught = np.array([False, False])
    metrics = expected_accuracy(found, predictions(p), none_taught, {"calibration_error": None})
    assert metrics["calibration_error"] is None
    assert expectation(metrics).startswith("about 80% of the labels of unlabelled images may")


def test_clustering_scores__calibration_of_matched_classes() -> None:
    classes = Classes.of(["ant"], labelled=["ant"], unknown=2).with_discovered()
    p = np.full((8, 3), 0.1, np.float32)
    guess = [0, 0, 1, 1, 1, 2, 2, 2]
    p[np.arange(8), guess] = 0.8
    dataset = ImageDataset.of([f"{i}.png" for i in range(8)])
    truth = np.array([-1, -1, 2, 2, 1, 1, 1, 2])  # discovered 1 is cow, discovered 2 is bee
    dataset = replace(dataset, labels=truth, classes=Classes.of(["ant", "bee", "cow"]))
    found = clustering_scores(dataset, predictions(p), classes, {}, True)["calibration"]
    assert found["n"] == 6
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["mean_score"] == pytest.approx(0.8)
    assert found["error"] == pytest.approx(0.8 - 4 / 6)


def test_aligned__baselines_follow_the_classes_of_an_edited_run() -> None:
    baseline = Classes.of(["ant", "x", "bee", "y"]).discovered([0, 2])
    run = Classes.of(["ant", "bee"]).with_discovered()
    rows = np.arange(8.0).reshape(2, 4)
    assert aligned(rows, baseline, run).tolist() == [[0, 2, 1, 3], [4, 6, 5, 7]]
    assert np.array_equal(aligned(rows, baseline, baseline), rows)
