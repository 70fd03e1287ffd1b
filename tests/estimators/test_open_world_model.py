"""Fitted open-world model against the equations: n = 8 rows, E = 6 columns, K = 5, C = 3."""

import numpy as np
import pytest
import torch
from torch import Tensor

from anyclass.estimators.open_world_model import (
    QUANTILES,
    OpenWorldModel,
    outlier_score,
    quantiles,
)


def given() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return (
        torch.randn(8, 6, generator=draw),
        torch.randn(5, 6, generator=draw),
        torch.randn(3, 6, generator=draw),
    )


def softmax(logits: list[float]) -> np.ndarray:
    powers = np.exp(np.array(logits))
    return powers / powers.sum()


def test_logits__known_classes_share_the_probability_of_being_known() -> None:
    rows, weights, known = given()
    found = OpenWorldModel(weights, known, torch.zeros(1)).logits(rows)
    for i, row in enumerate(rows):
        g = softmax([float(w @ row) for w in weights])
        k = softmax([float(w @ row) for w in known])
        wanted = [*(g[:3].sum() * k), *g[3:]]
        assert np.allclose(found[i].softmax(0), wanted, atol=1e-5)


def test_logits__are_linear_if_all_classes_are_known() -> None:
    rows, weights, known = given()
    found = OpenWorldModel(weights, known[:0], torch.zeros(1)).logits(rows)
    wanted = [[float(w @ row) for w in weights] for row in rows]
    assert np.allclose(found, wanted, atol=1e-5)


def test_outlier_score__is_minus_the_divergence_of_uniform_from_p() -> None:
    rows, weights, known = given()
    model = OpenWorldModel(weights, known, torch.zeros(1))
    p = model.logits(rows).softmax(1).double().numpy()
    wanted = [-sum(1 / 5 * np.log(1 / 5 / value) for value in row) for row in p]
    assert np.allclose(model.outlier_score(rows), wanted, atol=1e-5)
    assert np.allclose(outlier_score(torch.full((2, 7), 3.0)), 0, atol=1e-6)
    sure = outlier_score(torch.tensor([[9.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert sure[0] < sure[1] < 0, "higher where no class stands out"


def test_familiarity__is_the_share_of_images_that_are_further_out() -> None:
    _, weights, known = given()
    training = torch.randn(1000, 6, generator=torch.Generator().manual_seed(1))
    model = OpenWorldModel(weights, known, torch.zeros(1))
    scores = model.outlier_score(training)
    fitted = OpenWorldModel(weights, known, quantiles(scores))
    rows = training[:40]
    wanted = [float((scores >= s).float().mean()) for s in model.outlier_score(rows)]
    assert np.allclose(fitted.familiarity(rows), wanted, atol=2 / QUANTILES)
    assert fitted.familiarity(0 * rows).max() < 0.05, "equal probabilities: of no class"


def test_quantiles__are_ascending_and_exact_at_the_ends() -> None:
    scores = torch.randn(37, generator=torch.Generator().manual_seed(2))
    found = quantiles(scores)
    assert len(found) == QUANTILES
    assert found[0] == scores.min()
    assert found[-1] == scores.max()
    assert (found.diff() >= 0).all()
    assert float(found[QUANTILES // 2]) == pytest.approx(float(np.median(scores)))
