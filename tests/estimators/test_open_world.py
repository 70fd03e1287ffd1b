"""OpenWorldClassifier on a toy: N = 66, D = 9, H = 13, C = 4 (`conftest.py`): what it promises."""

import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch.overrides import TorchFunctionMode

from anyclass.errors import RequestError
from anyclass.estimators import (
    discovery,
    discovery_expert,
    mixture,
    open_world_fit,
    text_expert,
)
from anyclass.estimators import rows as rows_module
from anyclass.estimators.metrics import clustering
from anyclass.estimators.open_world import OpenWorldClassifier
from anyclass.estimators.open_world_inputs import draw_rows

KINDS = (
    "names|labels|labels and names|labels or names|names for some|unknown|unknown and labels|"
    "unknown and names|unknown and both"
).split("|")
every_kind = pytest.mark.parametrize("kind", KINDS)


def small(**parameters: Any) -> OpenWorldClassifier:
    return OpenWorldClassifier(rounds=2, folds=3, **parameters)


def fit(toy: Any, kind: str, extra: bool = False) -> OpenWorldClassifier:
    parameters, data = toy.given(kind)
    return small(**parameters).fit(toy.x, extra=toy.extra if extra else None, **data)


@pytest.fixture(scope="module")
def fitted(toy: Callable[..., Any]) -> Callable[[str, bool], OpenWorldClassifier]:
    """`fitted(kind, extra)`, the same for all tests."""
    return cache(lambda kind, extra: fit(toy(), kind, extra))


@pytest.fixture(scope="module")
def noisy(toy: Callable[..., Any]) -> Callable[[str], OpenWorldClassifier]:
    """`noisy(kind)`: fitted on a toy that is harder; the same for all tests."""
    return cache(lambda kind: fit(toy(noise=1.0), kind))


@pytest.mark.parametrize("extra", [False, True])
@every_kind
def test_fit__finds_the_classes_of_an_easy_toy(
    toy: Callable[..., Any], fitted: Callable[..., OpenWorldClassifier], kind: str, extra: bool
) -> None:
    found = fitted(kind, extra)
    p = found.predict_proba(toy().x, toy().extra if extra else None)
    assert p.shape == (66, 4)
    assert np.allclose(p.sum(1), 1, atol=1e-5)
    guess = found.predict(toy().x, toy().extra if extra else None)
    assert guess.tolist() == found.classes_[p.argmax(1)].tolist()
    score = clustering(toy().truth, guess, [0, 1])
    assert score is not None
    assert score["all"] > 0.93
    known = [c for c in range(4) if c < 4 - found.unknown]
    mine = np.isin(toy().truth, known)
    assert not known or np.mean(guess[mine] == toy().truth[mine]) > 0.9, "these keep their index"
    assert found.classes_.tolist() == [0, 1, 2, 3]


@every_kind
def test_decision_function__is_the_logarithm_of_the_probabilities(
    toy: Callable[..., Any], fitted: Callable[..., OpenWorldClassifier], kind: str
) -> None:
    found = fitted(kind, False)
    logits = torch.tensor(found.decision_function(toy().x[:7]))
    assert np.allclose(logits.softmax(1), found.predict_proba(toy().x[:7]), atol=1e-6)


def test_transduction__keeps_every_label_and_predicts_the_rest(toy: Callable[..., Any]) -> None:
    y = toy(noise=1.5).labels(0, 1, 2, 3, each=9)
    labelled = np.flatnonzero(y >= 0)
    y[labelled[::6]] = (y[labelled[::6]] + 1) % 4
    for texts in (None, toy(noise=1.5).texts):
        found = OpenWorldClassifier().fit(toy(noise=1.5).x, y, texts, 20.0)
        assert found.transduction_[labelled].tolist() == y[labelled].tolist()
        rest = y < 0
        guess = found.predict(toy(noise=1.5).x)
        assert found.transduction_[rest].tolist() == guess[rest].tolist()
        assert (guess[labelled] != y[labelled]).any(), "the model's own opinion differs"


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize("each", [9, 66])
def test_suspicious__marks_a_wrong_label_and_no_right_one(
    toy: Callable[..., Any], names: bool, each: int
) -> None:
    y = toy(noise=0.3).labels(0, 1, 2, 3, each=each)
    wrong = np.flatnonzero(y == 2)[3]
    y[wrong] = 0
    found = OpenWorldClassifier().fit(
        toy(noise=0.3).x, y, toy(noise=0.3).texts if names else None, 20.0
    )
    assert np.flatnonzero(found.suspicious_).tolist() == [wrong]
    assert found.opinion_[wrong] == 2
    others = (y >= 0) & (np.arange(66) != wrong)
    assert found.opinion_[others].tolist() == y[others].tolist()
    assert found.label_quality_[wrong] < 0.2 < found.label_quality_[others].min()
    assert (found.opinion_[y < 0] == -1).all()
    assert np.isnan(found.label_quality_[y < 0]).all()


