"""Gradients of a batch that several processes share: each encodes its part.

L is the loss of the whole batch. Each of the W processes computes it, from features that `gather`
collects from all. Two rules then give every parameter exactly dL/dtheta (`g_r`: what reaches it
through the rows of process r; the g_r of all rows add up to g):

    gather, backwards: W times the gradient of the own rows
    a parameter's gradient: the mean over the processes

    encoder of the own rows:          mean_r W g_r = sum_r g_r = g
    head, which sees all rows:        mean_r g = g
    a parameter of both:              the sum of both

Towers are trained in evaluation mode (no dropout, constant statistics of batch normalisation), so
the feature of a row does not depend on the rows beside it.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from anyclass.distributed.processes import add_up, rank, world


def own_part(rows: int) -> slice:
    """Which of so many rows this process encodes: all if there are fewer than processes."""
    count = world()
    if count == 1 or rows < count:
        return slice(0, rows)
    return slice(rows * rank() // count, rows * (rank() + 1) // count)


def gather(own: Shaped[Tensor, "n ..."], rows: int, views: int = 1) -> Shaped[Tensor, "N ..."]:
    """All rows from the `own_part` of each process, with gradient.

    Args:
        own: rows of this process; those of one view stand together.
        rows: number of rows of a view in all processes.
        views: number of views.
    """
    if world() == 1 or rows < world():
        return own
    whole: Tensor = _Gather.apply(own.unflatten(0, (views, -1)), rows)
    return whole.flatten(0, 1)


def divided(encode: Callable[[Tensor], Tensor], x: Shaped[Tensor, "N ..."]) -> Tensor:
    """Compute `encode(x)`, each process a part of the rows."""
    return gather(encode(x[own_part(len(x))]), len(x))


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over the processes; none that is none in all of them."""
    if world() == 1:
        return
    trained = list(parameters)
    used = torch.tensor([p.grad is not None for p in trained], dtype=torch.long)
    add_up(used)
    for parameter, count in zip(trained, used.tolist(), strict=True):
        if not count:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        total = parameter.grad.contiguous()  # weights of convolutions have their channels last
        add_up(total)
        parameter.grad.copy_(total / world())


class _Gather(torch.autograd.Function):
    """Rows of all processes from those of each."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, rows: int) -> Tensor:
        """Add up tensors that are zero but for the own rows: parts may differ in size."""
        ctx.part = own_part(rows)
        ctx.world = world()
        whole = own.new_zeros(own.shape[0], rows, *own.shape[2:])
        whole[:, ctx.part] = own
        add_up(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """W times the gradient of the own rows; the loss of each process is that of all rows."""
        return ctx.world * gradients[0][:, ctx.part], None
