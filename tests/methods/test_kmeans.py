"""k-means of frozen features: which features, which images, whose names.

13 mosaics, two labelled classes of four; unit features of 24 dimensions, or 32 before the
projection.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Plain

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.estimators.kmeans import semi_supervised_kmeans
from anyclass.features.cache import Embedding
from anyclass.features.extract import image_features, pooled_features
from anyclass.features.store import FeatureStore
from anyclass.methods.kmeans import KMeans, match_clusters

Fit = Callable[..., tuple[Classifier, list[dict[str, Any]]]]


def test_match_clusters__gives_each_class_the_cluster_that_its_labels_agree_on() -> None:
    clusters = torch.tensor([3, 3, 1, 3, 0, 0, 4])
    labels = torch.tensor([2, 2, 2, 0, 0, 0, 0])  # 2 would have 3 (2 of 3), 0 has 0 (2 of 4)
    assert match_clusters(clusters, labels, 5).tolist() == [0, 1, 3, 2, 4]
    assert match_clusters(clusters[:0], labels[:0], 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("feature", "fit_on"), [("projected", "unlabelled"), ("unprojected", "all")]
)
def test_fit__is_k_means_of_unit_features(
    fit: Fit, clip: Backbone, half_known: ImageDataset, feature: Any, fit_on: Any
) -> None:
    classifier, _ = fit(KMeans(feature=feature, fit_on=fit_on), half_known)
    features = FeatureStore(clip, half_known).embed(Embedding("head"), lambda **_: None)
    seen = image_features if feature == "projected" else pooled_features
    x = seen(clip, features, "head").double().numpy()
    some = x[half_known.labels < 0] if fit_on == "unlabelled" else x
    plain = Plain(4, n_init=10, random_state=0).fit(some)
    centres = classifier.head.weights.double().numpy()
    for centre in plain.cluster_centers_:
        assert np.abs(centres - centre).sum(1).min() < 1e-4
    guess = classifier.predict_proba(half_known).argmax(1)
    distance = np.square(x[:, None] - centres[None]).sum(2)
    assert (
        guess.tolist() == distance.argmin(1).tolist() == classifier.record.predictions["predicted"]
    )
    labelled = half_known.labels >= 0
    probabilities = np.exp(-distance / 2 / 0.1)
    probabilities /= probabilities.sum(1, keepdims=True)
    assert np.allclose(classifier.predict_proba(half_known), probabilities, atol=1e-4)
    assert (guess == half_known.labels)[labelled].mean() > 0.2
    assert classifier.classes_ == ["two", "discovered 1", "art", "discovered 2"]


def test_fit__semi_supervised_keeps_known_classes_at_their_index(
    fit: Fit, clip: Backbone, half_known: ImageDataset
) -> None:
    classifier, _ = fit(KMeans(semi_supervised=True, restarts=8), half_known)
    features = FeatureStore(clip, half_known).embed(Embedding("head"), lambda **_: None)
    x, y = image_features(clip, features, "head"), torch.from_numpy(half_known.labels.copy())
    wanted = semi_supervised_kmeans(x, y, 4, 8, seed=0)
    assert torch.equal(classifier.head.weights, wanted.centres)
    assert classifier.record.inertia == wanted.inertia


@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize("semi_supervised", [False, True])
def test_fit__finds_easy_clusters(
    fit: Fit, blobs: Callable[[int], Any], seed: int, semi_supervised: bool
) -> None:
    problem = blobs(seed)
    how = KMeans(semi_supervised=semi_supervised, feature="unprojected")
    found = problem.scores(fit(how, problem.dataset)[0])
    assert found["all"] > 0.95
    assert found["old_fixed"] > 0.95


def test_fit__without_any_label_discovers_all(fit: Fit, half_known: ImageDataset) -> None:
    classifier, _ = fit(KMeans(), half_known.unlabelled_copy())
    assert classifier.classes_ == [f"discovered {i}" for i in (1, 2, 3, 4)]
    assert len(set(classifier.predict(half_known))) == 4


def test_fit__leaves_the_model_and_follows_the_seed(
    fit: Fit, clip: Backbone, half_known: ImageDataset
) -> None:
    before = clip.fingerprint()
    how = KMeans(restarts=1)
    first, again = (fit(how, half_known, seed=2)[0] for _ in range(2))
    assert torch.equal(first.head.weights, again.head.weights)
    assert torch.equal(clip.fingerprint(), before)


@pytest.mark.parametrize("how", [KMeans(feature="unprojected"), KMeans(semi_supervised=True)])
def test_save__and_load_predict_the_same_bits(
    fit: Fit, half_known: ImageDataset, tmp_path: Path, how: KMeans
) -> None:
    classifier, _ = fit(how, half_known)
    classifier.save(tmp_path)
    again = Classifier.load(tmp_path, engine="torch")
    probabilities = again.predict_proba(half_known)
    assert probabilities.tobytes() == classifier.predict_proba(half_known).tobytes()
    assert again.classes == classifier.classes


@pytest.mark.parametrize(
    ("how", "unknown", "labels", "why"),
    [
        (KMeans(), 30, None, "33 classes cannot be found in 8 images without a label"),
        (KMeans(semi_supervised=True), 30, None, "31 classes cannot be found in 8 images"),
        (KMeans(semi_supervised=True), 1, [-1] * 13, "do not use --semi-supervised"),
        (KMeans(), 1, [0] * 13, "every image has a label, .*--fit-on all"),
        (KMeans(fit_on="all"), 30, [0] * 13, "33 classes cannot be found in 13 images;"),
    ],
)
def test_fit__refuses_what_cannot_be_met(
    fit: Fit, half_known: ImageDataset, how: KMeans, unknown: int, labels: Any, why: str
) -> None:
    classes = replace(half_known.classes, unknown=unknown)
    given = half_known.labels if labels is None else np.array(labels)
    with pytest.raises(RequestError, match=why):
        fit(how, replace(half_known, classes=classes, labels=given))
