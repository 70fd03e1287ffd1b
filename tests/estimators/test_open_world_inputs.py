"""OpenWorldClassifier on unusual inputs: N = 66, D = 9, H = 13, C = 4 (`conftest.py`)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from anyclass.errors import RequestError
from anyclass.estimators.metrics import clustering
from anyclass.estimators.open_world import OpenWorldClassifier
from anyclass.estimators.open_world_inputs import draw_rows


def small(unknown: Any = 0, **parameters: Any) -> OpenWorldClassifier:
    return OpenWorldClassifier(unknown, rounds=2, folds=3, **parameters)


def test_fit__duplicated_rows_predict_as_single_ones(toy: Callable[..., Any]) -> None:
    for kind in ("names", "labels", "unknown and labels"):
        parameters, data = toy().given(kind)
        double = data | {"y": None if data["y"] is None else np.repeat(data["y"], 2)}
        x = np.repeat(toy().x, 2, axis=0)
        found = small(**parameters).fit(x, **double)
        p = found.predict_proba(x)
        assert np.allclose(p[::2], p[1::2], atol=1e-6)
        once = small(**parameters).fit(toy().x, **data)
        score = clustering(once.predict(toy().x), found.predict(toy().x), [0, 1])
        assert score is not None
        assert score["all"] > 0.95


def test_fit__equal_rows_with_equal_labels_have_one_opinion(toy: Callable[..., Any]) -> None:
    x = np.concatenate([toy(noise=1.5).x] * 2)
    y = np.concatenate([toy(noise=1.5).labels(0, 1, 2, 3, each=9)] * 2)
    found = small().fit(x, y)
    assert found.opinion_[:66].tolist() == found.opinion_[66:].tolist()
    quality = found.label_quality_.reshape(2, 66)
    assert np.allclose(quality[0], quality[1], atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    "data",
    [
        {"y": [0] * 66},
        {"y": [0] + [-1] * 65},
        {"class_text": [[1.0] * 9]},
        {"unknown": 1},
    ],
)
def test_fit__one_class_is_certain(toy: Callable[..., Any], data: dict[str, Any]) -> None:
    found = small(data.pop("unknown", 0)).fit(toy().x, **data)
    assert found.classes_.tolist() == [0]
    assert np.allclose(found.predict_proba(toy().x), 1)
    assert not found.suspicious_.any()
    assert (found.outlier_score(toy().x) == 0).all()


@pytest.mark.parametrize("names", [False, True])
def test_fit__one_row_per_class(toy: Callable[..., Any], names: bool) -> None:
    rows = [int(np.flatnonzero(toy().truth == c)[0]) for c in (2, 0, 3, 1)]
    texts = toy().texts if names else None
    found = small().fit(toy().x[rows], [2, 0, 3, 1], texts, 20.0)
    assert found.transduction_.tolist() == [2, 0, 3, 1]
    if not names:
        assert found.predict(toy().x[rows]).tolist() == [2, 0, 3, 1]
    assert np.mean(found.predict(toy().x) == toy().truth) > 0.85


def test_fit__more_classes_than_rows(toy: Callable[..., Any]) -> None:
    texts = np.random.default_rng(0).normal(size=(31, 9)) - 1
    texts[[5, 20, 30]] = toy().texts[:3]
    index = np.flatnonzero(toy().truth < 3)[:7]
    wanted = np.array([5, 20, 30])[toy().truth[index]]
    found = small().fit(toy().x[index], class_text=texts, logit_scale=20.0)
    assert found.predict_proba(toy().x[index]).shape == (7, 31)
    units = toy().x[index] / np.linalg.norm(toy().x[index], axis=1, keepdims=True)
    zero_shot = (units @ (texts / np.linalg.norm(texts, axis=1, keepdims=True)).T).argmax(1)
    assert np.mean(found.predict(toy().x[index]) == wanted) >= np.mean(zero_shot == wanted) > 0.4
    y = np.full(7, -1)
    y[2] = wanted[2]
    labelled = small().fit(toy().x[index], y, texts, 20.0)
    assert labelled.transduction_[2] == wanted[2]
    assert np.isfinite(labelled.predict_proba(toy().x)).all()


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("data", [{"y": [0, 1, -1, -1, 0, -1, 1]}, {"class_text": np.eye(3, 5)}])
def test_fit__equal_rows_are_finite_and_undecided(data: dict[str, Any], extra: bool) -> None:
    more = np.ones((7, 4)) if extra else None
    found = small().fit(np.ones((7, 5)), extra=more, **data)
    p = found.predict_proba(np.ones((7, 5)), more)
    assert np.allclose(p, 1 / p.shape[1], atol=1e-3)


def test_fit__one_row(toy: Callable[..., Any]) -> None:
    one = toy().x[:1]
    c = int(toy().truth[0])
    assert small().fit(one, class_text=toy().texts, logit_scale=20.0).predict(one).tolist() == [c]
    assert small().fit(one, [3]).predict(one).tolist() == [3]
    assert small("auto").fit(one).predict(one).tolist() == [0]


@pytest.mark.parametrize(
    ("known", "names", "labels"),
    [((), (), ()), ((0, 1), (), (0, 1)), ((0, 1), (0, 1), ()), ((0, 1, 2), (0, 1), (1, 2))],
)
def test_fit__estimates_the_number_of_unknown_classes(
    toy: Callable[..., Any],
    known: tuple[int, ...],
    names: tuple[int, ...],
    labels: tuple[int, ...],
) -> None:
    texts = toy(noise=0.2).names(*names)[: len(names)] if names else None
    y = toy(noise=0.2).labels(*labels, each=8) if labels else None
    found = small("auto").fit(toy(noise=0.2).x, y, texts, 20.0)
    assert found.num_classes_.classes == len(found.classes_)
    assert 4 <= len(found.classes_) <= 8
    assert found.classes_.tolist() == list(range(len(found.classes_)))
    guess = found.predict(toy(noise=0.2).x)
    for c in known:
        mine = toy(noise=0.2).truth == c
        assert np.mean(guess[mine] == c) > 0.6
    score = clustering(toy(noise=0.2).truth, guess, [0])
    assert score is not None
    assert score["all"] > 0.65


def test_fit__no_unknown_class_is_found_where_all_are_known(toy: Callable[..., Any]) -> None:
    wanted = small().fit(toy().x, toy().truth).predict_proba(toy().x)
    found = small("auto").fit(toy().x, toy().truth)
    assert found.num_classes_.classes == 4
    assert np.array_equal(found.predict_proba(toy().x), wanted)


@pytest.mark.parametrize("kind", [list, object, "U9"])
def test_fit__string_labels(toy: Callable[..., Any], kind: Any) -> None:
    names = np.array(["pear", "apple", "fig", "lime"])
    index = toy().labels(0, 1, 2, 3)
    y = [-1 if c < 0 else str(names[c]) for c in index]
    given = y if kind is list else np.array(y, dtype=kind)
    found = small().fit(toy().x, given)
    assert found.classes_.tolist() == ["apple", "fig", "lime", "pear"]
    numbers = small().fit(toy().x, index)
    assert found.predict(toy().x).tolist() == names[numbers.predict(toy().x)].tolist()
    assert found.transduction_.tolist() == names[numbers.transduction_].tolist()
    wanted = [-1 if c < 0 else str(names[c]) for c in numbers.opinion_]
    assert found.opinion_.tolist() == wanted
    assert found.predict(torch.tensor(toy().x)).tolist() == found.predict(toy().x).tolist()


def test_fit__string_labels_with_unknown_classes(toy: Callable[..., Any], tmp_path: Any) -> None:
    y = [["pear", "apple", -1][min(c, 2)] for c in toy().truth]
    found = small(2).fit(toy().x, y)
    assert found.classes_.tolist() == ["apple", "pear", "unknown 1", "unknown 2"]
    guess = found.predict(toy().x)
    assert set(guess[toy().truth == 0]) == {"pear"}
    assert set(guess[toy().truth > 1]) == {"unknown 1", "unknown 2"}
    found.save(tmp_path)
    loaded = OpenWorldClassifier.load(tmp_path)
    assert loaded.predict(toy().x).tolist() == guess.tolist()


def test_fit__any_integers_are_classes(toy: Callable[..., Any]) -> None:
    names = np.array([70, -8, 5, 31])
    index = toy().labels(0, 1, 2, 3)
    y = np.where(index < 0, -1, names[index])
    wanted = names[small().fit(toy().x, index).predict(toy().x)].tolist()
    for given in (y, y.astype(np.int8), y.astype(float), torch.tensor(y)):
        found = small().fit(toy().x, given)
        assert found.classes_.tolist() == [-8, 5, 31, 70]
        assert found.predict(toy().x).tolist() == wanted
    unknown = small(2).fit(toy().x, np.where(np.isin(y, [70, -8]), y, -1))
    assert unknown.classes_.tolist() == [-8, 70, 71, 72]


def test_fit__labels_beyond_the_texts_are_classes_without_a_name(toy: Callable[..., Any]) -> None:
    y = toy().labels(2, 3)
    found = small().fit(toy().x, y, toy().texts[:2], 20.0)
    padded = small().fit(toy().x, y, toy().names(0, 1), 20.0)
    assert found.classes_.tolist() == [0, 1, 2, 3]
    assert np.array_equal(found.predict_proba(toy().x), padded.predict_proba(toy().x))
    assert np.mean(found.predict(toy().x) == toy().truth) > 0.9


@pytest.mark.parametrize("extra", [False, True])
def test_fit__texts_of_nan_are_as_none(toy: Callable[..., Any], extra: bool) -> None:
    y = toy().labels(0, 1, 2, 3)
    more = toy().extra if extra else None
    none = small().fit(toy().x, y, extra=more)
    found = small().fit(toy().x, y, toy().names(), extra=more)
    assert np.allclose(found.predict_proba(toy().x, more), none.predict_proba(toy().x, more))


X = np.ones((6, 5)) + np.eye(6, 5)
"""N = 6, D = 5; C = 3 texts."""
T = np.eye(3, 5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "there is no class: give labels, class_text or unknown"),
        ({"y": [-1] * 6}, "there is no class"),
        ({"class_text": T[:0]}, "there is no class"),
        ({"y": [0, 1]}, r"y has the shape \(2,\), but X has 6 rows"),
        ({"y": np.zeros((6, 1))}, r"y has the shape \(6, 1\), but X has 6 rows"),
        ({"y": [0.5] * 6}, "y is continuous"),
        ({"y": [0, np.nan, 1, 1, 1, 1]}, "y is continuous .* or not finite"),
        ({"y": [None] * 6}, "y must have classes of one kind"),
        ({"y": [-2] * 6, "class_text": T}, "y must have integer classes, rows of class_text, or"),
        ({"y": ["a"] * 6, "class_text": T}, "y must have integer classes"),
        ({"y": [10**12] * 6, "class_text": T}, "y must have integer classes"),
        ({"y": [4] + [-1] * 5, "class_text": T}, "class 3 has neither a text nor a label"),
        ({"class_text": T * [[1], [np.nan], [1]]}, "class 1 has neither a text nor a label"),
        ({"class_text": T[:, :4]}, r"class_text has the shape \(3, 4\), but X has 5 columns"),
        ({"class_text": 0 * T}, "row 0 of class_text is zero"),
        ({"class_text": T, "extra": np.ones((5, 2))}, "X has 6 rows, but extra has 5"),
        ({"class_text": T, "logit_scale": 0.0}, "logit_scale is 0.0, but must be positive"),
        ({"class_text": T, "logit_scale": np.inf}, "logit_scale is inf"),
    ],
)
def test_fit__refuses_what_it_cannot_use_with_one_line(data: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        small().fit(X, **data)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"unknown": -1}, "unknown is -1, not a number of classes"),
        ({"unknown": "many"}, "unknown is 'many', not a number of classes"),
        ({"unknown": 7}, "7 classes cannot be found in 6 images"),
        ({"folds": 1}, "folds is 1, but at least 2 are needed"),
    ],
)
def test_fit__refuses_wrong_parameters(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        OpenWorldClassifier().set_params(**parameters).fit(X)


def test_predict__refuses_other_widths_and_values(toy: Callable[..., Any]) -> None:
    plain = small().fit(toy().x, class_text=toy().texts)
    wide = small().fit(toy().x, class_text=toy().texts, extra=toy().extra)
    with pytest.raises(RequestError, match="X has 8 features, but .* is expecting 9 features"):
        plain.predict(toy().x[:, :8])
    with pytest.raises(RequestError, match="extra has 13 features, but .* expecting 0 features"):
        plain.predict(toy().x, toy().extra)
    with pytest.raises(RequestError, match="extra has 0 features, but .* expecting 13 features"):
        wide.predict(toy().x)
    with pytest.raises(RequestError, match="X has 13 features, but .* expecting 9 features"):
        wide.predict(toy().extra, toy().x)
    bad = toy().x.copy()
    bad[4, 2] = np.nan
    with pytest.raises(RequestError, match="row 4 of X has a value that is NaN"):
        plain.predict_proba(bad)
    bad[4] = 0
    with pytest.raises(RequestError, match="row 4 of X is zero"):
        plain.predict_proba(bad)


def test_fit__refuses_a_named_class_for_which_no_row_is_left() -> None:
    with pytest.raises(RequestError, match="4 classes cannot be found in 6 images"):
        small(1).fit(X, [0] * 6, T)


def test_fit__classes_without_any_spread(toy: Callable[..., Any]) -> None:
    x = toy(noise=0.0).x
    for parameters, data in [toy(noise=0.0).given(k) for k in ("labels", "unknown and labels")]:
        found = small(**parameters).fit(x, **data)
        score = clustering(toy(noise=0.0).truth, found.predict(x), [0, 1])
        assert score is not None
        assert score["all"] == 1
        assert np.isfinite(found.decision_function(x)).all()


@pytest.mark.parametrize("names", [(0, 1, 2, 3), (0, 1)])
def test_fit__without_anchors_a_named_class_may_have_no_image(
    toy: Callable[..., Any], names: tuple[int, ...]
) -> None:
    y = toy().labels(2, 3)
    found = small(anchor=0.0).fit(toy().x, y, toy().names(*names), 20.0)
    assert np.isfinite(found.decision_function(toy().x)).all()
    assert np.mean(found.predict(toy().x) == toy().truth) > 0.9


@pytest.mark.parametrize("copies", [1, 3])
def test_fit__one_image_per_class_leaves_the_decision_to_the_names(copies: int) -> None:
    """Nothing varies within a class, so nobody knows which features tell classes apart.

    Here none of the further ones does, and a few of them are large. Four draws of 11 classes.
    """
    classes, depth, width, n = 11, 32, 90, 330
    size = torch.where(torch.arange(width) < 9, 9.0, 1.0)
    gain = []
    for seed in range(4):
        drawn = torch.Generator().manual_seed(seed)
        text = normalize(torch.randn(classes, depth, generator=drawn), dim=1)
        truth = torch.arange(n) % classes
        rows = []
        for y in (truth, torch.arange(classes)):
            noise = torch.randn(len(y), depth, generator=drawn) / depth**0.5
            h = torch.randn(len(y), width, generator=drawn) * size
            rows.append((normalize(0.35 * text[y] + noise, dim=1), h))
        (x, h), taught = rows[0], [part.repeat_interleave(copies, 0) for part in rows[1]]
        labels = torch.arange(classes).repeat_interleave(copies)
        fitted = OpenWorldClassifier().fit(taught[0], labels, text, 10.0, extra=taught[1])
        right = (fitted.predict(x, h) == truth).float().mean()
        zero_shot = ((x @ text.T).argmax(1) == truth).float().mean()
        gain.append(float(right - zero_shot))
    assert np.mean(gain) > -0.05


def test_draw_rows__keeps_every_label_and_so_many_other_rows() -> None:
    y = np.where(np.arange(50) % 7 == 3, np.arange(50) % 2, -1)
    rows = draw_rows(y, 50, 20, seed=3)
    assert rows is not None
    assert (np.diff(rows) > 0).all()
    assert np.isin(np.flatnonzero(y >= 0), rows).all()
    assert (y[rows] < 0).sum() == 20
    words = np.where(y >= 0, np.array(["hen", "owl"])[y], "-1")
    assert draw_rows(words, 50, 20, seed=3).tolist() == rows.tolist()
    assert draw_rows(y, 50, 20, seed=4).tolist() != rows.tolist()
    assert draw_rows(y, 50, int((y < 0).sum()), seed=3) is None


def test_draw_rows__without_labels_every_row_is_as_likely() -> None:
    counts = np.zeros(10)
    for seed in range(600):
        rows = draw_rows(None, 10, 3, seed)
        assert rows is not None
        assert len(np.unique(rows)) == 3
        counts[rows] += 1
    assert np.abs(counts / 600 - 0.3).max() < 0.075, "four standard errors"
    assert draw_rows(None, 10, 10, 0) is None
    assert draw_rows(None, 10, None, 0) is None
