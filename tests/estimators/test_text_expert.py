"""Text expert on N = 66 images (`conftest.py`), D = 9, C = 4 classes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from anyclass.errors import RequestError
from anyclass.estimators import text_expert
from anyclass.estimators.rows import Rows
from anyclass.estimators.text_expert import CentredTexts, confidence_temperature, text_anchors


def test_class_texts__are_centred_units_of_the_named_classes(toy: Callable[..., Any]) -> None:
    texts = CentredTexts.of(7 * toy().names(0, 2, 3), 9)
    units = [row / np.linalg.norm(row) for row in toy().texts[[0, 2, 3]]]
    assert texts.named.tolist() == [True, False, True, True]
    assert np.allclose(texts.centred[[0, 2, 3]], units - np.mean(units, axis=0), atol=1e-6)
    assert not texts.centred[1].any()
    more = texts.padded(6)
    assert more.named.tolist() == [True, False, True, True, False, False]
    assert torch.equal(more.centred[:4], texts.centred)
    assert not more.centred[4:].any()


def test_class_texts__the_logits_differ_from_zero_shot_by_a_constant(
    toy: Callable[..., Any],
) -> None:
    x = torch.nn.functional.normalize(torch.tensor(toy().x), dim=1)
    t = torch.nn.functional.normalize(torch.tensor(toy().texts), dim=1)
    found = CentredTexts.of(toy().texts, 9).expert(20.0).logits(x)
    assert torch.allclose(found.softmax(1), (20 * x @ t.T).softmax(1), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:, :7], r"class_text has the shape \(4, 7\), but X has 9 columns"),
        (lambda t: t[0], r"class_text has the shape \(9,\), but X has 9 columns"),
        (lambda t: t * [[1], [0], [1], [1]], "row 1 of class_text is zero or infinite"),
        (lambda t: t + [[0], [0], [np.inf], [0]], "row 2 of class_text is zero or infinite"),
    ],
)
def test_class_texts__refuses_other_shapes_and_values(
    toy: Callable[..., Any], change: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        CentredTexts.of(change(toy().texts), 9)


def slow_target(z: np.ndarray, images: float) -> np.ndarray:
    """r, by the equations."""
    n, classes = z.shape
    doubt = min(1.0, 2 * (1 - np.mean([max(row) for row in z])))
    m = doubt * images / (images + n / classes)
    r = np.array([np.mean([row[c] for row in z]) ** (1 - m) for c in range(classes)])
    return r / r.sum()


@pytest.mark.parametrize("images", [10.0, 1e9])
def test_corrected__reaches_the_target_frequencies(toy: Callable[..., Any], images: float) -> None:
    rows = Rows.checked(toy().x, None).centred()
    texts = CentredTexts.of(toy().texts, 9)
    plain = texts.expert(6.0)
    x, _ = rows.at(slice(0, 66))
    z = plain.logits(x).softmax(1).numpy()
    corrected = texts.corrected(rows, plain, images)
    found = corrected.logits(x).softmax(1).mean(0)
    assert np.allclose(found, slow_target(z, images), atol=1e-4)
    assert not np.allclose(found, z.mean(0), atol=5e-3), "the texts predicted other frequencies"
    assert float(corrected.intercept.sum()) == pytest.approx(0, abs=1e-5)
    assert torch.equal(corrected.weights, plain.weights)


def test_corrected__is_zero_without_prior_and_where_zero_shot_is_sure(
    toy: Callable[..., Any],
) -> None:
    rows = Rows.checked(toy(noise=0.01).x, None).centred()
    texts = CentredTexts.of(toy().texts, 9)
    plain = texts.expert(20.0)
    assert texts.corrected(rows, plain, 0.0).intercept.abs().max() < 1e-4
    sure = texts.expert(1000.0)
    assert texts.corrected(rows, sure, 10.0).intercept.abs().max() < 1e-4


def test_corrected__is_finite_where_a_class_is_never_predicted(toy: Callable[..., Any]) -> None:
    rows = Rows.checked(toy().x, None).centred()
    texts = CentredTexts.of(toy().texts, 9)
    corrected = texts.corrected(rows, texts.expert(1e5), 10.0)
    assert torch.isfinite(corrected.intercept).all()


def test_text_anchors__are_the_texts_or_a_ridge_regression_of_them(
    toy: Callable[..., Any],
) -> None:
    texts = CentredTexts.of(toy().names(0, 2, 3), 9)
    plain = text_anchors(Rows.checked(toy().x, None).centred(), texts, 4.0)
    assert torch.equal(plain.texts, texts.centred)
    assert plain.strength == 4.0
    rows = Rows.checked(toy().x, toy().extra).centred()
    x, h = (part.double().numpy() for part in rows.at(slice(0, 66)))
    ridge = 0.01 * sum(row @ row for row in x) / 9
    coefficients = np.linalg.solve(x.T @ x + ridge * np.eye(9), x.T @ h)
    found = text_anchors(rows, texts, 4.0)
    assert found.texts.shape == (4, 13)
    assert np.allclose(found.texts, texts.centred.double().numpy() @ coefficients, atol=1e-4)
    assert not found.texts[1].any()
    assert found.level == pytest.approx(np.mean(h**2), rel=1e-4)


def test_confidence_temperature__brings_the_confidence_near_that_of_zero_shot(
    toy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows.checked(toy().x, None).centred()
    zero_shot = 8 * CentredTexts.of(toy().texts, 9).centred
    x, _ = rows.at(slice(0, 66))
    same = confidence_temperature(rows, lambda x, h: x @ zero_shot.T, zero_shot)
    assert same == pytest.approx(1, abs=1e-4)
    assert confidence_temperature(rows, lambda x, h: x @ zero_shot.T / 2, zero_shot) == 1.0
    sharp = confidence_temperature(rows, lambda x, h: 3 * x @ zero_shot.T, zero_shot)
    n = 66 / 4
    assert sharp == pytest.approx(3 ** (n / (n + 30)), rel=1e-3)
    monkeypatch.setattr(text_expert, "REPEATS", 0)
    whole = confidence_temperature(rows, lambda x, h: 3 * x @ zero_shot.T, zero_shot)
    assert whole == pytest.approx(3, rel=1e-3)
