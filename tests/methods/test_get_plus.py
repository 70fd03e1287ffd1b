"""GET-plus: easy clusters are found, hidden labels are never read, it is inductive."""

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
from anyclass.errors import ModelError, RequestError
from anyclass.estimators.metrics import clustering
from anyclass.estimators.num_classes import Count
from anyclass.features.store import FeatureStore
from anyclass.methods.get_plus import GetPlus

Fit = Callable[..., tuple[Classifier, list[dict[str, Any]]]]
LABELS = np.array([0, -1, 1, -1, 0, -1, -1, 1, 0, -1, -1, -1, 1])


@pytest.fixture
def some(dataset: ImageDataset) -> ImageDataset:
    """Two labelled classes, three images each, and two unknown ones."""
    classes = Classes.of(["two", "orange"], labelled=["two", "orange"], unknown=2)
    return replace(dataset, labels=LABELS.copy(), classes=classes)


@pytest.mark.parametrize("seed", [0])
def test_learn__finds_easy_classes_under_a_loud_direction(
    loud_blobs: Callable[[int], Any], seed: int
) -> None:
    from anyclass.estimators.kmeans import nearest, semi_supervised_kmeans

    rows, truth, labels = loud_blobs(seed)
    how = GetPlus()
    u = how.sharpening.spaces(rows, 12, labels, 10).transform(rows)
    assert u.shape == (200, 20)
    torch.testing.assert_close(u.norm(dim=1), torch.ones(200))
    found = semi_supervised_kmeans(u, labels, 5, 10, seed=0)
    linear = how._em(u, labels, found.labels, 5, lambda **_: None)
    hidden, guess = (labels < 0).numpy(), linear.logits(u).argmax(1)
    score = clustering(truth.numpy()[hidden], guess.numpy()[hidden], range(3))
    assert score is not None
    assert score["all"] > 0.95
    assert score["old_fixed"] > 0.95
    plain = rows[:, 12:-1]
    raw = nearest(plain, semi_supervised_kmeans(plain, labels, 5, 10, seed=0).centres)
    loud = clustering(truth.numpy()[hidden], raw.numpy()[hidden], range(3))
    assert loud is not None
    assert loud["all"] < 0.8


def test_fit__hidden_labels_are_never_read_and_seeds_repeat(fit: Fit, some: ImageDataset) -> None:
    first = fit(GetPlus(), some)[0]
    again = fit(GetPlus(), replace(some))[0]
    assert torch.equal(first.head.weights, again.head.weights)
    assert first.classes_ == ["two", "orange", "discovered 1", "discovered 2"]
    assert len(first.record.trained_on) == 6
    assert first.predict_proba(some).shape == (13, 4)
    found = first.predict_proba(some).argmax(1)
    assert found.tolist() == first.record.predictions["predicted"]


def test_fit__without_rounds_is_the_nearest_mean(fit: Fit, some: ImageDataset) -> None:
    found = fit(GetPlus(rounds=0), some)[0]
    other = fit(GetPlus(), some)[0]
    assert not torch.equal(found.head.weights, other.head.weights)


def test_fit__refuses_what_cannot_be(fit: Fit, some: ImageDataset) -> None:
    with pytest.raises(RequestError, match="no image has a label"):
        fit(GetPlus(), some.unlabelled_copy())
    with pytest.raises(RequestError, match="cannot be found in 13 images"):
        fit(GetPlus(), replace(some, classes=replace(some.classes, unknown=40)))


@pytest.mark.parametrize("kind", ["siglip", "coca"])
def test_save__and_load_of_every_tower(
    tiny_clip: Callable[..., str], some: ImageDataset, tmp_path: Path, kind: str
) -> None:
    clip = Backbone.load(tiny_clip(kind), engine="torch")
    classifier = GetPlus().fit(FeatureStore(clip, some), lambda **_: None)
    classifier.save(tmp_path)
    again = Classifier.load(tmp_path, engine="torch")
    assert np.array_equal(again.predict_proba(some), classifier.predict_proba(some))
    settings = tmp_path / "classifier.json"
    settings.write_text(settings.read_text().replace('"share"', '"shore"'))
    with pytest.raises(ModelError, match="other names"):
        Classifier.load(tmp_path, engine="torch")


def test_fit__too_many_classes_are_fewer_unless_it_must_not(
    fit: Fit, some: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The range of the count decides; names and one discovered class are never given up."""
    asked = replace(some, classes=replace(some.classes, unknown=4))
    for most, names in ((4, ["discovered 1", "discovered 2"]), (2, ["discovered 1"])):
        found = Count(2, (2, most), {2: 1.0}, 0.1)
        monkeypatch.setattr(
            "anyclass.methods.get_plus.estimate_num_classes", lambda *_, f=found, **__: f
        )
        classifier, log = fit(GetPlus(), asked)
        assert classifier.classes_ == ["two", "orange", *names]
        warnings = [row["warning"] for row in log if "warning" in row]
        assert len(warnings) == 1
        assert warnings[0].startswith(f"6 classes were asked for; more than {2 + len(names)} would")
        assert classifier.predict_proba(some).shape == (13, 2 + len(names))
    classifier, log = fit(GetPlus(may_find_fewer=False), asked)
    assert len(classifier.classes_) == 6
    assert not any("warning" in row for row in log)
