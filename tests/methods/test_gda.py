"""GDA: against explicit Gaussians and direct formulas, and a hand-worked neighbourhood.

n = 7 images of 2 of C = 5 classes, K = 3 views, D = 24; the equations with 11 rows, D = 4.
"""

from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError
from anyclass.estimators.kmeans import class_means
from anyclass.estimators.linear import Linear
from anyclass.features.extract import stack_features
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, class_features
from anyclass.methods.few_shot import FewShotTask
from anyclass.methods.gda import (
    ALPHAS,
    Gda,
    discriminant,
    neighbourhood,
    pseudo_inverse,
    ridge,
    search_alpha,
)
from anyclass.methods.labelled_features import LabelledFeatures
from anyclass.methods.synthetic_features import SyntheticFeatures
from tests.methods.conftest import unit

CLASSES = Classes.of(("big dog", "kite-7", "red_toy", "art", "soft paper b2"))


def learn(how: Gda, clip: Backbone, labelled: LabelledFeatures, **more: Any) -> Classifier:
    return how.learn(FewShotTask(clip, labelled, CLASSES, **more), lambda **_: None)


def logits(found: Classifier, f: Tensor) -> Tensor:
    """Up to what classes share, whatever the tower's own features are."""
    own = torch.randn(len(f), found.head.weights.shape[1] - f.shape[1] - 1)
    return found.clip.logit_scale.detach() * stack_features(f, own) @ found.head.weights.T


def given() -> tuple[Tensor, Tensor]:
    return unit(11, 4, seed=1), torch.tensor([0, 2, 2, 0, 2, 0, 0, 2, 2, 0, 2])


def test_class_means__by_loop() -> None:
    x, c = given()
    found = class_means(x, c, 3)
    for k in (0, 2):
        rows = [x[i] for i in range(11) if c[i] == k]
        assert torch.allclose(found[k], sum(rows) / len(rows), atol=1e-6)
    assert not found[1].any()


def test_ridge__equals_the_formula() -> None:
    x, c = given()
    mu = class_means(x, c, 3)
    sigma = sum(torch.outer(x[i] - mu[c[i]], x[i] - mu[c[i]]) for i in range(11)) / (11 - 1)
    wanted = 4 * torch.linalg.inv((11 - 1) * sigma + sigma.trace() * torch.eye(4))
    assert torch.allclose(ridge(x, c), wanted, rtol=1e-4)


def test_pseudo_inverse__equals_the_formula() -> None:
    x, c = given()
    covariance = (torch.cov(x[c == 0].T) + torch.cov(x[c == 2].T)) / 2
    assert torch.allclose(pseudo_inverse(x, c), torch.linalg.pinv(covariance), rtol=1e-3)


def test_pseudo_inverse__classes_of_one_row_say_nothing() -> None:
    x, c = given()
    alone = torch.cat([c, torch.tensor([1])])
    more = torch.cat([x, unit(1, 4, seed=9)])
    assert torch.allclose(pseudo_inverse(more, alone), pseudo_inverse(x, c), rtol=1e-5)


def test_discriminant__is_log_density_up_to_what_classes_share() -> None:
    x, c = given()
    p, mu = ridge(x, c), unit(3, 4, seed=2)
    g, f = discriminant(mu, p), unit(5, 4, seed=3)
    found = g.logits(f)
    densities = [MultivariateNormal(mu[k], precision_matrix=p).log_prob(f) for k in range(3)]
    wanted = torch.stack(densities, dim=1)
    assert torch.allclose(found - found[:, :1], wanted - wanted[:, :1], atol=1e-4)


def test_discriminant__of_a_ball_is_the_nearest_mean() -> None:
    mu, f = unit(3, 4, seed=2), unit(50, 4, seed=3)
    g = discriminant(mu, 3 * torch.eye(4))
    assert torch.equal(g.logits(f).argmax(1), torch.cdist(f, mu).argmin(1))


def test_neighbourhood__by_hand() -> None:
    """t = (1, 0); its two nearest of three rows are (0.8, 0.6) and (0.6, 0.8), two copies of t.

    mu = ((0.8 + 0.6 + 2) / 4, (0.6 + 0.8) / 4). Around t rows lie at (-0.2, 0.6), (-0.4, 0.8):
    scatter ((0.2, -0.44), (-0.44, 1.0)), trace 1.2, k - 1 = 1, so that
    P = 2 ((1.4, -0.44), (-0.44, 2.2))^-1.
    """
    x = torch.tensor([[0.6, 0.8], [-0.6, 0.8], [0.8, 0.6]])
    near = neighbourhood(x, torch.tensor([1.0, 0.0]), neighbours=2, copies=2)
    assert torch.allclose(near.mu, torch.tensor([0.85, 0.35]))
    determinant = 1.4 * 2.2 - 0.44 * 0.44
    wanted = 2 * torch.tensor([[2.2, 0.44], [0.44, 1.4]]) / determinant
    assert torch.allclose(near.precision, wanted, rtol=1e-5)


def test_neighbourhood__takes_all_rows_where_there_are_fewer() -> None:
    x, t = unit(3, 4, seed=4), unit(4, seed=5)
    some, all_three = (neighbourhood(x, t, k, copies=0) for k in (64, 3))
    assert torch.equal(some.mu, all_three.mu)
    assert torch.allclose(some.mu, x.mean(0), atol=1e-6)
    alone = neighbourhood(t[None], t, 64, copies=1)  # a row that is the text itself
    assert torch.isfinite(alone.precision).all()


