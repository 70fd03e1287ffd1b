"""Texts of other nouns: N = 66 images, D = 9, C = 4 classes (`conftest.py`), M = 20 nouns."""

from collections.abc import Callable
from dataclasses import replace
from math import exp, log
from typing import Any

import numpy as np
import pytest
import torch

from anyclass.errors import ArrayError
from anyclass.estimators.negative_texts import FARTHEST, WEIGHT, NegativeTexts
from anyclass.estimators.open_world import OpenWorldClassifier
from anyclass.estimators.open_world_model import OpenWorldModel, outlier_score

SCALE = 20.0


def nouns(toy: Any, seed: int = 3) -> np.ndarray:
    """Texts in random directions."""
    found: np.ndarray = np.random.default_rng(seed).normal(size=(20, toy.texts.shape[1]))
    return found.astype(np.float32)


def unit(x: Any) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(x), dim=1)


def fit(toy: Any, kind: str, negatives: Any) -> OpenWorldClassifier:
    parameters, data = toy.given(kind)
    found = OpenWorldClassifier(rounds=2, folds=3, **parameters)
    return found.fit(toy.x, negative_text=negatives, **data)


def test_odds__by_loops_over_names_and_the_nouns_least_like_them(toy: Callable[..., Any]) -> None:
    texts = unit(toy().texts)
    given = unit(nouns(toy()))
    found = NegativeTexts.of(texts, nouns(toy()) * 7, SCALE)
    nearest = [max(float(n @ t) for t in texts) for n in given]
    most = sorted(nearest)[round(FARTHEST * 19)]
    kept = [n for n, value in zip(given, nearest, strict=True) if value <= most + 1e-6]
    assert len(found.nouns) == len(kept) == 17
    x = unit(toy().x[:5])
    for row, r in zip(x, found.odds(x), strict=True):
        names = sum(exp(SCALE * float(row @ t)) for t in texts)
        others = sum(exp(SCALE * float(row @ n)) for n in kept)
        assert float(r) == pytest.approx(log(names) - log(others), abs=1e-4)


@pytest.mark.parametrize("bad", [np.ones((3, 8)), np.ones(9), np.zeros((2, 9)), np.ones((0, 9))])
def test_of__refuses(toy: Callable[..., Any], bad: np.ndarray) -> None:
    with pytest.raises(ArrayError, match="negative_text"):
        fit(toy(), "names", bad)
    with pytest.raises(ArrayError, match="negative_text"):
        fit(toy(), "names", np.full((2, 9), np.inf))


def test_outlier_score__adds_half_of_the_odds_against_the_names(toy: Callable[..., Any]) -> None:
    plain = fit(toy(), "labels and names", None)
    found = fit(toy(), "labels and names", nouns(toy()))
    x = toy().x
    assert np.array_equal(found.predict_proba(x), plain.predict_proba(x))
    r = NegativeTexts.of(unit(toy().texts), nouns(toy()), SCALE).odds(unit(x)).numpy()
    wanted = plain.outlier_score(x) - WEIGHT * r
    np.testing.assert_allclose(found.outlier_score(x), wanted, atol=1e-4)
    ranks = (wanted[:, None] <= wanted + 1e-6).mean(1)  # share of images that are further out
    assert np.abs(found.familiarity(x) - ranks).max() < 0.03


def test_fit__nouns_recognise_what_is_of_no_class(toy: Callable[..., Any]) -> None:
    """Images of two classes left out at fit, whose names are among the nouns."""
    some = toy()
    mine = some.truth < 2
    strangers = np.concatenate([some.texts[2:], nouns(some)])
    scores = []
    for negatives in (None, strangers):
        found = OpenWorldClassifier(rounds=2, folds=3)
        found.fit(some.x[mine], None, some.texts[:2], SCALE, negative_text=negatives)
        outlier = found.outlier_score(some.x)
        scores.append((outlier[~mine][:, None] > outlier[mine]).mean())  # AUROC
    assert scores[1] > scores[0] + 0.02


@pytest.mark.parametrize("kind", ["unknown and names", "unknown and both"])
def test_logits__half_of_the_odds_decide_what_is_known(toy: Callable[..., Any], kind: str) -> None:
    found = fit(toy(), kind, nouns(toy()))
    model = found.model_
    assert isinstance(model, OpenWorldModel)
    known = len(model.known)
    assert len(model.names) == known
    rows = torch.cat([unit(toy().x), torch.ones(66, 1)], dim=1)
    r = NegativeTexts(model.names, model.nouns).odds(rows[:, :9])
    without = replace(model, names=model.names[:0], nouns=model.nouns[:0], cut=model.cut[:0])

    def evidence(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, :known].logsumexp(1) - logits[:, known:].logsumexp(1)

    change = evidence(model.logits(rows)) - evidence(without.logits(rows))
    assert torch.allclose(change, WEIGHT * (r - model.cut), atol=1e-4)
    assert torch.allclose(
        model.logits(rows)[:, :known].softmax(1), without.logits(rows)[:, :known].softmax(1)
    )
    assert torch.allclose(model.outlier_score(rows), outlier_score(model.logits(rows)))


def test_fit__labels_of_all_known_classes_say_more_about_unknown_ones(
    toy: Callable[..., Any],
) -> None:
    some = toy()
    given = {"class_text": some.names(0, 1)[:2], "logit_scale": SCALE, "y": some.labels(0, 1)}
    models = [
        OpenWorldClassifier(2, folds=3).fit(some.x, negative_text=negatives, **given).model_
        for negatives in (None, nouns(some))
    ]
    assert [len(model.nouns) for model in models] == [0, 0]
    assert torch.equal(models[0].weights, models[1].weights)


@pytest.mark.parametrize("kind", ["labels", "names for some", "unknown and labels"])
def test_fit__needs_names_of_all_known_classes(toy: Callable[..., Any], kind: str) -> None:
    plain = fit(toy(), kind, None)
    found = fit(toy(), kind, nouns(toy()))
    assert len(found.model_.nouns) == 0
    assert np.array_equal(found.decision_function(toy().x), plain.decision_function(toy().x))


def test_fit__the_order_of_nouns_changes_nothing(toy: Callable[..., Any]) -> None:
    some = nouns(toy())
    first = fit(toy(), "unknown and names", some)
    again = fit(toy(), "unknown and names", torch.from_numpy(some[::-1].copy()).double())
    np.testing.assert_allclose(
        first.predict_proba(toy().x), again.predict_proba(toy().x), atol=1e-5
    )


def test_save__keeps_the_nouns(toy: Callable[..., Any], tmp_path: Any) -> None:
    found = fit(toy(), "names", nouns(toy()))
    found.save(tmp_path)
    again = OpenWorldClassifier.load(tmp_path)
    assert np.array_equal(again.familiarity(toy().x), found.familiarity(toy().x))


def test_model__refuses_nouns_without_names() -> None:
    weights = torch.zeros(3, 10)
    names, nothing = torch.zeros(3, 9), torch.zeros(0, 9)
    for wrong in ((names, nothing, nothing[:, 0]), (nothing, nothing, torch.zeros(1))):
        with pytest.raises(ValueError, match="do not belong together"):
            OpenWorldModel(weights, weights[:0], torch.zeros(1), *wrong)
    with pytest.raises(ValueError, match="do not belong together"):
        OpenWorldModel(weights, weights[:0], torch.zeros(1), names, names, torch.zeros(2))
