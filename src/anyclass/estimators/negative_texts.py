"""Negative texts: nouns that stand for whatever is of none of the classes.

    r(x) = log sum_c exp(s x . t_c) - log sum_m exp(s x . n_m)     log odds of names against nouns

After NegLabel (arXiv 2403.20078), which keeps the nouns that are least similar to the names.

Letters: C classes, M nouns, D dimensions, t (C, D) and n (M, D) unit text features, s logit scale.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.errors import ArrayError

FARTHEST = 0.85
"""Share of the nouns that is kept: those least similar to any name."""

WEIGHT = 0.5
"""Weight of r beside the evidence of the image features."""


@dataclass(frozen=True)
class NegativeTexts:
    """Names and nouns, as weights of unit image features."""

    names: Float[Tensor, "C D"]
    """s t_c."""
    nouns: Float[Tensor, "M D"]
    """s n_m of the nouns that are kept."""

    @classmethod
    def of(cls, texts: Float[Tensor, "C D"], negative_text: Any, scale: float) -> "NegativeTexts":
        """Keep the nouns that are least similar to any name.

        Args:
            texts: unit text features of all classes.
            negative_text: (M, D) text features of nouns.
            scale: s.

        Raises:
            ArrayError: the nouns have another width, or a row is zero or not finite.
        """
        nouns = torch.as_tensor(negative_text).detach().cpu().float()
        if nouns.ndim != 2 or nouns.shape[1] != texts.shape[1] or not len(nouns):
            raise ArrayError(
                f"negative_text has the shape {tuple(nouns.shape)}, but X has {texts.shape[1]} "
                "columns"
            )
        if not bool(nouns.isfinite().all()) or bool((nouns == 0).all(1).any()):
            raise ArrayError("a row of negative_text is zero or not finite")
        nouns = normalize(nouns, dim=1)
        nearest = (nouns @ texts.T).amax(1)
        kept = nearest <= nearest.quantile(FARTHEST)
        return cls(scale * texts, scale * nouns[kept])

    def odds(self, x: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
        """r."""
        return (x @ self.names.T).logsumexp(1) - (x @ self.nouns.T).logsumexp(1)
