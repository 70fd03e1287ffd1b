"""GET-plus: easy clusters are found, hidden labels are never read, it is inductive."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier import Classifier
from anyclass.data import Classes, Photos
from anyclass.errors import ModelError, RequestError
from anyclass.methods.get_plus import GetPlus, sharpened, spaces
from anyclass.metrics import clustering

Fit = Callable[..., tuple[Classifier, list[dict[str, Any]]]]
LABELS = np.array([0, -1, 1, -1, 0, -1, -1, 1, 0, -1, -1, -1, 1])


@pytest.fixture
def some(photos: Photos) -> Photos:
    """Two labelled classes, three pictures each, and two unknown ones."""
    classes = Classes.of(["two", "orange"], labelled=["two", "orange"], unknown=2)
    return replace(photos, labels=LABELS.copy(), classes=classes)


def blobs(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [x | h | 1] of 5 classes, 40 each, apart in few directions and noisy in one."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.arange(5).repeat_interleave(40)
    x, h = (
        torch.randn(5, width, generator=draw)[truth]
        + 0.4 * torch.randn(200, width, generator=draw)
        + 6 * torch.randn(200, 1, generator=draw) * torch.randn(1, width, generator=draw)
        for width in (12, 17)
    )
    labels = torch.where((truth < 3) & (torch.rand(200, generator=draw) < 0.5), truth, -1)
    return torch.cat([x, h, torch.ones(200, 1)], dim=1), truth, labels


def test_sharpened__is_lda_whitening_and_principal_components() -> None:
    rows, _, labels = blobs(0)
    h = rows[:, 12:-1]
    centre, whiten, middle, axes = sharpened(h, labels, 4, 0.7)
    torch.testing.assert_close(centre, h.mean(0))
    known = [h[labels == k] for k in range(3)]
    rest = torch.cat([some - some.mean(0) for some in known])
    within = rest.T @ rest / len(rest)
    sigma = 0.7 * within + 0.3 * within.trace() / 17 * torch.eye(17)
    torch.testing.assert_close(whiten.T @ sigma @ whiten, torch.eye(17), atol=1e-3, rtol=1e-3)
    a = normalize((h - centre) @ whiten, dim=1)
    torch.testing.assert_close(middle, a.mean(0))
    _, _, wanted = torch.linalg.svd(a - a.mean(0), full_matrices=False)
    assert axes.shape == (17, 4)
    torch.testing.assert_close((axes.T @ wanted[:4].T).abs(), torch.eye(4), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_learn__finds_easy_classes_under_a_loud_direction(seed: int) -> None:
    from anyclass.clusters import nearest, semi_supervised_kmeans

    rows, truth, labels = blobs(seed)
    how = GetPlus()
    u = spaces(rows, 12, labels, 10, how).seen(rows)
    assert u.shape == (200, 20)
    torch.testing.assert_close(u.norm(dim=1), torch.ones(200))
    found = semi_supervised_kmeans(u, labels, 5, 10, seed=0)
    linear = how._learn(u, labels, found.labels, 5, lambda **_: None)
    hidden, guess = (labels < 0).numpy(), (u @ linear.v + linear.bias).argmax(1)
    score = clustering(truth.numpy()[hidden], guess.numpy()[hidden], range(3))
    assert score is not None
    assert score["all"] > 0.95
    assert score["old_fixed"] > 0.95
    plain = rows[:, 12:-1]
    raw = nearest(plain, semi_supervised_kmeans(plain, labels, 5, 10, seed=0).centres)
    loud = clustering(truth.numpy()[hidden], raw.numpy()[hidden], range(3))
    assert loud is not None
    assert loud["all"] < 0.8


def test_fit__hidden_labels_are_never_read_and_seeds_repeat(fit: Fit, some: Photos) -> None:
    first = fit(GetPlus(), some)[0]
    again = fit(GetPlus(), replace(some))[0]
    assert torch.equal(first.weights, again.weights)
    assert first.classes_ == ["two", "orange", "discovered 1", "discovered 2"]
    assert len(first.record["learned_from"]) == 6
    assert first.predict_proba(some).shape == (13, 4)
    found = first.predict_proba(some).argmax(1)
    assert found.tolist() == first.record["predicted"]


def test_fit__without_rounds_is_the_nearest_mean(fit: Fit, some: Photos) -> None:
    found = fit(GetPlus(rounds=0), some)[0]
    other = fit(GetPlus(), some)[0]
    assert not torch.equal(found.weights, other.weights)


def test_fit__refuses_what_cannot_be(fit: Fit, some: Photos) -> None:
    with pytest.raises(RequestError, match="no picture has a label"):
        fit(GetPlus(), some.unlabelled_copy())
    with pytest.raises(RequestError, match="cannot be found in 13 pictures"):
        fit(GetPlus(), replace(some, classes=replace(some.classes, unknown=40)))


@pytest.mark.parametrize("kind", ["causal", "siglip", "timm", "huggingface", "coca"])
def test_save__and_load_of_every_tower(
    tiny_clip: Callable[..., str], some: Photos, tmp_path: Path, kind: str
) -> None:
    clip = Backbone.load(tiny_clip(kind), engine="torch")
    torch.manual_seed(0)
    classifier = GetPlus().fit(clip, some, lambda **_: None)
    classifier.save(tmp_path)
    again = Classifier.load(tmp_path, engine="torch")
    assert np.array_equal(again.predict_proba(some), classifier.predict_proba(some))
    settings = tmp_path / "classifier.json"
    settings.write_text(settings.read_text().replace('"share"', '"shore"'))
    with pytest.raises(ModelError, match="other names"):
        Classifier.load(tmp_path, engine="torch")
