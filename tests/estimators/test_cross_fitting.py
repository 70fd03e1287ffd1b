"""Held-out predictions of the mixture: no label takes part in its own prediction.

N = 66 images, D = 9 features, H = 13 further ones, C = 4 classes (`conftest.py`), F = 3 folds.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from anyclass.estimators import cross_fitting
from anyclass.estimators import mixture as mixture_module
from anyclass.estimators.cross_fitting import assign_folds
from anyclass.estimators.mixture import Mixture, MixtureSettings
from anyclass.estimators.rows import Rows
from anyclass.estimators.text_expert import CentredTexts, text_anchors
from anyclass.log import silent

KINDS = ["labels", "labels and names", "labels or names", "names for some"]


def fitted(
    toy: Any, y: np.ndarray, class_text: np.ndarray | None, extra: np.ndarray | None = None
) -> Mixture:
    rows = Rows.checked(toy.x, extra).centred()
    texts = CentredTexts.of(class_text, 9).padded(4)
    anchors = text_anchors(rows, texts, 2.5)
    member = torch.ones(66, dtype=torch.bool)
    text = texts.expert(20.0)
    found = Mixture(rows, torch.tensor(y), text, anchors, MixtureSettings(2, 3, 2.0, 0.4), member)
    found.fit(silent)
    return found


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_opinions__do_not_depend_on_the_label_of_the_image(
    toy: Callable[..., Any], kind: str, extra: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With given folds and weights: both depend on all labels, the weights by three numbers."""
    data = toy(noise=1.5).given(kind)[1]
    more = toy(noise=1.5).extra if extra else None
    y = data["y"]
    fold, group = assign_folds(Rows.checked(toy(noise=1.5).x, None), torch.tensor(y), 4, 3)
    monkeypatch.setattr(cross_fitting, "assign_folds", lambda *_: (fold, group))
    monkeypatch.setattr(
        mixture_module, "stack", lambda a, y, p, o, v: ([0.7, 0.1, 0.2][: len(a)], [0.3] * len(o))
    )
    first = fitted(toy(noise=1.5), y, data["class_text"], more)
    before = first.opinions()
    labelled = sorted({*y[y >= 0].tolist()})
    for i in np.flatnonzero(y >= 0)[::3]:
        changed = y.copy()
        changed[i] = next(c for c in labelled if c != y[i])
        second = fitted(toy(noise=1.5), changed, data["class_text"], more)
        after = second.opinions()
        assert after[0][i] == before[0][i]
        assert torch.equal(after[1][i], before[1][i])
        others = fold != fold[i]
        assert not torch.equal(after[2][others], before[2][others]), "it does tell the others"


@pytest.mark.parametrize("kind", KINDS)
def test_opinions__are_the_logits_of_the_replica_without_the_fold(
    toy: Callable[..., Any], kind: str
) -> None:
    data = toy(noise=1.0).given(kind)[1]
    found = fitted(toy(noise=1.0), data["y"], data["class_text"])
    best, top, given = found.opinions()
    for i, y in enumerate(data["y"].tolist()):
        if y < 0:
            assert best[i] == -1
            assert bool(given[i].isnan()) and bool(top[i].isnan())
            continue
        f = int(found.replicas.fold[i])
        assert y not in found.replicas.visible(f)[found.replicas.fold == f]
        x, h = found.rows.at(np.array([i]))
        p = found.logits(x, h, f, f).softmax(1)[0]
        assert best[i] == p.argmax()
        assert float(top[i]) == pytest.approx(float(p.max()), rel=1e-5)
        assert float(given[i]) == pytest.approx(float(p[y]), rel=1e-5)


def test_visible__hides_whole_classes_only_where_others_have_a_name(
    toy: Callable[..., Any],
) -> None:
    for kind, mixed in [("labels", False), ("labels or names", True), ("names for some", True)]:
        data = toy().given(kind)[1]
        found = fitted(toy(), data["y"], data["class_text"]).replicas
        named = found.named
        assert found.mixed == mixed
        for r in range(3):
            seen = found.visible(r)
            for i, y in enumerate(data["y"].tolist()):
                hidden = found.fold[i] == r or (mixed and named[y] and found.group[y] == r)
                assert int(seen[i]) == (-1 if hidden or y < 0 else y)
        assert torch.equal(found.visible(3), found.labels)


def test_opinions__a_class_without_another_label_or_a_name_has_none(
    toy: Callable[..., Any],
) -> None:
    y = toy().labels(0, 1, 2)
    y[np.flatnonzero(y == 2)[1:]] = -1
    best, top, given = fitted(toy(), y, None).opinions()
    alone = y == 2
    assert best[alone].tolist() == [-1]
    assert bool(top[alone].isnan().all()) and bool(given[alone].isnan().all())
    assert bool((best[(y >= 0) & ~alone] >= 0).all())


def test_assign_folds__spreads_each_class_and_keeps_equal_images_together(
    toy: Callable[..., Any],
) -> None:
    x = np.concatenate([toy().x, toy().x[::2]])
    truth = torch.tensor(np.concatenate([toy().truth, toy().truth[::2]]))
    labels = torch.where(truth == 3, -1, truth)
    fold, group = assign_folds(Rows.checked(x, None), labels, 4, 5)
    assert torch.equal(fold[66:], fold[:66:2])
    assert sorted(group[:3].tolist()) == [0, 1, 2]
    for c in (-1, 0, 1, 2):
        counts = fold[:66][labels[:66] == c].bincount(minlength=5)
        assert int(counts.max() - counts.min()) <= 1


def test_assign_folds__does_not_depend_on_the_order_of_images_and_classes(
    toy: Callable[..., Any],
) -> None:
    labels = torch.tensor(toy().labels(0, 1, 3, each=7))
    fold, group = assign_folds(Rows.checked(toy().x, None), labels, 4, 3)
    draw = np.random.default_rng(0)
    order = draw.permutation(66)
    new = torch.tensor([2, 0, 1, 3])
    renamed = torch.where(labels >= 0, new[labels.clamp_min(0)], -1)
    other, other_group = assign_folds(Rows.checked(toy().x[order], None), renamed[order], 4, 3)
    assert torch.equal(other, fold[order])
    assert torch.equal(other_group[new[[0, 1, 3]]], group[[0, 1, 3]])
