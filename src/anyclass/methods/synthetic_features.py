"""Synthetic features of classes without a labelled image, for few-shot methods.

Letters: M classes, D dimensions, S features of a step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.rng import seeded_rng


@dataclass(frozen=True)
class SyntheticFeatures:
    """Synthetic features of classes without a labelled image."""

    named: Int[Tensor, " M"]
    """Classes to generate features for."""
    sample: Callable[[Int[Tensor, " m"], torch.Generator], Float[Tensor, "m D"]]
    """Generates a unit feature, without a gradient, for each of the classes given."""
    seed: int
    """Random seed of classes and features."""
    ratio: float = 1.0
    """Synthetic features per real feature of a batch."""
    pool: int | None = None
    """Features per class generated once and drawn from; None: new ones in each step."""

    def batch(self, step: int, size: int) -> tuple[Float[Tensor, "S D"], Int[Tensor, " S"]]:
        """Draw synthetic features for a step with `size` real ones, classes uniformly at random.

        A pure function of the seed and the step.
        """
        rng = seeded_rng(self.seed, step)
        count = max(1, round(self.ratio * size))
        drawn = torch.randint(len(self.named), (count,), generator=rng)
        if self.pool is None:
            return self.sample(self.named[drawn], rng), self.named[drawn]
        row = drawn * self.pool + torch.randint(self.pool, (count,), generator=rng)
        x, c = self._cached_pool
        return x[row], c[row]

    def per_class(self, count: int) -> tuple[Float[Tensor, "m D"], Int[Tensor, " m"]]:
        """Generate `count` features of every named class, in class order: m = M count."""
        c = self.named.repeat_interleave(count)
        return self.sample(c, seeded_rng(self.seed, -1)), c

    @cached_property
    def _cached_pool(self) -> tuple[Float[Tensor, "m D"], Int[Tensor, " m"]]:
        return self.per_class(self.pool or 1)
