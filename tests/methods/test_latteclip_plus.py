"""LatteCLIP-plus: Gaussians against a slow loop, zero-shot as its start.

N = 13 pictures, C = 4 classes, D = 24; the equation with n = 9, H = 5, C = 3.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.classifier import Classifier
from anyclass.data import Photos
from anyclass.errors import ModelError, RequestError
from anyclass.methods.latteclip_plus import LatteClipPlus, gaussians, spread
from anyclass.methods.zero_shot import ZeroShot

Fit = Callable[..., tuple[Classifier, list[dict[str, Any]]]]


def given() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(9, 5, generator=draw), torch.rand(9, 3, generator=draw).softmax(1)


def test_gaussians__are_log_densities_up_to_what_classes_share() -> None:
    h, z = given()
    mu = [sum(z[i, c] * h[i] for i in range(9)) / z[:, c].sum() for c in range(3)]
    within = sum(
        z[i, c] * torch.outer(h[i] - mu[c], h[i] - mu[c]) for i in range(9) for c in range(3)
    )
    within = within / 9
    sigma = 0.3 * within + 0.7 * within.trace() / 5 * torch.eye(5)
    log_density = [
        torch.distributions.MultivariateNormal(mu[c], sigma).log_prob(h) for c in range(3)
    ]
    wanted = torch.stack(log_density, dim=1)
    v, bias = gaussians(h, z, h.T @ h, 0.7)
    found = h @ v + bias
    assert torch.allclose(found - found[:, :1], wanted - wanted[:, :1], atol=1e-4)


def test_gaussians__a_class_without_pictures_is_finite() -> None:
    h, z = given()
    z[:, 1] = 0
    assert all(torch.isfinite(part).all() for part in gaussians(h, z, h.T @ h, 0.9))


def test_spread__is_the_deviation_over_classes() -> None:
    logits = torch.tensor([[1.0, 3.0, 5.0], [2.0, 2.0, 2.0]])
    assert spread(logits) == pytest.approx(1.0)
    assert spread(3 * logits + 7) == pytest.approx(3.0)


@pytest.mark.parametrize("still", [{"rounds": 0}, {"weight": 0.0, "prior": 1e9}], ids=str)
def test_fit__that_learns_nothing_equals_zero_shot(
    fit: Fit, photos: Photos, still: dict[str, Any]
) -> None:
    found = fit(LatteClipPlus(**still))[0].predict_proba(photos)
    assert np.allclose(found, fit(ZeroShot())[0].predict_proba(photos), atol=1e-4)


def test_fit__moves_something_and_leaves_the_model(
    fit: Fit, clip: Backbone, photos: Photos
) -> None:
    before = clip.fingerprint()
    found = fit(LatteClipPlus(trust=0.0))[0].predict_proba(photos)
    assert not np.allclose(found, fit(ZeroShot())[0].predict_proba(photos), atol=1e-2)
    assert torch.equal(clip.fingerprint(), before)


def test_fit__takes_back_what_is_guessed_too_often(fit: Fit, photos: Photos) -> None:
    zero_shot = fit(ZeroShot())[0].predict_proba(photos)
    taken_back = fit(LatteClipPlus(rounds=0, correction="sinkhorn", gamma=0.0))[0]
    before, after = zero_shot.mean(0), taken_back.predict_proba(photos).mean(0)
    assert before.max() - before.min() > 1e-3
    np.testing.assert_allclose(after, 1 / len(after), atol=1e-4)


def test_fit__fixed_point_changes_nothing_where_no_picture_is_sure(fit: Fit) -> None:
    plain, corrected = (
        fit(LatteClipPlus(rounds=0, correction=how))[0].weights for how in ("none", "fixed_point")
    )
    assert torch.equal(plain, corrected)


def test_fit__same_seed_same_bytes_and_folds_are_drawn_by_it(fit: Fit) -> None:
    how = LatteClipPlus(trust=0.0)
    first, again, other = (fit(how, seed=seed)[0].weights for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_fit__never_reads_a_label(fit: Fit, photos: Photos) -> None:
    labelled = replace(photos, labels=np.arange(13) % 4)
    first, second = (fit(LatteClipPlus(), some)[0].weights for some in (photos, labelled))
    assert torch.equal(first, second)


def test_fit__a_picture_is_not_judged_by_itself(clip: Backbone) -> None:
    """With as many folds as pictures, its own label does not reach its own Gaussians."""
    h, z = given()
    how, log = LatteClipPlus(folds=9, trust=0.0, rounds=1), []
    alone = how._learn(10 * z, h - h.mean(0), lambda **row: log.append(row))
    assert torch.isfinite(alone.v).all()
    assert 0 <= log[0]["moved"] <= 1


def test_fit__descriptions_are_a_second_view(fit: Fit, teller: Any) -> None:
    how = LatteClipPlus(descriptions=0.5, describer=teller, domain="toy", trust=0.0)
    classifier, _ = fit(how)
    assert [request.rows for request in teller.asked] == [(i,) for i in range(13)]
    assert len(classifier.record["descriptions"]) == 11  # pictures 3 and 7 have none
    assert not torch.equal(classifier.weights, fit(LatteClipPlus(trust=0.0))[0].weights)


def test_fit__one_class_is_refused(fit: Fit, photos: Photos) -> None:
    with pytest.raises(RequestError, match="two names"):
        fit(LatteClipPlus(), Photos.read(photos.root, ["only one"]))


@pytest.mark.parametrize("kind", ["siglip", "timm", "huggingface", "coca"])
def test_save__and_load_of_every_tower(
    tiny_clip: Callable[..., str], photos: Photos, tmp_path: Path, kind: str
) -> None:
    clip = Backbone.load(tiny_clip(kind), engine="torch")
    torch.manual_seed(0)
    classifier = LatteClipPlus(trust=0.0).fit(clip, photos, lambda **_: None)
    classifier.save(tmp_path)
    again = Classifier.load(tmp_path, engine="torch")
    assert np.allclose(again.predict_proba(photos), classifier.predict_proba(photos), atol=1e-5)
    settings = tmp_path / "classifier.json"
    settings.write_text(settings.read_text().replace('"own": true', '"own": false'))
    with pytest.raises(ModelError, match="another width"):
        Classifier.load(tmp_path, engine="torch")
