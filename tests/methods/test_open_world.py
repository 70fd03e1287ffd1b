"""Open-world: any mix of labels, names and unknown classes; the model is never changed.

N = 13 images, D = 24; `half_known` has two labelled classes, a named and an unknown one.
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
from anyclass.data.nouns import some_nouns
from anyclass.estimators.open_world import OpenWorldClassifier
from anyclass.estimators.open_world_model import OpenWorldModel
from anyclass.features.store import FeatureStore
from anyclass.methods.few_shot import draw_shots
from anyclass.methods.open_world import OpenWorld

Fit = Callable[..., tuple[Classifier, list[dict[str, Any]]]]
LABELS = np.array([0, -1, 1, -1, 0, -1, -1, 1, 0, -1, -1, -1, 1])


def silent(**_: Any) -> None:
    """Log nothing."""


@pytest.fixture
def some(dataset: ImageDataset) -> ImageDataset:
    """The first two of four classes are labelled, three images each."""
    classes = Classes.of(dataset.classes.names, labelled=dataset.classes.names[:2])
    return replace(dataset, labels=LABELS.copy(), classes=classes)


@pytest.mark.parametrize(
    ("unknown", "nouns", "most"), [(0, 0, None), (0, 30, 4), (2, 0, 5), (2, 30, None)]
)
def test_fit__is_the_estimator_on_features_of_the_tower(
    fit: Fit, clip: Backbone, some: ImageDataset, unknown: int, nouns: int, most: int | None
) -> None:
    some = replace(some, classes=replace(some.classes, unknown=unknown))
    found = fit(OpenWorld(rounds=2, nouns=nouns, max_unlabelled=most), some, seed=5)[0]
    data = FeatureStore(clip, some)
    x = data.image_features("head", silent).cpu()
    h = data.backbone_features("head", silent).to(x)
    estimator = OpenWorldClassifier(unknown, rounds=2, random_state=5, max_unlabelled=most)
    texts = data.class_features([OpenWorld().template])
    words = [f"a photo of a {noun}." for noun in some_nouns(nouns)] if nouns else None
    others = clip.texts(words) if words else None
    scale = clip.logit_scale.item()
    estimator.fit(x, torch.tensor(LABELS), texts, scale, extra=h, negative_text=others)
    wanted = estimator.predict_proba(x, h)
    assert wanted.shape == (13, 4 + unknown)
    np.testing.assert_allclose(found.predict_proba(some), wanted, atol=1e-4)
    assert isinstance(found.head, OpenWorldModel)
    assert len(found.head.nouns) == {0: 0, 30: 25}[nouns], "85 % of them"


def test_fit__leaves_the_model(fit: Fit, clip: Backbone, half_known: ImageDataset) -> None:
    before = clip.fingerprint()
    fit(OpenWorld(), half_known)
    assert torch.equal(clip.fingerprint(), before)


def test_fit__same_seed_same_bytes(fit: Fit, half_known: ImageDataset) -> None:
    first, again = (fit(OpenWorld(), half_known, seed=4)[0].head for _ in range(2))
    assert torch.equal(first.weights, again.weights)
    assert torch.equal(first.scores, again.scores)


def test_fit__names_stay_and_unknown_classes_are_numbered(
    fit: Fit, half_known: ImageDataset
) -> None:
    found = fit(OpenWorld(), half_known)[0]
    assert found.classes.names == ("two", "orange", "art", "discovered 1")
    assert found.classes.kinds == ("labelled", "named", "labelled", "unknown")
    assert found.classes.unknown == 0
    assert found.predict_proba(half_known).shape == (13, 4)
    np.testing.assert_allclose(found.predict_proba(half_known).sum(1), 1, atol=1e-5)


def test_fit__hidden_labels_are_never_read(fit: Fit, some: ImageDataset) -> None:
    """Those beyond `shots` may as well be wrong."""
    chosen = draw_shots(LABELS, 2, 3)
    wrong = 1 - LABELS
    wrong[LABELS < 0] = -1
    wrong[chosen] = LABELS[chosen]
    first = fit(OpenWorld(shots=2), some, seed=3)[0]
    assert sorted(first.record.trained_on) == [some.files[i] for i in chosen]
    hidden = some.labels.copy()
    hidden[np.setdiff1d(np.arange(13), chosen)] = -1
    second = fit(OpenWorld(), replace(some, labels=hidden), seed=3)[0]
    assert torch.equal(first.head.weights, second.head.weights)


def test_fit__zero_shots_are_names_alone(fit: Fit, some: ImageDataset) -> None:
    first = fit(OpenWorld(shots=0), some)[0]
    second = fit(OpenWorld(), some.unlabelled_copy())[0]
    assert torch.equal(first.head.weights, second.head.weights)
    assert list(first.record.trained_on) == []
    labelled = fit(OpenWorld(), some)[0]
    assert not torch.equal(first.head.weights, labelled.head.weights)


def test_fit__records_what_each_expert_says(fit: Fit, some: ImageDataset) -> None:
    record = fit(OpenWorld(), some)[0].record
    assert sorted(record.trained_on) == [some.files[i] for i in np.flatnonzero(LABELS >= 0)]
    assert set(record.contributions) == {"text", "labels", "images"}
    assert sum(record.contributions.values()) == pytest.approx(1)
    assert (np.array(record.opinions) >= 0).tolist() == (LABELS >= 0).tolist()
    assert np.isnan(record.label_quality).tolist() == (LABELS < 0).tolist()
    assert all(LABELS[i] >= 0 for i in record.suspicious)


@pytest.mark.parametrize(("unknown", "total"), [(0, 1), (2, 3)])
def test_fit__a_single_name(fit: Fit, dataset: ImageDataset, unknown: int, total: int) -> None:
    """Alone, it takes every image."""
    one = replace(dataset, classes=Classes.of(["two"], unknown=unknown))
    found = fit(OpenWorld(), one)[0]
    probabilities = found.predict_proba(one)
    assert probabilities.shape == (13, total)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def test_fit__nothing_known_is_a_clustering(fit: Fit, dataset: ImageDataset) -> None:
    nothing = replace(dataset, classes=Classes.of([], unknown=3))
    found = fit(OpenWorld(), nothing)[0]
    assert found.classes.names == ("discovered 1", "discovered 2", "discovered 3")
    assert len(set(found.predict_proba(nothing).argmax(1))) == 3


@pytest.mark.parametrize("kind", ["siglip", "coca"])
def test_save__and_load_of_every_tower(
    tiny_clip: Callable[..., str], half_known: ImageDataset, tmp_path: Path, kind: str
) -> None:
    clip = Backbone.load(tiny_clip(kind), engine="torch")
    classifier = OpenWorld().fit(FeatureStore(clip, half_known), silent)
    classifier.save(tmp_path)
    again = Classifier.load(tmp_path, engine="torch")
    assert np.array_equal(again.predict_proba(half_known), classifier.predict_proba(half_known))
