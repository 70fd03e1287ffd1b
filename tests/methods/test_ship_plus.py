"""SHIP-plus: labels count, the others are never read, and unlabelled pictures speak.

N = 13 pictures of 4 classes, of which two are labelled; D = 24.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import Classes, Photos
from anyclass.errors import RequestError
from anyclass.estimators.gaussian_em import Gaussians
from anyclass.features.extract import Embedding, embed, image_features, tower_features
from anyclass.features.text import PLAIN, class_features
from anyclass.methods.latteclip_plus import LatteClipPlus
from anyclass.methods.ship_plus import ShipPlus
from anyclass.methods.zero_shot import ZeroShot

Fit = Callable[..., tuple[Classifier, list[dict[str, Any]]]]
LABELS = np.array([0, -1, 1, -1, 0, -1, -1, 1, 0, -1, -1, -1, 1])


@pytest.fixture
def some(photos: Photos) -> Photos:
    """The first two classes are labelled, three pictures each."""
    classes = Classes.of(photos.classes.names, labelled=photos.classes.names[:2])
    return replace(photos, labels=LABELS.copy(), classes=classes)


def test_fit__is_the_gaussians_of_labels_and_pictures(
    fit: Fit, clip: Backbone, some: Photos
) -> None:
    how = Gaussians(weight=1.5, trust=0.5)
    found = fit(ShipPlus(gaussians=how), some)[0]
    shown = embed(clip, some, Embedding("head"), lambda **_: None)
    x, h = image_features(clip, shown, "head"), tower_features(shown)
    with torch.no_grad():
        logits = clip.logit_scale * x @ class_features(clip, some.classes.prompts, [PLAIN]).T
        torch.manual_seed(0)
        linear = how.learn(logits, h - h.mean(0), torch.tensor(LABELS), lambda **_: None)
        wanted = logits + (h - h.mean(0)) @ linear.v + linear.bias
    np.testing.assert_allclose(found.predict_proba(some), wanted.softmax(1), atol=1e-4)


def test_fit__without_a_round_is_zero_shot(fit: Fit, some: Photos) -> None:
    found = fit(ShipPlus(gaussians=Gaussians(rounds=0)), some)[0].predict_proba(some)
    np.testing.assert_allclose(found, fit(ZeroShot(), some)[0].predict_proba(some), atol=1e-5)


def test_fit__labels_move_it(fit: Fit, some: Photos) -> None:
    trusting = Gaussians(weight=2.0, trust=0.0)
    with_labels = fit(ShipPlus(gaussians=trusting), some)[0].weights
    without = fit(LatteClipPlus(gaussians=trusting), some)[0].weights
    assert not torch.allclose(with_labels, without, atol=1e-3)


def test_fit__labels_beyond_the_shots_are_never_read(fit: Fit, some: Photos) -> None:
    first, facts = fit(ShipPlus(shots=2), some)[0], {}
    kept = np.isin(some.files, first.record["learned_from"])
    assert kept.sum() == 4
    hidden = replace(some, labels=np.where(kept, some.labels, -1))
    facts = fit(ShipPlus(), hidden)[0]
    assert torch.equal(first.weights, facts.weights)
    assert facts.record["facts"]["labelled_pictures"] == 4
    assert facts.record["facts"]["unlabelled_pictures"] == 9


def test_fit__of_labelled_pictures_alone(fit: Fit, some: Photos) -> None:
    alone = fit(ShipPlus(unlabelled=False), some)[0]
    assert torch.equal(alone.weights, fit(ShipPlus(), some.labelled)[0].weights)
    assert not torch.equal(alone.weights, fit(ShipPlus(), some)[0].weights)


def test_fit__same_seed_same_bytes(fit: Fit, some: Photos) -> None:
    how = ShipPlus(gaussians=Gaussians(trust=0.0))
    first, again, other = (fit(how, some, seed=seed)[0].weights for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_fit__needs_two_classes_and_a_label(fit: Fit, photos: Photos) -> None:
    with pytest.raises(RequestError, match="two names"):
        fit(ShipPlus(), Photos.read(photos.root, ["only one"]))
    with pytest.raises(RequestError, match="no picture has a label"):
        fit(ShipPlus(), photos)


def test_save__and_load(fit: Fit, some: Photos, tmp_path: Path) -> None:
    classifier = fit(ShipPlus(), some)[0]
    classifier.save(tmp_path)
    again = Classifier.load(tmp_path, engine="torch")
    assert np.array_equal(again.predict_proba(some), classifier.predict_proba(some))
    assert again.method == "ship-plus"