def test_suspicious__is_no_label_without_another_one_of_its_class(toy: Callable[..., Any]) -> None:
    found = OpenWorldClassifier().fit(toy().x, toy().labels(0, 1, 2, 3, each=1))
    assert not found.suspicious_.any()
    assert (found.opinion_ == -1).all()
    assert np.mean(found.predict(toy().x) == toy().truth) > 0.9


@every_kind
def test_fit__does_not_depend_on_the_order_of_rows(
    toy: Callable[..., Any], noisy: Callable[[str], OpenWorldClassifier], kind: str
) -> None:
    parameters, data = toy(noise=1.0).given(kind)
    order = np.random.default_rng(3).permutation(66)
    x = toy(noise=1.0).x
    first = noisy(kind)
    moved = data | {"y": None if data["y"] is None else data["y"][order]}
    second = small(**parameters).fit(x[order], **moved)
    p = first.predict_proba(x)
    q = second.predict_proba(x)
    known = 4 - first.unknown
    assert np.allclose(p[:, :known], q[:, :known], atol=3e-4), "stacking stops in float32"
    assert np.allclose(np.sort(p[:, known:]), np.sort(q[:, known:]), atol=3e-4)
    assert np.allclose(first.outlier_score(x), second.outlier_score(x), rtol=1e-3, atol=1e-3)
    if not first.unknown:
        assert first.transduction_[order].tolist() == second.transduction_.tolist()
    assert first.opinion_[order].tolist() == second.opinion_.tolist()


@every_kind
def test_fit__does_not_depend_on_the_order_of_classes(
    toy: Callable[..., Any], noisy: Callable[[str], OpenWorldClassifier], kind: str
) -> None:
    parameters, data = toy(noise=1.0).given(kind)
    known = 4 - parameters["unknown"]
    new = np.random.default_rng(1).permutation(known)
    moved = dict(data)
    if data["y"] is not None:
        moved["y"] = np.array([-1 if c < 0 else new[c] for c in data["y"]])
    if data["class_text"] is not None:
        texts = np.full((known, 9), np.nan, np.float32)
        for c, text in enumerate(data["class_text"]):
            texts[new[c]] = text
        moved["class_text"] = texts
    x = toy(noise=1.0).x
    p = noisy(kind).predict_proba(x)
    q = small(**parameters).fit(x, **moved).predict_proba(x)
    assert np.allclose(p[:, :known], q[:, new], atol=1e-4)
    assert np.allclose(np.sort(p[:, known:]), np.sort(q[:, known:]), atol=1e-4)


@every_kind
def test_fit__is_deterministic_and_leaves_random_states_alone(
    toy: Callable[..., Any], fitted: Callable[..., OpenWorldClassifier], kind: str
) -> None:
    first = fitted(kind, True)
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    data = toy()
    before = data.x.copy()
    second = fit(data, kind, extra=True)
    assert torch.equal(first.model_.weights, second.model_.weights)
    assert torch.equal(first.model_.known, second.model_.known)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert np.array_equal(data.x, before)


