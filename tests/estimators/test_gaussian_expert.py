"""Gaussian experts against loops: n = 23 images, H = 5 features, C = 4 classes, the last without
an image. Two classes have a name."""

import numpy as np
import pytest
import torch
from sklearn.covariance import oas

from anyclass.estimators.gaussian_expert import Anchors, Statistics, gaussian_expert, oas_shrinkage


def images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, class weights that sum to 1, texts."""
    draw = np.random.default_rng(0)
    z = draw.dirichlet([0.5, 0.5, 0.5], size=23)
    h = draw.normal(size=(23, 5)) @ np.diag([1, 2, 0.5, 1, 3]) + 2 * z @ draw.normal(size=(3, 5))
    return h, np.hstack([z, np.zeros((23, 1))]), draw.normal(size=(4, 5))


def anchored(texts: np.ndarray, named: list[bool], kappa: float) -> Anchors:
    mask = torch.tensor(named)
    return Anchors(torch.tensor(texts).float() * mask[:, None], mask, kappa, 1.7)


def statistics(h: np.ndarray, z: np.ndarray) -> Statistics:
    return Statistics.of(torch.tensor(h).float(), torch.tensor(z).float())


def slow_expert(
    h: np.ndarray, z: np.ndarray, texts: np.ndarray, named: list[bool], kappa: float, least: float
) -> np.ndarray:
    """g of each image, by loops."""
    n, width, classes = len(h), h.shape[1], z.shape[1]
    counts = [sum(z[i, c] for i in range(n)) for c in range(classes)]
    means = [
        sum(z[i, c] * h[i] for i in range(n)) / counts[c] if counts[c] else np.zeros(width)
        for c in range(classes)
    ]
    products = sum(counts[c] * means[c] @ texts[c] for c in range(classes) if named[c])
    squares = sum(counts[c] * texts[c] @ texts[c] for c in range(classes) if named[c])
    a = max(0.0, products / squares)
    within = sum(
        z[i, c] * np.outer(h[i] - means[c], h[i] - means[c])
        for i in range(n)
        for c in range(classes)
    )
    freedom = n - sum(count > 0.5 for count in counts)
    cov = within / freedom
    alpha = np.mean([cov[i, j] ** 2 for i in range(width) for j in range(width)])
    level = np.trace(cov) / width
    s = max(least, min(1, (alpha + level**2) / ((freedom + 1) * (alpha - level**2 / width))))
    inverse = np.linalg.inv((1 - s) * cov + s * level * np.eye(width))
    g = np.zeros((n, classes))
    for c in range(classes):
        k = kappa if named[c] else 0.0
        mu = np.zeros(width)
        v = 0.0
        if counts[c] + k > 0:
            mu = (counts[c] * means[c] + k * a * texts[c]) / (counts[c] + k)
            v = np.trace(inverse @ cov) * min(1, counts[c] / (counts[c] + k) ** 2)
        for i in range(n):
            g[i, c] = mu @ inverse @ h[i] - mu @ inverse @ mu / 2 + v / 2
    return g


@pytest.mark.parametrize("named", [[True, False, False, True], [False, True, True, False]])
@pytest.mark.parametrize("least", [0.02, 0.5, 1.0])
def test_gaussian_expert__is_the_slow_loop(named: list[bool], least: float) -> None:
    h, z, texts = images()
    found = gaussian_expert(statistics(h, z), anchored(texts, named, 2.5), least)
    wanted = slow_expert(h, z, texts, named, 2.5, least)
    assert np.allclose(found.logits(torch.tensor(h).float()), wanted, rtol=1e-3, atol=1e-3)


def test_gaussian_expert__texts_that_point_away_from_the_means_are_ignored() -> None:
    h, z, _ = images()
    away = -np.vstack([(z[:, :3] / z[:, :3].sum(0)).T @ h, np.ones((1, 5))])
    everything = [True] * 4
    found = gaussian_expert(statistics(h, z), anchored(away, everything, 3.0), 0.1)
    nowhere = gaussian_expert(statistics(h, z), anchored(0 * away, everything, 3.0), 0.1)
    assert torch.allclose(found.weights, nowhere.weights)


@pytest.mark.parametrize("kappa", [0.0, 4.0])
def test_gaussian_expert__bias_takes_back_what_few_images_add(kappa: float) -> None:
    """Over many draws of 3 images of class 0, mu' Sigma^-1 mu - v is that of the true mean."""
    draw = torch.Generator().manual_seed(0)
    root = torch.diag(torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5])) + 0.3
    cov = root @ root.T
    true = torch.tensor([1.0, -1.0, 0.5, 0.0, 2.0])
    anchors = Anchors(torch.zeros(2, 5), torch.full((2,), kappa > 0), kappa, 1.0)
    counts = torch.tensor([3.0, 300.0])
    corrected = []
    plain = []
    for _ in range(500):
        mean = (true + torch.randn(3, 5, generator=draw) @ root.T).mean(0)
        sums = torch.stack([3 * mean, torch.zeros(5)])
        found = Statistics(counts, sums, 301 * cov + 3 * torch.outer(mean, mean))
        expert = gaussian_expert(found, anchors, 0.3)
        mu = 3 * mean / (3 + kappa)
        plain.append(float(mu @ expert.weights[0]))
        corrected.append(float(-2 * expert.intercept[0]))
    sigma = 0.7 * cov + 0.3 * cov.trace() / 5 * torch.eye(5)
    expected = 3 * true / (3 + kappa)
    wanted = float(expected @ torch.linalg.solve(sigma, expected))
    error = float(np.std(corrected)) / 500**0.5
    assert np.mean(corrected) == pytest.approx(wanted, abs=4 * error)
    assert np.mean(plain) > wanted + 5 * error, "without v it is too large"


