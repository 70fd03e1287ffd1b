"""GaussianEM against slow loops. n = 9 images, H = 5, C = 3; the fit with N = 11 images."""

from typing import Any

import pytest
import torch
from torch import Tensor

from anyclass.estimators.gaussian_em import GaussianEM, gaussians, spread
from anyclass.rng import seeded_rng


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
    found = gaussians(h, z, h.T @ h, 0.7).logits(h)
    assert torch.allclose(found - found[:, :1], wanted - wanted[:, :1], atol=1e-4)


def test_gaussians__a_class_without_images_is_finite() -> None:
    h, z = given()
    z[:, 1] = 0
    found = gaussians(h, z, h.T @ h, 0.9)
    assert all(torch.isfinite(part).all() for part in (found.weights, found.intercept))


def test_spread__is_the_deviation_over_classes() -> None:
    logits = torch.tensor([[1.0, 3.0, 5.0], [2.0, 2.0, 2.0]])
    assert spread(logits) == pytest.approx(1.0)
    assert spread(3 * logits + 7) == pytest.approx(3.0)


def silent(**_: Any) -> None:
    """Listens to nothing."""


def slow_fit(
    how: GaussianEM, logits: Tensor, h: Tensor, labels: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Logits of the last fit, and the soft classes of each round, image by image."""
    n, c = logits.shape
    fold = torch.randperm(n, generator=seeded_rng(5)) % how.folds
    free = int((labels < 0).sum())
    s, s_prior = n / (n + how.trust * c), free / (free + how.trust * c)

    def clamp(z: Tensor) -> Tensor:
        rows = [torch.eye(c)[y] if y >= 0 else z[i] for i, y in enumerate(labels.tolist())]
        return torch.stack(rows)

    def densities(rows: list[int], z: Tensor, of: Tensor) -> Tensor:
        x, weights = h[rows], z[rows]
        mu = [(weights[:, k, None] * x).sum(0) / weights[:, k].sum() for k in range(c)]
        within = sum(
            weights[i, k] * torch.outer(x[i] - mu[k], x[i] - mu[k])
            for i in range(len(rows))
            for k in range(c)
        ) / len(rows)
        width = len(within)
        sigma = (1 - how.shrink) * within + how.shrink * within.trace() / width * torch.eye(width)
        solved = [torch.linalg.solve(sigma, m) for m in mu]
        return torch.stack([of @ v - m @ v / 2 for m, v in zip(mu, solved, strict=True)], dim=1)

    z, w, history = clamp(logits.softmax(1)), torch.zeros(()), []
    for step in range(how.rounds):
        g = torch.stack(
            [
                densities([j for j in range(n) if fold[j] != fold[i]], z, h[i : i + 1])[0]
                for i in range(n)
            ]
        )
        if step == 0:
            w = how.weight * s * logits.std(1).mean() / g.std(1).mean()
        seen = sum(z[i] for i in range(n) if labels[i] < 0) + how.prior
        bias = s_prior * (seen / (free + how.prior * c)).log()
        last = w * densities(list(range(n)), z, h) + bias
        z = clamp((logits + w * g + bias).softmax(1))
        history.append(z)
    return last, history


@pytest.mark.parametrize("labelled", [0, 4], ids=["no labels", "some"])
def test_learn__is_the_slow_loop(labelled: int) -> None:
    draw = torch.Generator().manual_seed(3)
    logits, h = 2 * torch.randn(11, 3, generator=draw), torch.randn(11, 5, generator=draw)
    h = h - h.mean(0)
    labels = torch.tensor([2, 0, 2, 1][:labelled] + [-1] * (11 - labelled))
    how, rows = GaussianEM(rounds=3, folds=4, trust=1.5, prior=0.7, shrink=0.6), []
    found = how.learn(logits, h, labels, lambda **row: rows.append(row), seed=5)
    wanted, history = slow_fit(how, logits, h, labels)
    torch.testing.assert_close(found.logits(h), wanted, rtol=1e-3, atol=1e-3)
    moved = [float((z.argmax(1) != logits.argmax(1)).float().mean()) for z in history]
    assert [row["moved"] for row in rows] == pytest.approx(moved)


def test_learn__labels_alone_leave_the_frequencies_out() -> None:
    draw = torch.Generator().manual_seed(3)
    logits, h = torch.randn(11, 3, generator=draw), torch.randn(11, 5, generator=draw)
    labels = torch.tensor([0] * 7 + [1] * 4)
    few, many = (
        GaussianEM(prior=a).learn(logits, h - h.mean(0), labels, silent) for a in (0.0, 9.0)
    )
    assert torch.equal(few.bias, many.bias)
    assert torch.isfinite(few.bias).all()
