r"""The symmetric loss against loops and against values found by hand.

Row i of one direction is -log( exp(l_ii) / sum_j exp(l_ij) ), so B pairs that are all alike give
-log(1 / B) = ln B; one class under `mask` leaves only l_ii in the denominator: -log 1 = 0.
"""

from math import exp, log
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.training.losses import (
    Collisions,
    contrastive,
    supervised_contrast,
    unsupervised_contrast,
)

B, D = 6, 8
SCALE = torch.tensor(7.0)
LABELS = torch.tensor([2, 0, 2, 1, 2, 0])


@pytest.fixture
def features() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    images, texts = (torch.randn(B, D, generator=generator) for _ in range(2))
    return normalize(images, dim=1), 0.99 * normalize(texts, dim=1)


def by_loops(images: Tensor, texts: Tensor, labels: Tensor, collisions: str) -> float:
    """The same, one number at a time."""
    logit = [[float(SCALE * (x * t).sum()) for t in texts] for x in images]
    total = 0.0
    for direction in (0, 1):
        for i in range(B):
            row = [logit[i][j] if direction == 0 else logit[j][i] for j in range(B)]
            friends = [j for j in range(B) if labels[i] == labels[j]]
            negatives = [j for j in range(B) if collisions != "mask" or j == i or j not in friends]
            denominator = sum(exp(row[j]) for j in negatives)
            right = friends if collisions == "multi_positive" else [i]
            total += sum(-log(exp(row[j]) / denominator) for j in right) / len(right) / B
    return total / 2


@pytest.mark.parametrize("collisions", get_args(Collisions))
def test_contrastive__equals_the_loops(
    features: tuple[Tensor, Tensor], collisions: Collisions
) -> None:
    found = contrastive(*features, SCALE, LABELS, collisions)
    assert found.item() == pytest.approx(by_loops(*features, LABELS, collisions), rel=1e-5)


def test_contrastive__of_pairs_all_alike_is_ln_b() -> None:
    alike = normalize(torch.arange(1.0, D + 1).expand(B, D), dim=1)
    assert contrastive(alike, alike, SCALE).item() == pytest.approx(log(B), rel=1e-6)
    alone = contrastive(alike[:1], alike[:1], SCALE)
    assert alone.item() == 0


@pytest.mark.parametrize("collisions", get_args(Collisions))
def test_contrastive__is_the_same_with_images_and_texts_swapped(
    features: tuple[Tensor, Tensor], collisions: Collisions
) -> None:
    images, texts = features
    there = contrastive(images, texts, SCALE, LABELS, collisions)
    back = contrastive(texts, images, SCALE, LABELS, collisions)
    torch.testing.assert_close(there, back, rtol=1e-6, atol=0)


@pytest.mark.parametrize("collisions", ["multi_positive", "mask"])
def test_contrastive__knows_no_collision_where_all_labels_differ(
    features: tuple[Tensor, Tensor], collisions: Collisions
) -> None:
    found = contrastive(*features, SCALE, torch.tensor([3, 0, 5, 1, 4, 2]), collisions)
    torch.testing.assert_close(found, contrastive(*features, SCALE), rtol=1e-6, atol=0)


def test_contrastive__of_one_class_and_equal_texts(features: tuple[Tensor, Tensor]) -> None:
    images = features[0]
    texts = features[1][:1].expand(B, D)
    one = torch.zeros(B, dtype=torch.long)
    # image to text: ln B whatever the images are; text to image is what is left of `ignore`
    logits = SCALE * images @ texts[0]
    towards_images = float((logits.logsumexp(0) - logits).mean())
    ignore = contrastive(images, texts, SCALE, one, "ignore").item()
    assert ignore == pytest.approx((log(B) + towards_images) / 2, rel=1e-5)
    assert contrastive(images, texts, SCALE, one, "mask").item() == 0
    both = contrastive(images, texts, SCALE, one, "multi_positive").item()
    assert both == pytest.approx((log(B) + towards_images) / 2, rel=1e-5)


