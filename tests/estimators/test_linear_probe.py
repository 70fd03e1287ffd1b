"""The linear probe is scikit-learn's logistic regression, folded into one matrix."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from anyclass.estimators import linear_probe as module
from anyclass.estimators.linear_probe import linear_probe


@pytest.mark.parametrize("present", [[0, 3], [0, 2, 3]])
def test_linear_probe__is_logistic_regression(present: list[int]) -> None:
    drawing = np.random.default_rng(0)
    y = drawing.choice(present, size=60)
    x = drawing.normal(size=(60, 7)) + 3 + y[:, None] * drawing.normal(size=7)
    found = linear_probe(torch.from_numpy(x).float(), torch.from_numpy(y), 5)
    assert found is not None
    middle = x.mean(0)
    level = np.sqrt(((x - middle) ** 2).sum(1).mean())
    known = LogisticRegression(C=10, max_iter=300).fit((x - middle) / level, y)
    p = found.logits(torch.from_numpy(x).float()).softmax(1).numpy()
    np.testing.assert_allclose(p[:, present], known.predict_proba((x - middle) / level), atol=1e-3)
    assert p.sum(1) == pytest.approx(1)
    assert np.delete(p, present, axis=1).max() == 0


def test_linear_probe__needs_two_classes() -> None:
    assert linear_probe(torch.randn(4, 3), torch.tensor([1, 1, 1, 1]), 2) is None


def test_linear_probe__draws_rows_of_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 40)
    y = torch.arange(80) % 2
    x = torch.randn(80, 3, generator=torch.Generator().manual_seed(0)) + 5 * y[:, None]
    some = linear_probe(x, y, 2, seed=1)
    again = linear_probe(x, y, 2, seed=1)
    assert some is not None
    assert again is not None
    assert torch.equal(some.weights, again.weights)
    assert bool((some.logits(x).argmax(1) == y).all())


def test_linear_probe__of_very_many_classes_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 4
    monkeypatch.setattr(module, "MAX_ENTRIES", 159)
    assert linear_probe(x, y, 4) is None
    monkeypatch.setattr(module, "MAX_ENTRIES", 160)
    assert linear_probe(x, y, 4) is not None