@every_kind
def test_fit__reads_blocks_of_any_size(
    toy: Callable[..., Any],
    fitted: Callable[..., OpenWorldClassifier],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = fitted(kind, True).predict_proba(toy().x, toy().extra)
    monkeypatch.setattr(rows_module, "BLOCK", 7)
    found = fit(toy(), kind, extra=True)
    assert np.allclose(found.predict_proba(toy().x, toy().extra), whole, atol=3e-4)


@every_kind
def test_fit__reads_half_precision_and_memory_maps(
    toy: Callable[..., Any],
    fitted: Callable[..., OpenWorldClassifier],
    kind: str,
    tmp_path: Path,
) -> None:
    parameters, data = toy().given(kind)
    np.save(tmp_path / "x.npy", toy().x.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    single = small(**parameters).fit(mapped.astype(np.float32), **data)
    half = small(**parameters).fit(mapped, **data)
    assert np.array_equal(half.predict_proba(mapped), single.predict_proba(mapped))
    p = fitted(kind, False).predict_proba(toy().x)
    known = 4 - parameters["unknown"]
    difference = np.abs(p - half.predict_proba(mapped))[:, :known]
    assert np.sort(difference.ravel())[: 62 * known].max(initial=0) < 0.02


def test_predict__returns_the_kind_that_it_gets(toy: Callable[..., Any]) -> None:
    data = toy().given("labels or names")[1]
    arrays = small().fit(toy().x, extra=toy().extra, **data)
    x = torch.tensor(toy().x)
    h = torch.tensor(toy().extra)
    tensors = small().fit(x, torch.tensor(data["y"]), torch.tensor(data["class_text"]), 20.0, h)
    for name in ("predict", "predict_proba", "decision_function", "outlier_score", "familiarity"):
        found = getattr(tensors, name)(x, h)
        assert isinstance(found, torch.Tensor)
        assert np.array_equal(found.numpy(), getattr(arrays, name)(toy().x, toy().extra)), name
    assert tensors.predict(x, h).dtype == torch.int64
    assert isinstance(tensors.transduction_, np.ndarray)


def test_fit__takes_lists(toy: Callable[..., Any]) -> None:
    data = toy().given("labels and names")[1]
    wanted = small().fit(toy().x, **data).predict_proba(toy().x)
    lists = {k: data[k].tolist() for k in ("y", "class_text")}
    found = small().fit(toy().x.tolist(), **lists, logit_scale=20.0)
    assert np.allclose(found.predict_proba(toy().x.tolist()), wanted, atol=1e-6)


@every_kind
def test_save__predicts_the_same_after_loading(
    toy: Callable[..., Any],
    fitted: Callable[..., OpenWorldClassifier],
    kind: str,
    tmp_path: Path,
) -> None:
    found = fitted(kind, True)
    found.save(tmp_path / "new" / "folder")
    loaded = OpenWorldClassifier.load(tmp_path / "new" / "folder")
    for name in ("predict", "predict_proba", "outlier_score", "familiarity"):
        wanted = getattr(found, name)(toy().x, toy().extra)
        assert np.array_equal(getattr(loaded, name)(toy().x, toy().extra), wanted), name
    assert loaded.get_params() == found.get_params()
    assert loaded.classes_.tolist() == found.classes_.tolist()


def test_clone__has_the_parameters_and_no_fit() -> None:
    first = OpenWorldClassifier("auto", rounds=2, folds=4, anchor=1.0, prior=0.0, random_state=5)
    second = clone(first)
    assert second.get_params() == first.get_params()
    assert second.get_params()["unknown"] == "auto"
    with pytest.raises(ValueError, match="not fitted"):
        second.predict(np.ones((3, 9)))


@pytest.mark.parametrize("extra", [False, True])
@every_kind
def test_fit__wide_features_are_reduced(
    toy: Callable[..., Any],
    fitted: Callable[..., OpenWorldClassifier],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    extra: bool,
) -> None:
    whole = fitted(kind, extra)
    monkeypatch.setattr(rows_module, "WIDEST", 8)
    reduced = fit(toy(), kind, extra)
    given = toy().extra if extra else None
    same = whole.predict(toy().x, given) == reduced.predict(toy().x, given)
    assert whole.model_.weights.shape == reduced.model_.weights.shape
    assert same.mean() > 0.9 or kind == "unknown"  # new classes have no order


@every_kind
def test_max_unlabelled__as_many_as_there_are_changes_nothing(
    toy: Callable[..., Any], fitted: Callable[..., OpenWorldClassifier], kind: str
) -> None:
    parameters, data = toy().given(kind)
    found = small(**parameters, max_unlabelled=66).fit(toy().x, **data)
    for name, value in vars(fitted(kind, False).model_).items():
        assert torch.equal(getattr(found.model_, name), value), name
    assert found.transduction_.tolist() == fitted(kind, False).transduction_.tolist()


@pytest.mark.parametrize("kind", ["names", "labels and names", "unknown and labels"])
def test_max_unlabelled__learns_from_the_drawn_rows_and_predicts_all(
    toy: Callable[..., Any], kind: str
) -> None:
    parameters, data = toy(noise=1.0).given(kind)
    x, extra = toy(noise=1.0).x, toy(noise=1.0).extra
    rows = draw_rows(data["y"], 66, 40, 2)
    assert rows is not None
    found = small(**parameters, max_unlabelled=40, random_state=2).fit(x, extra=extra, **data)
    y = None if data["y"] is None else data["y"][rows]
    alone = small(**parameters, random_state=2).fit(x[rows], extra=extra[rows], **data | {"y": y})
    for name, value in vars(alone.model_).items():
        assert torch.equal(getattr(found.model_, name), value), name
    given = np.full(66, -1) if data["y"] is None else data["y"]
    assert found.transduction_[given >= 0].tolist() == given[given >= 0].tolist()
    assert found.transduction_[given < 0].tolist() == found.predict(x, extra)[given < 0].tolist()
    others = np.setdiff1d(np.arange(66), rows)
    for name, nothing in {"opinion_": -1, "suspicious_": False, "label_quality_": np.nan}.items():
        assert np.array_equal(getattr(found, name)[rows], getattr(alone, name), equal_nan=True)
        wanted = np.full(len(others), nothing)
        assert np.array_equal(getattr(found, name)[others], wanted, equal_nan=True)


def test_max_unlabelled__errors_name_the_row_that_was_given(toy: Callable[..., Any]) -> None:
    rows = draw_rows(None, 66, 5, 0)
    assert rows is not None
    x = toy().x.copy()
    x[rows[3], 2] = np.nan
    with pytest.raises(RequestError, match=f"row {rows[3]} of X has a value that is NaN"):
        small(max_unlabelled=5).fit(x, class_text=toy().texts)
    with pytest.raises(RequestError, match="max_unlabelled is 0, but at least 1 row"):
        small(max_unlabelled=0).fit(toy().x, class_text=toy().texts)


class LargestTensor(TorchFunctionMode):
    """Bytes of the largest tensor that any call of torch returns."""

    bytes = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **kwargs or {})
        if isinstance(result, torch.Tensor):
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


SAMPLES = [
    (rows_module, "BLOCK"),
    (discovery, "READ"),
    (discovery, "MAX_IMAGES"),
    (discovery_expert, "MAX_IMAGES"),
    (mixture, "MAX_HELD_OUT"),
    (mixture, "SPREAD_IMAGES"),
    (open_world_fit, "MAX_SCORES"),
    (text_expert, "MAX_IMAGES"),
]
"""Numbers of rows that are in memory at once."""


@pytest.mark.parametrize(
    ("kind", "most", "bytes_per_row"),
    [
        ("names", None, 60),
        ("unknown and names", None, 60),
        ("labels or names", 300, 40),
        ("unknown and names", 300, 40),
    ],
)
def test_fit__memory_of_a_row(
    monkeypatch: pytest.MonkeyPatch,
    toy: Callable[..., Any],
    kind: str,
    most: int | None,
    bytes_per_row: int,
) -> None:
    """A row of 9 float32 has 36 bytes: none of torch's tensors holds all of them."""
    for module, name in SAMPLES:
        monkeypatch.setattr(module, name, 128)
    parameters, data = toy().given(kind)
    peaks = []
    largest = []
    for times in (15, 30):
        x = np.tile(toy().x, (times, 1))
        x += 0.1 * np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
        y = None if data["y"] is None else np.pad(data["y"], (0, len(x) - 66), constant_values=-1)
        tracemalloc.start()
        with LargestTensor() as found:
            small(**parameters, max_unlabelled=most).fit(x, **data | {"y": y})
        peaks.append(tracemalloc.get_traced_memory()[1])
        largest.append(found.bytes)
        tracemalloc.stop()
    assert (largest[1] - largest[0]) / (15 * 66) <= 8, "a number for each row, and no more"
    assert (peaks[1] - peaks[0]) / (15 * 66) < bytes_per_row
