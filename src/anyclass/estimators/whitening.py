"""Features in which what tells labelled classes apart, and others with them, is the loudest.

The project's own, after linear discriminant analysis: what varies within labelled classes is light,
pose and background; undone, what is left varies between classes, named or not.

    a   = unit( (h - mean) Sigma^-1/2 )                Sigma: covariance within labelled classes
    r_h = unit( first q principal components of a )    what still varies varies between classes
    r_x                                                the same of x, the space shared with texts
    u   = unit( [r_h | beta r_x] )

Letters: N images, D dimensions, x (N, D) unit features, h (N, H) features of the image tower
before its projection, u (N, R).
"""

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import normalize, one_hot


@plain_dataclass(frozen=True)
class WhitenedPCA:
    """GET-plus: two spaces, each sharpened by labelled classes and reduced, side by side.

    Rows are [x | h | 1]: features shared with texts, and the image tower's own. `weights` are of
    [u | 1].
    """

    kind: ClassVar = "spaces"
    x_centre: Float[Tensor, " D"]
    """Mean of x."""
    x_whiten: Float[Tensor, "D D"]
    """Inverse root of the covariance of x within labelled classes."""
    x_middle: Float[Tensor, " D"]
    """Mean of what it makes, as unit vectors."""
    x_axes: Float[Tensor, "D P"]
    """Principal axes of that."""
    h_centre: Float[Tensor, " H"]
    """Mean of h, and so on."""
    h_whiten: Float[Tensor, "H H"]
    """As for x."""
    h_middle: Float[Tensor, " H"]
    """As for x."""
    h_axes: Float[Tensor, "H Q"]
    """As for x."""
    share: float
    """beta, weight of x beside h."""

    @property
    def width(self) -> int:
        """Columns of `weights`."""
        return self.h_axes.shape[1] + self.x_axes.shape[1] + 1

    def logits(
        self,
        clip: object,
        prompts: tuple[str, ...],
        w: Float[Tensor, "C E"],
        f: Float[Tensor, "n R"],
    ) -> Float[Tensor, "n C"]:
        """U . w_c + bias_c."""
        return self.seen(f) @ w[:, :-1].T + w[:, -1]

    def seen(self, f: Float[Tensor, "n R"]) -> Float[Tensor, "n E"]:
        """u, the unit vectors of both spaces together."""
        return self.joined(*self.reduced(f))

    def reduced(self, f: Float[Tensor, "n R"]) -> tuple[Float[Tensor, "n P"], Float[Tensor, "n Q"]]:
        """Coordinates of x and of h along their axes, the first of the largest spread."""
        d = len(self.x_centre)
        x = normalize((f[:, :d] - self.x_centre) @ self.x_whiten, dim=1)
        h = normalize((f[:, d:-1] - self.h_centre) @ self.h_whiten, dim=1)
        return (x - self.x_middle) @ self.x_axes, (h - self.h_middle) @ self.h_axes

    def joined(self, x: Float[Tensor, "n P"], h: Float[Tensor, "n Q"]) -> Float[Tensor, "n E"]:
        """U of coordinates, of all of them or the first few."""
        both = [normalize(h, dim=1), self.share * normalize(x, dim=1)]
        return normalize(torch.cat(both, dim=1), dim=1)


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Whitening:
    """How features are sharpened by labels."""

    sharpen: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the covariance within labelled classes that is undone; the rest is one number for
    all dimensions."""
    shared: Annotated[float, Field(ge=0)] = 0.5
    """beta, weight of the space shared with texts beside the tower's own."""

    def spaces(
        self, rows: Float[Tensor, "N E"], d: int, labels: Int[Tensor, " N"], q: int
    ) -> WhitenedPCA:
        """Both spaces, sharpened and reduced.

        Args:
            rows: [x | h | 1].
            d: how many columns are x.
            labels: -1 where there is none.
            q: principal components of each space.
        """
        x, h = rows[:, :d], rows[:, d:-1]
        of_x, of_h = (sharpened(some, labels, q, self.sharpen) for some in (x, h))
        return WhitenedPCA(*of_x, *of_h, share=self.shared)


def sharpened(
    h: Float[Tensor, "N H"], labels: Int[Tensor, " N"], q: int, sharpen: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What whitens features and reduces them.

    Returns:
        centre (H), Sigma^-1/2 (H, H), and of the unit vectors they make: centre (H) and the first
        q principal axes (H, q).
    """
    centre, known = h.mean(0), labels >= 0
    z = one_hot(labels[known]).to(h)
    means = torch.einsum("nk,nh,k->kh", z, h[known], 1 / z.sum(0).clamp_min(1))
    rest = h[known] - z @ means
    within = rest.T @ rest / max(1, len(rest))
    width = len(within)
    level = (within.trace() / width).clamp_min(1e-12)
    sigma = sharpen * within + (1 - sharpen) * level * torch.eye(width).to(h)
    values, vectors = torch.linalg.eigh(sigma)
    whiten = vectors * values.clamp_min(1e-12).rsqrt()
    a = normalize((h - centre) @ whiten, dim=1)
    middle = a.mean(0)
    axes = torch.linalg.eigh((a - middle).T @ (a - middle)).eigenvectors.flip(1)
    return centre, whiten, middle, axes[:, : min(q, width, len(h) - 1)].contiguous()
