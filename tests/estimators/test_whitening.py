"""Whitened features: linear discriminant analysis and principal components, in two spaces."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import normalize

from anyclass.estimators.whitening import WhitenedPCA, fit_in_blocks, fit_whitened_pca


def test_sharpened__is_lda_whitening_and_principal_components(
    loud_blobs: Callable[[int], Any],
) -> None:
    rows, _, labels = loud_blobs(0)
    h = rows[:, 12:-1]
    centre, whiten, middle, axes = fit_whitened_pca(h, labels, 4, 0.7)
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


def test_transform__joins_the_unit_coordinates_of_both_spaces(
    loud_blobs: Callable[[int], Any],
) -> None:
    rows, _, labels = loud_blobs(1)
    x, h = rows[:, :12], rows[:, 12:-1]
    of_x, of_h = (fit_whitened_pca(some, labels, 3, 0.5) for some in (x, h))
    found = WhitenedPCA(*of_x, *of_h, share=0.3)
    r_x, r_h = (
        normalize((normalize((some - centre) @ whiten, dim=1) - middle) @ axes, dim=1)
        for some, (centre, whiten, middle, axes) in ((x, of_x), (h, of_h))
    )
    u = torch.cat([r_h, 0.3 * r_x], dim=1) / 1.09**0.5
    torch.testing.assert_close(found.transform(rows), u)
    assert found.width == 6


def test_fit_in_blocks__is_the_fit_of_all_rows_at_once() -> None:
    draw = torch.Generator().manual_seed(2)
    truth = torch.randint(5, (61,), generator=draw)
    h = torch.randn(5, 7, generator=draw)[truth] + 0.3 * torch.randn(61, 7, generator=draw)
    labels = torch.where(torch.rand(61, generator=draw) < 0.6, truth, -1)
    whole = fit_whitened_pca(h, labels, 3, 0.6)
    found = fit_in_blocks(lambda: iter(h.split(8)), labels, 3, 0.6)
    r = whole.transform(h)
    torch.testing.assert_close(found.transform(h) @ found.transform(h).T, r @ r.T)
    torch.testing.assert_close(found.centre, whole.centre)
