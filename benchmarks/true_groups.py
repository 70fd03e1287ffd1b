"""LatteCLIP's table 4: groups of which some images truly show the class of the group.

For this table alone groups are drawn by labels; no other row reads them.
"""

from typing import Annotated

import torch
from jaxtyping import Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from anyclass.methods.latteclip import LatteClip


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class TrueGroups(LatteClip):
    """LatteCLIP with `right` images of the class in each of its groups; others show any other."""

    right: Annotated[int, Field(ge=1)] = 4
    """Images per group that show its class."""
    truth: tuple[int, ...] = ()
    """True class of each training image."""

    def grouped(
        self, pool: Int[Tensor, " N"], classes: int, seed: int
    ) -> list[list[tuple[int, ...]]]:
        """Groups of each class by the true classes; as many as it has images, at most `groups`."""
        rng = torch.Generator().manual_seed(seed)
        truth = torch.tensor(self.truth)
        groups = []
        for c in range(classes):
            own = (truth == c).nonzero()[:, 0]
            other = (truth != c).nonzero()[:, 0]
            wrong = max(0, self.group_size - self.right)
            drawn = []
            for _ in range(min(self.groups, len(own))):
                rows = [*_some(own, self.right, rng), *_some(other, wrong, rng)]
                drawn.append(tuple(rows))
            groups.append(drawn)
        return groups


def _some(rows: Int[Tensor, " n"], count: int, rng: torch.Generator) -> list[int]:
    """At most `count` of the rows, drawn without replacement."""
    drawn: list[int] = rows[torch.randperm(len(rows), generator=rng)[:count]].tolist()
    return drawn
