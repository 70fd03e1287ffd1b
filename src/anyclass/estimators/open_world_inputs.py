"""Labels, class texts and nouns as `OpenWorldClassifier` gets them, checked and brought to indices.

Letters: N images, C known classes.
"""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from anyclass.errors import ArrayError
from anyclass.estimators.negatives import NegativeTexts
from anyclass.estimators.text_expert import CentredTexts


def encode_labels(
    y: Any, count: int, texts: CentredTexts
) -> tuple[Int[Tensor, " N"], Int[np.ndarray, " C"] | np.ndarray]:
    """Index of the class of each row, -1 without a label, and the known classes.

    Raises:
        ArrayError: y has another length than X, or classes of a wrong kind.
    """
    named = len(texts.named)
    if y is None:
        return torch.full((count,), -1), np.arange(named)
    given = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if given.shape != (count,):
        raise ArrayError(f"y has the shape {given.shape}, but X has {count} rows")
    if given.dtype.kind == "f":
        if not np.isfinite(given).all() or (given != given.round()).any():
            raise ArrayError("y is continuous (Unknown label type: not integers), or not finite")
        given = given.astype(np.int64)
    numbers = np.issubdtype(given.dtype, np.integer)
    if named:
        if not numbers or int(given.min()) < -1 or int(given.max()) >= named + count:
            raise ArrayError("y must have integer classes, rows of class_text, or -1")
        known = np.arange(max(named, int(given.max()) + 1))
        return torch.tensor(given.astype(np.int64)), known
    unlabelled = given == ("-1" if given.dtype.kind == "U" else -1)
    try:
        known, index = np.unique(given[~unlabelled], return_inverse=True)
    except TypeError as error:
        raise ArrayError("y must have classes of one kind: integers or strings") from error
    labels = torch.full((count,), -1)
    labels[torch.from_numpy(~unlabelled)] = torch.from_numpy(index)
    return labels, known


def negative_texts(texts: CentredTexts, negative_text: Any, scale: float) -> NegativeTexts | None:
    """Names and other nouns; None without nouns, or if a class has no name."""
    if negative_text is None or not len(texts.named) or not bool(texts.named.all()):
        return None
    return NegativeTexts.of(texts.units, negative_text, scale)


def check_known(
    texts: CentredTexts, labels: Int[Tensor, " N"], unknown: int | Literal["auto"]
) -> None:
    """Refuse classes of which nothing is known.

    Raises:
        ArrayError: a class has neither a text nor a label, or there is no class at all.
    """
    classes = len(texts.named)
    seen = torch.bincount(labels[labels >= 0], minlength=classes) > 0
    nothing = torch.nonzero(~(texts.named | seen))[:, 0].tolist()
    if nothing:
        raise ArrayError(
            f"class {nothing[0]} has neither a text nor a label: give one, or count it as unknown"
        )
    if classes == 0 and unknown == 0:
        raise ArrayError("there is no class: give labels, class_text or unknown")


def all_classes(known: np.ndarray, count: int) -> np.ndarray:
    """The known classes, and new ones up to a total of `count`."""
    new = count - len(known)
    if np.issubdtype(known.dtype, np.integer):
        first = int(known.max()) + 1 if len(known) else 0
        return np.concatenate([known.astype(np.int64), np.arange(first, first + new)])
    return np.concatenate([known, [f"unknown {i + 1}" for i in range(new)]]) if new else known