@pytest.mark.parametrize("precision", ["ridge", "pinv"])
@pytest.mark.parametrize("share", [False, True])
def test_learn__equals_the_slow_truth(
    clip: Backbone, labelled: LabelledFeatures, precision: Any, share: bool
) -> None:
    how = Gda(precision=precision, share_precision=share, neighbours=5, copies=2, alpha=0.3)
    t = class_features(clip, CLASSES.prompts, [PLAIN]).detach()
    x = torch.cat([labelled.x[:, k] for k in range(3)])  # another order of the rows
    c = labelled.c.repeat(3)
    p = {"ridge": ridge, "pinv": pseudo_inverse}[precision](x, c)
    near = {k: neighbourhood(x, t[k], 5, 2) for k in (0, 2, 4)}
    p_named = p if share else sum(one.precision for one in near.values()) / 3
    f, columns = unit(6, 24, seed=3), []
    for k in range(5):
        q, mu = (p_named, near[k].mu) if k in near else (p, x[c == k].mean(0))
        density = torch.stack([one @ q @ mu for one in f]) - mu @ q @ mu / 2
        columns.append(clip.logit_scale.detach() * (f @ t[k] + 0.3 / 100 * density))
    wanted = torch.stack(columns, dim=1)
    found = logits(learn(how, clip, labelled), f)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-3 * float(wanted.abs().max()))


def test_learn__alpha_0_is_zero_shot(clip: Backbone, labelled: LabelledFeatures) -> None:
    found, f = learn(Gda(alpha=0.0), clip, labelled), unit(6, 24, seed=3)
    t = class_features(clip, CLASSES.prompts, [PLAIN]).detach()
    assert torch.allclose(logits(found, f), clip.logit_scale.detach() * f @ t.T, atol=1e-5)


def test_learn__made_means_and_one_precision(clip: Backbone, labelled: LabelledFeatures) -> None:
    table = unit(50, 24, seed=8)
    synthetic = SyntheticFeatures(
        torch.tensor([0, 2, 4]),
        lambda c, _: table[[int(k) * 10 + place % 7 for place, k in enumerate(c)]],
        seed=5,
    )
    found, plain = (learn(Gda(draws=6), clip, labelled, synthetic=m) for m in (synthetic, None))
    x, c = synthetic.per_class(6)
    p = ridge(labelled.x.flatten(0, 1), labelled.c.repeat_interleave(3))
    mu = torch.stack([x[c == k].mean(0) for k in (0, 2, 4)])
    t = class_features(clip, CLASSES.prompts, [PLAIN]).detach()
    wanted = t[[0, 2, 4]] + mu @ p / 100
    assert torch.allclose(found.head.weights[[0, 2, 4], :24], wanted, rtol=1e-3, atol=1e-4)
    assert torch.equal(found.head.weights[[1, 3]], plain.head.weights[[1, 3]])


def test_learn__one_view_of_one_image_is_refused(
    clip: Backbone, labelled: LabelledFeatures
) -> None:
    alone = LabelledFeatures(labelled.x[:2, :1], labelled.c[:2], labelled.files[:2])
    with pytest.raises(RequestError, match="no class has two different views"):
        learn(Gda(), clip, alone)


def test_search_alpha__smallest_best_over_labelled_classes() -> None:
    """Text logits err by 0.5; the Gaussians are right by 1, so alpha must be 1 at least."""
    held = LabelledFeatures(torch.eye(4)[[0, 1], None], torch.tensor([1, 3]), ("a", "b"))
    texts, v = torch.zeros(5, 4), torch.zeros(5, 4)
    texts[1], texts[3] = torch.tensor([0.0, 0.005, 0, 0]), torch.tensor([0.005, 0, 0, 0])
    v[1], v[3] = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.0, 1, 0, 0])
    texts[0] = 9.0  # of a class without labels: not looked at
    assert search_alpha(Linear(v, torch.zeros(5)), texts, held, torch.tensor([1, 3])) == 1.0
    assert pytest.approx((1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)) == ALPHAS
    assert (
        search_alpha(Linear(0 * v, torch.zeros(5)), texts, held, torch.tensor([1, 3])) == ALPHAS[0]
    )
    assert set(signature(search_alpha).parameters) == {"g", "texts", "held_out", "columns"}
    assert signature(search_alpha).parameters["held_out"].annotation is LabelledFeatures


def test_learn__held_out_images_are_not_fitted(clip: Backbone, labelled: LabelledFeatures) -> None:
    found = learn(Gda(search=0.4), clip, labelled)
    alpha = found.record.metrics["alpha"]
    assert alpha in ALPHAS
    again = learn(Gda(alpha=alpha), clip, labelled.split(0.4, 0)[0])
    assert torch.equal(found.head.weights, again.head.weights)


@pytest.mark.parametrize("kind", ["siglip", "timm"])
def test_save__and_load_of_every_tower(
    tiny_clip: Callable[..., str], dataset: ImageDataset, tmp_path: Path, kind: str
) -> None:
    clip = Backbone.load(tiny_clip(kind), engine="torch")
    labelled = replace(dataset[np.arange(6)], labels=np.array([0, 1, 1, 3, 0, 3]))
    found = Gda().fit(FeatureStore(clip, labelled), lambda **_: None)
    found.save(tmp_path)
    again = Classifier.load(tmp_path, engine="torch")
    assert np.allclose(again.predict_proba(dataset), found.predict_proba(dataset), atol=1e-5)