def test_contrastive__needs_labels_to_see_collisions(features: tuple[Tensor, Tensor]) -> None:
    found = contrastive(*features, SCALE, None, "mask")
    assert torch.equal(found, contrastive(*features, SCALE, LABELS, "ignore"))


@pytest.mark.parametrize("collisions", get_args(Collisions))
def test_contrastive__does_not_depend_on_the_order_of_samples(
    features: tuple[Tensor, Tensor], collisions: Collisions
) -> None:
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    moved = contrastive(*(f[order] for f in features), SCALE, LABELS[order], collisions)
    found = contrastive(*features, SCALE, LABELS, collisions)
    torch.testing.assert_close(moved, found, rtol=1e-6, atol=0)


@pytest.mark.parametrize("collisions", get_args(Collisions))
def test_contrastive__has_finite_gradients(
    features: tuple[Tensor, Tensor], collisions: Collisions
) -> None:
    images, texts = (f.clone().requires_grad_() for f in features)
    scale = SCALE.clone().requires_grad_()
    contrastive(images, texts, scale, torch.zeros(B, dtype=torch.long), collisions).backward()
    for tensor in (images, texts, scale):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
    if collisions == "mask":  # nothing is left to learn
        assert images.grad is not None
        assert images.grad.abs().max() == 0


def views(n: int) -> Tensor:
    return normalize(torch.randn(n, 5, generator=torch.Generator().manual_seed(n)), dim=-1)


@pytest.mark.parametrize("tau", [1.0, 0.3])
def test_unsupervised_contrast__equals_the_loop(tau: float) -> None:
    h = views(6)
    total = 0.0
    for i in range(6):
        negatives = sum(exp(float(h[i] @ h[j]) / tau) for j in range(6) if j != i)
        total -= log(exp(float(h[i] @ h[(i + 3) % 6]) / tau) / negatives)
    assert unsupervised_contrast(h, tau).item() == pytest.approx(total / 6, abs=1e-5)


@pytest.mark.parametrize("tau", [1.0, 0.07])
def test_supervised_contrast__equals_the_loop(tau: float) -> None:
    h, labels = views(8), [4, -1, 0, 4, 4, -1, 0, 4]
    rows = [i for i in range(8) if labels[i] >= 0]
    total = 0.0
    for i in rows:
        negatives = sum(exp(float(h[i] @ h[j]) / tau) for j in rows if j != i)
        same = [p for p in rows if p != i and labels[p] == labels[i]]
        total -= sum(log(exp(float(h[i] @ h[p]) / tau) / negatives) for p in same) / len(same)
    found = supervised_contrast(h, torch.tensor(labels), tau)
    assert found.item() == pytest.approx(total / len(rows), abs=1e-5)


def test_contrasts__of_known_features() -> None:
    """B = 128: all alike -> log(2 B - 1); pairs alike, others at right angles."""
    alike = torch.ones(256, 1)
    assert unsupervised_contrast(alike).item() == pytest.approx(5.5413, abs=1e-4)
    apart = torch.eye(128).repeat(2, 1)
    assert unsupervised_contrast(apart).item() == pytest.approx(log(1 + 254 / exp(1)), abs=1e-4)
    assert log(1 + 254 / exp(1)) == pytest.approx(4.5480, abs=1e-4)
    assert unsupervised_contrast(views(2)).item() == pytest.approx(0, abs=1e-6)
    labels = torch.tensor([0, 1, -1, 0, 1, -1])
    assert supervised_contrast(torch.ones(6, 1), labels).item() == pytest.approx(log(3), abs=1e-5)


def test_supervised_contrast__with_a_class_per_image_is_the_unsupervised() -> None:
    h = views(10)
    found = supervised_contrast(h, torch.arange(5).repeat(2), 1.0)
    assert found.item() == pytest.approx(unsupervised_contrast(h).item(), abs=1e-6)


def test_supervised_contrast__without_labels_is_zero_and_moves_nothing() -> None:
    h = views(4).requires_grad_()
    found = supervised_contrast(h, torch.full((4,), -1))
    found.backward()
    assert found.item() == 0
    assert h.grad is not None
    assert not h.grad.any()