def test_oas_shrinkage__is_that_of_scikit_learn() -> None:
    h, _, _ = images()
    centred = h - h.mean(0)
    _, wanted = oas(centred, assume_centered=True)
    cov = torch.tensor(centred.T @ centred / 23)
    assert oas_shrinkage(cov, 23.0) == pytest.approx(wanted, rel=1e-6)
    assert oas_shrinkage(torch.eye(5), 23.0) == 1.0


def test_gaussian_expert__one_image_per_class_has_the_covariance_of_all_images() -> None:
    h = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    anchors = Anchors(torch.zeros(2, 3), torch.zeros(2, dtype=torch.bool), 0.0, 1.7)
    found = gaussian_expert(Statistics.of(h, torch.eye(2)), anchors, 0.02)
    assert torch.allclose(found.weights, h / 1.7, atol=1e-4)
    wanted = (3 - h.square().sum(1) / 1.7) / 2  # v = H / n_c
    assert torch.allclose(found.intercept, wanted, atol=1e-4)


def test_gaussian_expert__equal_images_are_finite() -> None:
    anchors = Anchors(torch.zeros(2, 3), torch.tensor([True, False]), 0.0, 0.0)
    images = Statistics.of(torch.zeros(4, 3), torch.eye(2)[[0, 1, 0, 1]])
    found = gaussian_expert(images, anchors, 0.0)
    assert torch.isfinite(found.weights).all()
    assert torch.isfinite(found.intercept).all()


def test_gaussian_expert__rounding_is_no_covariance() -> None:
    """Images that are equal within their class, left over after most of the sums are subtracted."""
    draw = torch.Generator().manual_seed(0)
    h = 10 * torch.randn(3, 7, generator=draw).repeat_interleave(9, dim=0)
    z = torch.eye(3).repeat_interleave(9, dim=0)
    found = Statistics.of(h, z) - Statistics.of(h[::2], z[::2])
    anchors = Anchors(torch.zeros(3, 7), torch.zeros(3, dtype=torch.bool), 0.0, 100.0)
    expert = gaussian_expert(found, anchors, 0.0)
    assert torch.isfinite(expert.weights).all()
    assert expert.logits(h).argmax(1).tolist() == z.argmax(1).tolist()


def test_gaussian_expert__hardly_any_soft_image_is_no_evidence_for_a_class() -> None:
    h, z, texts = images()
    z[:, 2] = 1e-4
    found = gaussian_expert(statistics(h, z), anchored(texts, [True, True, False, True], 2.5), 0.5)
    assert found.intercept[2] <= 5 / 2, "v is at most that of one image"


def test_statistics__add_and_subtract_subsets() -> None:
    h, z, _ = images()
    first = statistics(h[:9], z[:9])
    second = statistics(h[9:], z[9:])
    whole = statistics(h, z)
    for part in ("counts", "sums", "scatter"):
        assert torch.allclose(getattr(first + second, part), getattr(whole, part), atol=1e-4)
        assert torch.allclose(getattr(whole - first, part), getattr(second, part), atol=1e-4)
    wanted = [[sum(z[i, c] * h[i, j] for i in range(23)) for j in range(5)] for c in range(4)]
    assert np.allclose(whole.sums, wanted, atol=1e-4)
