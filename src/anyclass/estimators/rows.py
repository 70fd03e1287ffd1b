"""Feature rows read in blocks, so that memory-mapped and half-precision arrays stay on disk."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import issparse
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.errors import ArrayError
from anyclass.estimators.linear import Linear

BLOCK = 4096
"""Rows in memory at once."""
WIDEST = 512
"""Maximum number of columns of h; wider features are reduced to their principal components."""


@dataclass(frozen=True)
class Rows:
    """Unit features x of N images, and h: further features, or x again; both in float32."""

    x: Any
    """(N, D) array or tensor."""
    extra: Any | None = None
    """(N, H) array or tensor of further features; None: h = x."""
    mean: Float[Tensor, " H"] | None = None
    """Subtracted from h; None: nothing."""
    axes: Float[Tensor, "H Q"] | None = None
    """Principal axes of wide h, which becomes (n, Q); None: h stays as it is."""
    scale: float = 1.0
    """h is divided by it."""
    numbers: Int[np.ndarray, " N"] | None = None
    """Numbers of the rows in messages; None: 0 ... N - 1."""

    @classmethod
    def checked(cls, x: Any, extra: Any | None) -> "Rows":
        """Rows of arrays, tensors or lists.

        Raises:
            ArrayError: they are not tables of numbers with the same number of rows, at least one.
        """
        x = _table(x, "X")
        extra = None if extra is None else _table(extra, "extra")
        if len(x) == 0:
            raise ArrayError("X has no row")
        if extra is not None and len(extra) != len(x):
            raise ArrayError(f"X has {len(x)} rows, but extra has {len(extra)}")
        return cls(x, extra)

    def __len__(self) -> int:
        """N."""
        return len(self.x)

    @property
    def depth(self) -> int:
        """D, number of columns of x."""
        return int(self.x.shape[1])

    @property
    def width(self) -> int:
        """Number of columns of h as it is read."""
        return int(self.at(slice(0, 1))[1].shape[1])

    def evenly_spaced(self, most: int) -> Int[np.ndarray, " n"]:
        """Indices of rows at equal distances, fewer than twice `most`."""
        return np.arange(len(self))[:: max(1, len(self) // most)]

    def raw(self) -> "Rows":
        """The same, with h as given."""
        return Rows(self.x, self.extra, numbers=self.numbers)

    def only(self, index: Int[np.ndarray, " n"]) -> "Rows":
        """Some of the rows, in memory, as they were given."""
        extra = None if self.extra is None else self.extra[index]
        return replace(self, x=self.x[index], extra=extra, numbers=index)

    def stacked(self, rows: slice | Int[np.ndarray, " n"]) -> Float[Tensor, "n E"]:
        """[x | h | 1] of some rows, or [x | 1] without further features."""
        x, h = self.at(rows)
        one = torch.ones(len(x), 1)
        return torch.cat([x, one] if self.extra is None else [x, h, one], dim=1)

    def stacked_blocks(self) -> Iterator[Float[Tensor, "n E"]]:
        """Stacked rows in blocks."""
        for start in range(0, len(self), BLOCK):
            yield self.stacked(slice(start, min(start + BLOCK, len(self))))

    def joined(self, on_x: Linear, on_h: Linear) -> Float[Tensor, "K E"]:
        """Weights of raw stacked rows: the sum of a function of x and one of centred h."""
        weights = on_h.weights / self.scale
        weights = weights if self.axes is None else weights @ self.axes.T
        on_h = Linear(weights, on_h.intercept)
        if self.mean is not None:
            on_h = on_h.uncentred(self.mean)
        bias = (on_x.intercept * on_x.scale + on_h.intercept)[:, None]
        first = on_x.scale * on_x.weights
        if self.extra is None:
            return torch.cat([first + on_h.weights, bias], dim=1)
        return torch.cat([first, on_h.weights, bias], dim=1)

    def at(self, rows: slice | Int[np.ndarray, " n"]) -> tuple[Tensor, Tensor]:
        """x (n, D) and h (n, H) of some rows.

        Raises:
            ArrayError: a value is not finite, or a row of x has no direction.
        """
        x = self._float(self.x, rows, "X")
        lengths = x.norm(dim=1)
        bad = (lengths == 0) | lengths.isinf()
        if bool(bad.any()):
            row = self._number(rows, int(bad.nonzero()[0, 0]))
            raise ArrayError(f"row {row} of X is zero or too large: it has no direction")
        x = normalize(x, dim=1)
        h = x if self.extra is None else self._float(self.extra, rows, "extra")
        h = h if self.mean is None else h - self.mean
        h = h if self.axes is None else h @ self.axes
        return x, h / self.scale

    def x_and_extra(self, rows: Int[np.ndarray, " n"]) -> tuple[Tensor, Tensor | None]:
        """x of some rows, and h if there are further features."""
        x, h = self.at(rows)
        return x, None if self.extra is None else h

    def blocks(self, size: int | None = None) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Slices of `size` consecutive rows, by default `BLOCK`, with their x and h."""
        size = size or BLOCK
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield (rows, *self.at(rows))

    def centred(self) -> "Rows":
        """The same with centred h of at most `WIDEST` columns, of mean length 1 if it is extra."""
        total = torch.zeros(1, dtype=torch.float64)
        for _, _, h in self.blocks():
            total = total + h.double().sum(0)
        rows = replace(self, mean=(total / len(self)).float())
        rows = replace(rows, axes=rows._principal_axes())
        if self.extra is None:
            return rows
        length = sum(float(h.norm(dim=1).sum()) for _, _, h in rows.blocks())
        return replace(rows, scale=max(length / len(self), 1e-12))

    def _principal_axes(self) -> Float[Tensor, "H Q"] | None:
        """The first `WIDEST` principal axes of h, if it is wider."""
        width = len(self.mean) if self.mean is not None else 0
        if width <= WIDEST:
            return None
        scatter = torch.zeros(width, width)
        for _, _, h in self.blocks():
            scatter += h.T @ h
        axes: Tensor = torch.linalg.eigh(scatter.double()).eigenvectors.flip(1)[:, :WIDEST]
        return axes.float().contiguous()

    def _float(self, array: Any, rows: slice | Int[np.ndarray, " n"], name: str) -> Tensor:
        """Rows of an array as a float32 tensor on the CPU."""
        part = array[rows]
        given = part.detach().cpu() if isinstance(part, Tensor) else np.array(part)
        tensor = torch.as_tensor(given).float()
        if not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).any(1).nonzero()[0, 0])
            row = self._number(rows, bad)
            raise ArrayError(f"row {row} of {name} has a value that is NaN or infinite")
        return tensor

    def _number(self, rows: slice | Int[np.ndarray, " n"], i: int) -> int:
        """Number of the i-th of these rows in a message."""
        row = rows.start + i if isinstance(rows, slice) else int(rows[i])
        return row if self.numbers is None else int(self.numbers[row])


def _table(array: Any, name: str) -> Any:
    """An array or tensor of two axes; lists become arrays.

    Raises:
        ArrayError: it is sparse, has another number of axes, or does not contain real numbers.
    """
    if issparse(array) or (isinstance(array, Tensor) and array.layout != torch.strided):
        raise ArrayError(f"{name} is sparse, which is not supported: give a dense array")
    table = array if isinstance(array, Tensor | np.ndarray) else np.asarray(array)
    shape = tuple(table.shape)
    if table.ndim != 2:
        raise ArrayError(f"{name} has the shape {shape}, not (rows, features). Reshape your data")
    if table.shape[1] == 0:
        raise ArrayError(
            f"{name} has 0 feature(s) (shape={shape}) while a minimum of 1 is required."
        )
    if table.dtype.is_complex if isinstance(table, Tensor) else table.dtype.kind == "c":
        raise ArrayError(f"Complex data not supported: {name} contains {table.dtype}")
    if isinstance(table, np.ndarray) and table.dtype.kind not in "fiub":
        raise ArrayError(f"{name} contains {table.dtype}, not numbers")
    return table
