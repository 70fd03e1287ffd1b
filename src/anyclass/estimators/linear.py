"""Logits that are linear in features.

Letters: n rows, C classes, F features.
"""

from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Linear:
    """s (f W^T + b): logits of C classes."""

    weights: Float[Tensor, "C F"]
    """W, a row for each class."""
    bias: Float[Tensor, " C"] | None = None
    """b; None: zero."""
    scale: Float[Tensor, ""] | float = 1.0
    """s, the inverse temperature 1 / tau."""

    def logits(self, f: Float[Tensor, "n F"]) -> Float[Tensor, "n C"]:
        """Logits of n rows."""
        products = f @ self.weights.T
        products = products if self.bias is None else products + self.bias
        return self.scale * products

    @property
    def intercept(self) -> Float[Tensor, " C"]:
        """b, also where it is zero."""
        return self.weights.new_zeros(len(self.weights)) if self.bias is None else self.bias

    def only(self, classes: Int[Tensor, " M"]) -> "Linear":
        """The same for some of the classes."""
        return replace(self, weights=self.weights[classes], bias=self.intercept[classes])

    def times(self, factor: float) -> "Linear":
        """The same with W and b multiplied by `factor`."""
        return replace(self, weights=factor * self.weights, bias=factor * self.intercept)

    def uncentred(self, mean: Float[Tensor, " F"]) -> "Linear":
        """The same logits for features from which `mean` has not been subtracted."""
        return replace(self, bias=self.intercept - mean @ self.weights.T)
