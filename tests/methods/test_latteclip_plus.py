"""LatteCLIP-plus: zero-shot is its start, labels are never read.

N = 13 images, C = 4 classes, D = 24.
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
from anyclass.errors import ModelError, RequestError
from anyclass.estimators.gaussian_em import GaussianEM
from anyclass.features.store import FeatureStore
from anyclass.methods.latteclip_plus import LatteClipPlus
from anyclass.methods.zero_shot import ZeroShot

TRUSTING, NONE = GaussianEM(trust=0.0), GaussianEM(rounds=0)

Fit = Callable[..., tuple[Classifier, list[dict[str, Any]]]]


@pytest.mark.parametrize("still", [{"rounds": 0}, {"weight": 0.0, "prior": 1e9}], ids=str)
def test_fit__that_learns_nothing_equals_zero_shot(
    fit: Fit, dataset: ImageDataset, still: dict[str, Any]
) -> None:
    found = fit(LatteClipPlus(gaussians=GaussianEM(**still)))[0].predict_proba(dataset)
    assert np.allclose(found, fit(ZeroShot())[0].predict_proba(dataset), atol=1e-4)


def test_fit__moves_something_and_leaves_the_model(
    fit: Fit, clip: Backbone, dataset: ImageDataset
) -> None:
    before = clip.fingerprint()
    found = fit(LatteClipPlus(gaussians=TRUSTING))[0].predict_proba(dataset)
    assert not np.allclose(found, fit(ZeroShot())[0].predict_proba(dataset), atol=1e-2)
    assert torch.equal(clip.fingerprint(), before)


def test_fit__takes_back_what_is_guessed_too_often(fit: Fit, dataset: ImageDataset) -> None:
    zero_shot = fit(ZeroShot())[0].predict_proba(dataset)
    taken_back = fit(LatteClipPlus(gaussians=NONE, correction="sinkhorn", gamma=0.0))[0]
    before, after = zero_shot.mean(0), taken_back.predict_proba(dataset).mean(0)
    assert before.max() - before.min() > 1e-3
    np.testing.assert_allclose(after, 1 / len(after), atol=1e-4)


def test_fit__fixed_point_changes_nothing_where_no_image_is_sure(fit: Fit) -> None:
    plain, corrected = (
        fit(LatteClipPlus(gaussians=NONE, correction=how))[0].head.weights
        for how in ("none", "fixed_point")
    )
    assert torch.equal(plain, corrected)


def test_fit__same_seed_same_bytes_and_folds_are_drawn_by_it(fit: Fit) -> None:
    how = LatteClipPlus(gaussians=TRUSTING)
    first, again, other = (fit(how, seed=seed)[0].head.weights for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_fit__never_reads_a_label(fit: Fit, dataset: ImageDataset) -> None:
    labelled = replace(dataset, labels=np.arange(13) % 4)
    first, second = (fit(LatteClipPlus(), some)[0].head.weights for some in (dataset, labelled))
    assert torch.equal(first, second)


def test_fit__descriptions_are_a_second_view(fit: Fit, teller: Any) -> None:
    how = LatteClipPlus(gaussians=TRUSTING, descriptions=0.5, captioner=teller, domain="toy")
    classifier, _ = fit(how)
    assert [request.rows for request in teller.asked] == [(i,) for i in range(13)]
    assert len(classifier.record.descriptions) == 11  # images 3 and 7 have none
    assert not torch.equal(
        classifier.head.weights, fit(LatteClipPlus(gaussians=TRUSTING))[0].head.weights
    )


def test_fit__one_class_is_refused(fit: Fit, dataset: ImageDataset) -> None:
    with pytest.raises(RequestError, match="two or more class names"):
        fit(LatteClipPlus(), ImageDataset.read(dataset.root, ["only one"]))


@pytest.mark.parametrize("kind", ["huggingface", "timm"])
def test_save__and_load_of_every_tower(
    tiny_clip: Callable[..., str], dataset: ImageDataset, tmp_path: Path, kind: str
) -> None:
    clip = Backbone.load(tiny_clip(kind), engine="torch")
    classifier = LatteClipPlus(gaussians=TRUSTING).fit(
        FeatureStore(clip, dataset), lambda **_: None
    )
    classifier.save(tmp_path)
    again = Classifier.load(tmp_path, engine="torch")
    assert np.allclose(again.predict_proba(dataset), classifier.predict_proba(dataset), atol=1e-5)
    settings = tmp_path / "classifier.json"
    settings.write_text(settings.read_text().replace('"own": true', '"own": false'))
    with pytest.raises(ModelError, match="width of features"):
        Classifier.load(tmp_path, engine="torch")
