"""Rows on arrays of N = 10 images, D = 4 features and H = 7 further ones, in blocks of 3."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

from anyclass.errors import RequestError
from anyclass.estimators import rows as rows_module
from anyclass.estimators.linear import Linear
from anyclass.estimators.rows import Rows


def arrays() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.normal(size=(10, 4)), 5 + draw.normal(size=(10, 7)) * np.arange(1, 8)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "BLOCK", 3)


def test_centred__x_has_unit_rows_and_h_mean_zero_and_mean_length_one() -> None:
    x, extra = arrays()
    rows = Rows.checked(x, extra).centred()
    found_x = torch.cat([block for _, block, _ in rows.blocks()]).numpy()
    found_h = torch.cat([block for _, _, block in rows.blocks()]).numpy()
    wanted = extra - extra.mean(0)
    wanted = wanted / np.mean([np.linalg.norm(row) for row in wanted])
    assert np.allclose(found_x, [row / np.linalg.norm(row) for row in x], atol=1e-6)
    assert np.allclose(found_h, wanted, atol=1e-6)


def test_centred__h_is_centred_x_without_extra() -> None:
    x, _ = arrays()
    units = np.stack([row / np.linalg.norm(row) for row in x])
    rows = Rows.checked(x, None).centred()
    assert np.allclose(rows.at(slice(2, 5))[1], (units - units.mean(0))[2:5], atol=1e-6)
    assert np.allclose(rows.raw().at(slice(2, 5))[1], units[2:5], atol=1e-6)


def test_centred__wide_h_becomes_its_principal_components(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "WIDEST", 2)
    x, extra = arrays()
    rows = Rows.checked(x, extra).centred()
    h = rows.at(slice(0, 10))[1].double().numpy() * rows.scale
    _, _, axes = np.linalg.svd(extra - extra.mean(0))
    wanted = (extra - extra.mean(0)) @ axes[:2].T
    assert h.shape == (10, 2)
    assert np.allclose(np.abs(h), np.abs(wanted), atol=1e-4)
    assert np.mean([np.linalg.norm(row) for row in h / rows.scale]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("widest", [2, 512])
@pytest.mark.parametrize("with_extra", [False, True])
def test_joined__is_the_sum_of_both_functions(
    monkeypatch: pytest.MonkeyPatch, widest: int, with_extra: bool
) -> None:
    monkeypatch.setattr(rows_module, "WIDEST", widest)
    x, extra = arrays()
    rows = Rows.checked(x, extra if with_extra else None).centred()
    units, h = rows.at(slice(0, 10))
    draw = torch.Generator().manual_seed(0)
    on_x = Linear(torch.randn(3, 4, generator=draw), torch.randn(3, generator=draw), 2.5)
    on_h = Linear(torch.randn(3, h.shape[1], generator=draw), torch.randn(3, generator=draw))
    wanted = on_x.logits(units) + on_h.logits(h)
    found = torch.cat(list(rows.raw().stacked_blocks())) @ rows.joined(on_x, on_h).T
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_at__reads_half_precision_memory_maps_and_tensors(tmp_path: Path) -> None:
    x = arrays()[0].astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    index = np.array([7, 1, 4])
    wanted = Rows.checked(x.astype(np.float64), None).at(index)[0]
    kinds: list[Any] = [x, mapped, torch.from_numpy(x), x.tolist()]
    for kind in kinds:
        found = Rows.checked(kind, None).at(index)[0]
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["X", "extra"])
def test_at__names_the_row_that_is_not_finite(part: str, value: float) -> None:
    both = dict(zip(("X", "extra"), arrays(), strict=True))
    both[part][8, 2] = value
    rows = Rows.checked(both["X"], both["extra"])
    with pytest.raises(RequestError, match=f"^row 8 of {part} has a value that is NaN or infinite"):
        rows.centred()
    with pytest.raises(RequestError, match=f"^row 8 of {part} "):
        rows.at(np.array([5, 8]))


@pytest.mark.parametrize("factor", [0.0, 1e30])
def test_at__names_the_row_without_a_direction(factor: float) -> None:
    x, _ = arrays()
    x[5] *= factor
    with pytest.raises(RequestError, match=r"^row 5 of X is zero or too large"):
        Rows.checked(x, None).centred()


@pytest.mark.parametrize(
    ("x", "extra", "message"),
    [
        (np.zeros(4), None, r"X has the shape \(4,\), not \(rows, features\)"),
        (np.zeros((2, 3, 4)), None, r"X has the shape \(2, 3, 4\)"),
        (np.zeros((5, 0)), None, r"X has 0 feature\(s\) \(shape=\(5, 0\)\)"),
        (np.zeros((0, 4)), None, "X has no row"),
        (np.ones((5, 4)), np.ones((6, 7)), "X has 5 rows, but extra has 6"),
        (np.ones((5, 4)), np.ones(5), r"extra has the shape \(5,\)"),
        (np.ones((5, 4), dtype=complex), None, "Complex data not supported: X contains complex128"),
        (torch.ones(5, 4, dtype=torch.complex64), None, "Complex data not supported"),
        (np.full((5, 4), "a"), None, "X contains <U1, not numbers"),
        (scipy.sparse.eye_array(4), None, "X is sparse"),
        (torch.eye(4).to_sparse(), None, "X is sparse"),
    ],
)
def test_checked__refuses_what_is_not_a_table_of_numbers(
    x: np.ndarray | Tensor, extra: np.ndarray | None, message: str
) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        Rows.checked(x, extra)
    assert "\n" not in str(refused.value)
