"""Linear logits by loops; n = 6 rows, C = 3 classes, F = 5 features, D = 4."""

import pytest
import torch

from anyclass.estimators.linear import Linear


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


W, B, F = drawn(3, 5, seed=0), drawn(3, seed=1), drawn(6, 5, seed=2)


@pytest.mark.parametrize("scale", [1.0, 2.5, torch.tensor(2.5)])
@pytest.mark.parametrize("bias", [None, B])
def test_logits__by_loop(bias: torch.Tensor | None, scale: float | torch.Tensor) -> None:
    found = Linear(W, bias, scale).logits(F)
    for i in range(6):
        for c in range(3):
            product = sum(float(F[i, k] * W[c, k]) for k in range(5))
            wanted = float(scale) * (product + (0.0 if bias is None else float(bias[c])))
            assert float(found[i, c]) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("bias", [None, B])
def test_uncentred__takes_features_as_they_come(bias: torch.Tensor | None) -> None:
    mean, linear = drawn(5, seed=3), Linear(W, bias)
    torch.testing.assert_close(linear.uncentred(mean).logits(F), linear.logits(F - mean))


def test_only__some_classes() -> None:
    some = torch.tensor([2, 0])
    for linear in (Linear(W, B, 3.0), Linear(W, scale=3.0)):
        torch.testing.assert_close(linear.only(some).logits(F), linear.logits(F)[:, some])
