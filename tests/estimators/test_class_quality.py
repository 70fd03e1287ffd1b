"""Quality of discovered classes on blobs whose truth is known."""

import pytest
import torch
from torch import Tensor

from anyclass.estimators.class_quality import (
    MIN_IMAGES,
    ClassQuality,
    class_quality,
    separation,
)

EACH = 24


def blobs(noise: float = 0.25, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit features around seven directions, and the direction of each."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(7, 16, generator=draw)
    true = torch.arange(7).repeat_interleave(EACH)
    x = centres[true] + noise * torch.randn(len(true), 16, generator=draw)
    return torch.nn.functional.normalize(x, dim=1), true


def judged(found: Tensor, true: Tensor, x: Tensor, classes: int) -> list[ClassQuality | None]:
    """Quality where half of the images of the first three classes have labels."""
    half = torch.arange(len(true)) % 2 == 0
    labels = torch.where((true < 3) & half, true, -1)
    return class_quality(x, found, labels, classes)


def test_class_quality__classes_that_are_found_again_are_sound() -> None:
    x, true = blobs()
    for quality in judged(true, true, x, 7):
        assert quality is not None
        assert quality.agreement > 0.97
        assert quality.is_sound
        assert quality.nearest is not None


def test_class_quality__two_classes_in_one_are_told() -> None:
    x, true = blobs()
    found = torch.where(true == 6, 5, true)  # 5 and 6 are one class, 6 is a share of class 4
    found = torch.where((true == 4) & (torch.arange(len(true)) % 2 == 0), 6, found)
    qualities = judged(found, true, x, 7)
    mixture = qualities[5]
    assert mixture is not None
    assert mixture.is_mixed
    assert mixture.second > 0.3
    for k, other in ((4, 6), (6, 4)):
        half = qualities[k]
        assert half is not None
        assert half.nearest == other
        assert half.together > 0.9
        assert half.may_be_nearest
        assert not half.is_sound
    assert all(q is not None and q.is_sound for q in qualities[:4])


def test_class_quality__same_seed_same_values_and_few_images_none() -> None:
    x, true = blobs(noise=1.0)
    found = true.clone()
    found[torch.nonzero(true == 6)[MIN_IMAGES - 1 :, 0]] = 5
    first = judged(found, true, x, 8)
    assert first == judged(found, true, x, 8)
    assert first[6] is None, "two images"
    assert first[7] is None, "no image"
    assert first[5] is not None
    assert first[5].agreement < 0.97


def test_separation__of_gaussians_and_of_halves_of_one() -> None:
    draw = torch.Generator().manual_seed(1)
    a = torch.randn(4000, 3, generator=draw)
    b = torch.randn(3000, 3, generator=draw) + torch.tensor([0.0, 4.0, 0.0])
    assert separation(a, b) == pytest.approx(4.0, abs=0.1)
    one = torch.randn(8000, 1, generator=draw)
    halves = separation(one[one[:, 0] > 0], one[one[:, 0] < 0])
    assert halves == pytest.approx(2.65, abs=0.1), "2 sqrt(2 / pi) / sqrt(1 - 2 / pi)"
    assert separation(a[:2], b) is None
    assert separation(a[:1].repeat(5, 1), a[:1].repeat(5, 1)) is None
