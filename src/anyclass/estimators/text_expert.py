"""Text expert: logits by the text features of class names.

    l_c(x) = s x . (t_c - mean t) + b_c
    b      : softmax(l) has the class frequencies r_c, r_c proportional to (mean_i z_ic)^(1 - m)
    m      = min(1, 2 (1 - mean_i max_c z_ic)) k / (k + N / C)          z = softmax(l) without b

b corrects classes that the texts predict too often (InMaP, arXiv 2310.19752, with a softened
target): entirely where zero-shot is unsure and a class has few images, so that frequencies say
little, and hardly where it is sure or has many.

Letters: N images, C classes, x (N, D) unit features, t (C, D) unit text features, s logit scale, k
images per class.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.errors import ArrayError
from anyclass.estimators.gaussian_expert import Anchors
from anyclass.estimators.linear import Linear
from anyclass.estimators.rows import Rows

MAX_IMAGES = 20_000
"""Maximum number of images that choose b and the temperature."""
ROUNDS = 20
"""Rounds of the correction b."""
UNSURE = 2.0
"""Factor of 1 - confidence in m."""
REPEATS = 30
"""Images per class at which half of the excess confidence of a fit without labels is removed."""
TINY = 1e-12
"""Smallest frequency of a class in the correction b."""
RIDGE = 1e-2
"""Penalty of the map from x to h, as a share of the mean square of x."""


@dataclass(frozen=True)
class CentredTexts:
    """Centred text features of the known classes."""

    centred: Float[Tensor, "C D"]
    """t_c - mean t; zero for a class without a name."""
    named: Bool[Tensor, " C"]
    """Classes with a name."""
    units: Float[Tensor, "C D"]
    """t; zero for a class without a name."""

    @classmethod
    def of(cls, given: Any, width: int) -> "CentredTexts":
        """Check, normalise and centre text features; rows of NaN have no name.

        Raises:
            ArrayError: they have another width than X, or a row is zero or infinite.
        """
        if given is None:
            nothing = torch.zeros(0, width)
            return cls(nothing, torch.zeros(0, dtype=torch.bool), nothing)
        array = given.detach().cpu() if isinstance(given, Tensor) else np.asarray(given)
        texts = torch.as_tensor(array).float()
        if texts.ndim != 2 or texts.shape[1] != width:
            raise ArrayError(
                f"class_text has the shape {tuple(texts.shape)}, but X has {width} columns"
            )
        named = ~texts.isnan().any(1)
        bad = named & (~texts.isfinite().all(1) | (texts == 0).all(1))
        if bool(bad.any()):
            raise ArrayError(f"row {int(bad.nonzero()[0, 0])} of class_text is zero or infinite")
        units = normalize(texts.nan_to_num(), dim=1)
        mean = units[named].mean(0) if bool(named.any()) else 0.0
        return cls(torch.where(named[:, None], units - mean, 0.0), named, units)

    def padded(self, classes: int) -> "CentredTexts":
        """The same with further classes without a name."""
        more = classes - len(self.named)
        nothing = self.centred.new_zeros(more, self.centred.shape[1])
        named = torch.cat([self.named, torch.zeros(more, dtype=torch.bool)])
        return CentredTexts(
            torch.cat([self.centred, nothing]), named, torch.cat([self.units, nothing])
        )

    def expert(self, scale: float) -> Linear:
        """l without b."""
        return Linear(self.centred, None, scale)

    def corrected(self, rows: Rows, text: Linear, images: float) -> Linear:
        """l with b.

        Args:
            rows: images.
            text: l without b.
            images: k.
        """
        x, _ = rows.at(rows.evenly_spaced(MAX_IMAGES))
        logits = text.logits(x)
        classes = logits.shape[1]
        z = logits.softmax(1)
        doubt = min(1.0, UNSURE * float(1 - z.amax(1).mean()))
        m = doubt * images / (images + len(rows) / classes)
        r = z.mean(0).clamp_min(TINY) ** (1 - m)
        r = r / r.sum()
        b = torch.zeros(classes)
        for _ in range(ROUNDS):
            b = b + (r / (logits + b).softmax(1).mean(0).clamp_min(TINY)).log()
        return Linear(text.weights, (b - b.mean()) / text.scale, text.scale)


def text_anchors(rows: Rows, texts: CentredTexts, strength: float) -> Anchors:
    """Anchors of the class means: texts in the space of h, by ridge regression if h is extra.

    Args:
        rows: images.
        texts: texts of the classes.
        strength: kappa.
    """
    depth = rows.depth
    width = rows.width
    squares = torch.zeros(depth, depth)
    products = torch.zeros(depth, width)
    variance = 0.0
    for _, x, h in rows.blocks():
        variance += float(h.square().sum())
        if rows.extra is not None:
            squares += x.T @ x
            products += x.T @ h
    if rows.extra is not None:
        ridge = RIDGE * squares.trace() / depth * torch.eye(depth)
        mapped = texts.centred @ torch.linalg.solve(squares + ridge, products)
    elif rows.axes is not None:
        mapped = texts.centred @ rows.axes
    else:
        mapped = texts.centred
    return Anchors(mapped, texts.named, strength, variance / len(rows) / width)


def confidence_temperature(
    rows: Rows,
    logits: Callable[[Tensor, Tensor], Float[Tensor, "n C"]],
    zero_shot: Float[Tensor, "C D"],
) -> float:
    """Temperature of a fit without labels, 1 or more.

    The image expert repeats the text expert, the more so the more images a class has. The
    temperature at which the mean confidence is that of zero-shot is taken to the power
    n / (n + `REPEATS`), n images per class.

    Args:
        rows: images.
        logits: of the fit, by x and h.
        zero_shot: s (t - mean t).
    """
    x, h = rows.at(rows.evenly_spaced(MAX_IMAGES))
    target = (x @ zero_shot.T).softmax(1).amax(1).mean()
    fitted = logits(x, h)
    low = 1.0
    high = 10.0
    for _ in range(30):  # bisection
        middle = (low + high) / 2
        if (fitted / middle).softmax(1).amax(1).mean() > target:
            low = middle
        else:
            high = middle
    n = len(rows) / fitted.shape[1]
    return float(low ** (n / (n + REPEATS)))
