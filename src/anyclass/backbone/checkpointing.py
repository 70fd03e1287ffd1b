"""Gradient checkpointing: less memory for a second forward pass."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def checkpointed(
    encode: Callable[[Tensor], Float[Tensor, "b D"]], x: Shaped[Tensor, "B ..."], size: int | None
) -> Float[Tensor, "B D"]:
    """`encode(x)`, `size` rows at a time, whose inner values are computed again for the gradient.

    The same numbers for less memory and a second forward pass; None: all at once, all kept.
    """
    if size is None or size >= len(x):
        return encode(x)
    return torch.cat([checkpoint(encode, part, use_reentrant=False) for part in x.split(size)])
