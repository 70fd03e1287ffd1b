"""Gradient checkpointing: less memory at the cost of a second forward pass."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def checkpointed(
    encode: Callable[[Tensor], Float[Tensor, "b D"]], x: Shaped[Tensor, "B ..."], size: int | None
) -> Float[Tensor, "B D"]:
    """Compute `encode(x)` in checkpointed batches of `size` rows; None for one ordinary batch.

    The result is the same; activations are computed again for the gradient.
    """
    if size is None or size >= len(x):
        return encode(x)
    return torch.cat([checkpoint(encode, part, use_reentrant=False) for part in x.split(size)])
