"""SHIP-plus: labels count, the others are never read, and unlabelled images speak.

N = 13 images of 4 classes, of which two are labelled; D = 24.
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
from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError
from anyclass.estimators.gaussian_em import GaussianEM
from anyclass.features.cache import Embedding
from anyclass.features.extract import image_features, tower_features
from anyclass.features.store import embed
from anyclass.features.text import PLAIN, class_features
from anyclass.methods.latteclip_plus import LatteClipPlus
from anyclass.methods.ship_plus import ShipPlus
from anyclass.methods.zero_shot import ZeroShot

Fit = Callable[..., tuple[Classifier, list[dict[str, Any]]]]
LABELS = np.array([0, -1, 1, -1, 0, -1, -1, 1, 0, -1, -1, -1, 1])


@pytest.fixture
def some(dataset: ImageDataset) -> ImageDataset:
    """The first two classes are labelled, three images each."""
    classes = Classes.of(dataset.classes.names, labelled=dataset.classes.names[:2])
    return replace(dataset, labels=LABELS.copy(), classes=classes)


def test_fit__is_the_gaussians_of_labels_and_images(
    fit: Fit, clip: Backbone, some: ImageDataset
) -> None:
    how = GaussianEM(weight=1.5, trust=0.5)
    found = fit(ShipPlus(gaussians=how), some)[0]
    labelled = embed(clip, some, Embedding("head"), lambda **_: None)
    x, h = image_features(clip, labelled, "head"), tower_features(labelled)
    with torch.no_grad():
        logits = clip.logit_scale * x @ class_features(clip, some.classes.prompts, [PLAIN]).T
        linear = how.learn(logits, h - h.mean(0), torch.tensor(LABELS), lambda **_: None)
        wanted = logits + linear.logits(h - h.mean(0))
    np.testing.assert_allclose(found.predict_proba(some), wanted.softmax(1), atol=1e-4)


def test_fit__without_a_round_is_zero_shot(fit: Fit, some: ImageDataset) -> None:
    found = fit(ShipPlus(gaussians=GaussianEM(rounds=0)), some)[0].predict_proba(some)
    np.testing.assert_allclose(found, fit(ZeroShot(), some)[0].predict_proba(some), atol=1e-5)


def test_fit__labels_move_it(fit: Fit, some: ImageDataset) -> None:
    trusting = GaussianEM(weight=2.0, trust=0.0)
    with_labels = fit(ShipPlus(gaussians=trusting), some)[0].head.weights
    without = fit(LatteClipPlus(gaussians=trusting), some)[0].head.weights
    assert not torch.allclose(with_labels, without, atol=1e-3)


def test_fit__labels_beyond_the_shots_are_never_read(fit: Fit, some: ImageDataset) -> None:
    first, facts = fit(ShipPlus(shots=2), some)[0], {}
    kept = np.isin(some.files, first.record.trained_on)
    assert kept.sum() == 4
    hidden = replace(some, labels=np.where(kept, some.labels, -1))
    facts = fit(ShipPlus(), hidden)[0]
    assert torch.equal(first.head.weights, facts.head.weights)
    assert facts.record.facts["labelled_images"] == 4
    assert facts.record.facts["unlabelled_images"] == 9


def test_fit__of_labelled_images_alone(fit: Fit, some: ImageDataset) -> None:
    alone = fit(ShipPlus(unlabelled=False), some)[0]
    assert torch.equal(alone.head.weights, fit(ShipPlus(), some.labelled)[0].head.weights)
    assert not torch.equal(alone.head.weights, fit(ShipPlus(), some)[0].head.weights)


def test_fit__same_seed_same_bytes(fit: Fit, some: ImageDataset) -> None:
    how = ShipPlus(gaussians=GaussianEM(trust=0.0))
    first, again, other = (fit(how, some, seed=seed)[0].head.weights for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_fit__needs_two_classes_and_a_label(fit: Fit, dataset: ImageDataset) -> None:
    with pytest.raises(RequestError, match="two or more class names"):
        fit(ShipPlus(), ImageDataset.read(dataset.root, ["only one"]))
    with pytest.raises(RequestError, match="no image has a label"):
        fit(ShipPlus(), dataset)


def test_save__and_load(fit: Fit, some: ImageDataset, tmp_path: Path) -> None:
    classifier = fit(ShipPlus(), some)[0]
    classifier.save(tmp_path)
    again = Classifier.load(tmp_path, engine="torch")
    assert np.array_equal(again.predict_proba(some), classifier.predict_proba(some))
    assert again.method == "ship-plus"
