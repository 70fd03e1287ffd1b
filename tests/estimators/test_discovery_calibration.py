"""Labelled classes treated as unknown tell how often unlabelled images are right."""

from itertools import permutations

import numpy as np
import pytest
import torch

from anyclass.estimators.discovery_calibration import (
    MIN_IMAGES,
    Hidden,
    calibrate,
    hide,
    matched,
    tempered,
)
from anyclass.estimators.open_world import OpenWorldClassifier


def labels(classes: int = 6, each: int = 12) -> np.ndarray:
    true = np.repeat(np.arange(classes), each)
    return np.where(np.arange(len(true)) % 3 > 0, true, -1)


def test_hide__half_of_the_classes_and_half_of_the_other_labels() -> None:
    y = labels()
    hidden = hide(y, known=8, seed=1)  # 6 and 7 have only a name
    assert hidden is not None
    assert len(hidden.kept) == 5
    assert {6, 7} <= set(hidden.kept.tolist())
    away = np.setdiff1d(np.arange(8), hidden.kept)
    told = hidden.labels >= 0
    asked = hidden.truth >= 0
    assert not (told & asked).any()
    assert np.array_equal(told | asked, y >= 0), "each label is kept or asked for"
    new_away = hidden.truth[asked & (hidden.truth >= 5)]
    assert set(new_away.tolist()) == {5, 6, 7}
    kept_labels = hidden.kept[hidden.labels[told]]
    assert np.array_equal(kept_labels, y[told])
    assert all((kept_labels == c).sum() == 4 for c in np.setdiff1d(range(6), away)), "of 8"
    groups = [frozenset(y[hidden.truth == 5 + i].tolist()) for i in range(3)]
    assert set(groups) == {frozenset([c]) for c in away.tolist()}, "a number for each class"
    assert np.isin(y[asked & (hidden.truth >= 5)], away).all()


def test_hide__needs_labels_enough() -> None:
    assert hide(labels(3), 3, 0) is None
    assert hide(labels(4, 6), 4, 0) is None, f"fewer than {MIN_IMAGES} are hidden"


def test_matched__against_all_assignments() -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 5, 60)  # 0 and 1 are kept, 2 to 4 hidden
    predicted = np.where(draw.random(60) < 0.6, truth, draw.integers(0, 6, 60))
    found = matched(predicted, truth, kept=2)
    old = (predicted < 2) & (truth < 2)
    assert np.array_equal(found[old], (predicted == truth)[old])
    assert not found[(predicted < 2) != (truth < 2)].any()
    best = max(
        sum(order[p - 2] == t for p, t in zip(predicted, truth, strict=True) if p > 1 and t > 1)
        for order in permutations(range(2, 6))
    )
    assert found.sum() == best + (old & (predicted == truth)).sum()


def test_calibrate__finds_the_accuracy_and_half_of_the_temperature() -> None:
    y = labels(6, 600)
    draw = np.random.default_rng(3)

    def refit(hidden: Hidden) -> np.ndarray:
        """Predictions that are right in 60 % and say 95 %."""
        first = len(hidden.kept)
        truth = np.where(hidden.truth >= 0, hidden.truth, 0)
        wrong = draw.random(len(truth)) > 0.6
        other = (truth - first + 1) % 3 + first
        guess = np.where(wrong, np.where(truth >= first, other, (truth + 1) % first), truth)
        p = np.full((len(truth), 6), 0.01)
        p[np.arange(len(truth)), guess] = 0.95
        return p

    found = calibrate(y, 6, 0, refit)
    assert found is not None
    assert found.accuracy == pytest.approx(0.6, abs=0.03)
    assert found.classes == 3
    assert found.images == 3 * 400 + 3 * 200, "all labels of three classes, half of the others"
    p = np.array([[0.95, 0.01, 0.01, 0.01, 0.01, 0.01]])
    whole = tempered(p, found.temperature**2)[0, 0]
    assert whole == pytest.approx(0.6, abs=0.06)
    assert tempered(p, 1.0)[0] == pytest.approx(p[0])


def test_open_world__calibration_changes_no_prediction() -> None:
    draw = torch.Generator().manual_seed(5)
    centres = torch.randn(9, 12, generator=draw)
    true = torch.arange(9).repeat_interleave(24)
    x = centres[true] + 1.1 * torch.randn(len(true), 12, generator=draw)
    y = np.where((true.numpy() < 5) & (np.arange(len(true)) % 2 == 0), true.numpy(), -1)
    plain = OpenWorldClassifier(unknown=4, calibrate=False).fit(x, y)
    found = OpenWorldClassifier(unknown=4).fit(x, y)
    assert plain.calibration_ is None
    assert found.calibration_ is not None
    assert found.calibration_.images >= MIN_IMAGES
    assert float(found.model_.temperature) >= 1
    assert torch.equal(found.predict(x), plain.predict(x))
    assert torch.equal(found.outlier_score(x), plain.outlier_score(x))
    p = plain.predict_proba(x).numpy()
    t = found.calibration_.temperature
    assert np.allclose(found.predict_proba(x).numpy(), tempered(p, t), atol=1e-5)
    assert OpenWorldClassifier(unknown=4).fit(x, np.where(y < 3, y, -1)).calibration_ is None
