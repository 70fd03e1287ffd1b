"""GCD: contrast of its head, then k-means with some labels of the trained tower's features.

13 mosaics, two labelled classes of four; P = 11, E = 9.
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
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.estimators.kmeans import nearest_centre, semi_supervised_kmeans
from anyclass.features.cache import Embedding
from anyclass.features.extract import pooled_features
from anyclass.features.store import FeatureStore
from anyclass.methods.gcd import ContrastHead, Gcd
from anyclass.methods.gcd_common import MlpShape
from anyclass.training.two_views import TwoViewTuning

Fit = Callable[..., tuple[Classifier, list[dict[str, Any]]]]
SMALL = MlpShape(12, 9)


def small(**changed: Any) -> Gcd:
    how = {"epochs": 3, "batch_size": 5, "views": 3, "lr": 0.05}
    how |= {name: changed.pop(name) for name in vars(TwoViewTuning()) if name in changed}
    return Gcd(tuning=TwoViewTuning(**how), head=SMALL, rows=11, restarts=5, **changed)


def test_contrast_head__is_unit_before_and_after_its_rows() -> None:
    torch.manual_seed(0)
    head, v = ContrastHead(6, SMALL, 11), torch.randn(5, 6)
    h = head(v)
    assert h.shape == (5, 11)
    inner = head.mlp(v)
    wanted = [
        [float(a @ row / a.norm() / row.norm()) for row in head.w.detach()] for a in inner.detach()
    ]
    wanted = torch.tensor(wanted)
    wanted = wanted / wanted.square().sum(1, keepdim=True).sqrt()
    assert torch.allclose(h, wanted, atol=1e-5)


def test_fit__is_k_means_on_the_trained_features(
    fit: Fit, clip: Backbone, half_known: ImageDataset
) -> None:
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    classifier, log = fit(small(), half_known)
    tuned = classifier.clip
    moved = {n for n, t in tuned.model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == set(clip.last_stage())
    features = FeatureStore(tuned, half_known).embed(Embedding("tail"), lambda **_: None)
    x = pooled_features(tuned, features, "tail")
    y = torch.from_numpy(half_known.labels.copy())
    wanted = semi_supervised_kmeans(x, y, 4, 5, seed=0)
    assert torch.allclose(classifier.head.weights, wanted.centres, atol=1e-6)
    guess = classifier.predict_proba(half_known).argmax(1).tolist()
    assert (
        guess
        == classifier.record.predictions["predicted"]
        == nearest_centre(x, wanted.centres).tolist()
    )
    steps = [row for row in log if row.get("stage") == "fit"]
    assert {"views_loss", "classes_loss"} <= set(steps[0])
    assert len(steps) == 6


def test_fit__weighs_its_two_contrasts(fit: Fit, half_known: ImageDataset) -> None:
    rows = []
    for weight in (0.35, 0.7):
        _, log = fit(small(sup_weight=weight), half_known)
        rows.append(next(row for row in log if row.get("stage") == "fit"))
    assert rows[1]["classes_loss"] == pytest.approx(2 * rows[0]["classes_loss"], rel=1e-5)
    assert rows[1]["views_loss"] == pytest.approx(0.3 / 0.65 * rows[0]["views_loss"], rel=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_fit__finds_easy_clusters(fit: Fit, blobs: Callable[[int], Any], seed: int) -> None:
    how, problem = TwoViewTuning(tune="head", epochs=5, batch_size=64), blobs(seed)
    found = problem.scores(fit(Gcd(tuning=how, head=SMALL, rows=11), problem.dataset, seed)[0])
    assert found["all"] > 0.95
    assert found["old_fixed"] > 0.95


def test_fit__continued_after_a_kill_equals_an_unbroken_one(
    fit: Fit, once: Fit, half_known: ImageDataset, tmp_path: Path, killed: Callable[..., None]
) -> None:
    unbroken, _ = once(small(), half_known)
    killed(small(), half_known, tmp_path, "fit", 2)
    continued, _ = fit(small(), half_known, scratch=tmp_path)
    assert torch.equal(continued.head.weights, unbroken.head.weights)
    assert not torch.equal(fit(small(), half_known, seed=1)[0].head.weights, unbroken.head.weights)


def test_fit__refuses_what_cannot_be_met(fit: Fit, half_known: ImageDataset) -> None:
    with pytest.raises(RequestError, match="no image has a label"):
        fit(small(), half_known.unlabelled_copy())
    full = replace(half_known, labels=np.arange(13) % 3)
    with pytest.raises(RequestError, match="every image has a label"):
        fit(small(), full)
