"""What `OpenWorldClassifier.fit` gets: checked, with classes as indices.

Letters: N images, C known classes, D dimensions.
"""

from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anyclass.errors import ArrayError
from anyclass.estimators.linear import Linear
from anyclass.estimators.negative_texts import WEIGHT, NegativeTexts
from anyclass.estimators.rows import Rows
from anyclass.estimators.text_expert import CentredTexts

Unknown = int | Literal["auto"]
"""Number of classes without name and label; "auto": it is estimated."""


@dataclass(frozen=True)
class Inputs:
    """Images and what is known of them."""

    rows: Rows
    """Features of the images."""
    labels: Int[Tensor, " N"]
    """Class of each image, -1 without a label."""
    known: Int[np.ndarray, " C"] | np.ndarray
    """The known classes as they were given, integers or strings."""
    texts: CentredTexts
    """Text features of the known classes."""
    logit_scale: float
    """s."""
    negatives: NegativeTexts | None
    """Nouns other than the classes; None if they have no effect."""

    @classmethod
    def checked(
        cls,
        rows: Rows,
        y: np.ndarray | None,
        class_text: Any,
        logit_scale: float,
        negative_text: Any,
        unknown: Unknown,
    ) -> "Inputs":
        """Check the arguments of `OpenWorldClassifier.fit`, which describes them.

        Args:
            rows: features, as they were given.
            y: labels of these rows, see `label_array`.
            class_text: text features of classes, or None.
            logit_scale: s.
            negative_text: text features of nouns, or None.
            unknown: number of classes without name and label.

        Raises:
            ArrayError: the shapes do not fit, a value is not finite, or nothing is known of a
                class.
        """
        rows = rows.centred()
        texts = CentredTexts.of(class_text, rows.depth)
        labels, known = encode_labels(y, len(rows), texts)
        texts = texts.padded(len(known))
        check_known(texts, labels, unknown)
        negatives = None
        if unknown == 0 or len(labels[labels >= 0].unique()) < len(known):
            negatives = negative_texts(texts, negative_text, logit_scale)
        return cls(rows, labels, known, texts, logit_scale, negatives)

    @property
    def text_expert(self) -> Linear:
        """Zero-shot logits l of x, without the correction b."""
        return self.texts.expert(self.logit_scale)

    def confidences(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n C"]:
        """How likely each image is of each class by the names; 0 for a class without a name."""
        named = self.texts.named
        found = torch.zeros(len(x), len(named))
        found[:, named] = self.text_expert.logits(x)[:, named].softmax(1)
        if self.negatives is not None:
            found = found * (WEIGHT * self.negatives.odds(x)).exp()[:, None]
        return found


def check_parameters(
    unknown: Any, folds: int, logit_scale: float, max_unlabelled: int | None
) -> None:
    """Refuse unusable parameters.

    Raises:
        ArrayError: a parameter has no usable value.
    """
    if folds < 2:
        raise ArrayError(f"folds is {folds}, but at least 2 are needed")
    if unknown != "auto" and not (isinstance(unknown, int | np.integer) and unknown >= 0):
        raise ArrayError(f"unknown is {unknown!r}, not a number of classes or 'auto'")
    if max_unlabelled is not None and max_unlabelled < 1:
        raise ArrayError(
            f"max_unlabelled is {max_unlabelled}, but at least 1 row is needed; None: all"
        )
    if not 0 < logit_scale < inf:
        raise ArrayError(f"logit_scale is {logit_scale}, but must be positive")


def label_array(y: Any, count: int) -> np.ndarray | None:
    """Labels as an array of integers or strings; None: no label.

    Raises:
        ArrayError: they have another length than X, or are not whole numbers.
    """
    if y is None:
        return None
    given = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if given.shape != (count,):
        raise ArrayError(f"y has the shape {given.shape}, but X has {count} rows")
    if given.dtype.kind == "f":
        if not np.isfinite(given).all() or (given != given.round()).any():
            raise ArrayError("y is continuous (Unknown label type: not integers), or not finite")
        given = given.astype(np.int64)
    return given


def without_label(y: np.ndarray) -> Bool[np.ndarray, " N"]:
    """Rows that have no label."""
    found: Bool[np.ndarray, " N"] = y == ("-1" if y.dtype.kind == "U" else -1)
    return found


def draw_rows(
    y: np.ndarray | None, count: int, most: int | None, seed: int
) -> Int[np.ndarray, " n"] | None:
    """All labelled rows and at most so many of the others, ascending; None: every row.

    Args:
        y: labels of the rows, see `label_array`.
        count: N.
        most: largest number of unlabelled rows; None: all.
        seed: random seed of the draw.
    """
    if most is None:
        return None
    draw = np.random.default_rng(seed)
    if y is None:
        return np.sort(draw.choice(count, most, replace=False)) if most < count else None
    free = np.flatnonzero(without_label(y))
    if most >= len(free):
        return None
    labelled = np.flatnonzero(~without_label(y))
    return np.sort(np.concatenate([labelled, draw.choice(free, most, replace=False)]))


def encode_labels(
    y: np.ndarray | None, count: int, texts: CentredTexts
) -> tuple[Int[Tensor, " N"], Int[np.ndarray, " C"] | np.ndarray]:
    """Index of the class of each row, -1 without a label, and the known classes.

    Raises:
        ArrayError: y has classes of a wrong kind.
    """
    named = len(texts.named)
    if y is None:
        return torch.full((count,), -1), np.arange(named)
    numbers = np.issubdtype(y.dtype, np.integer)
    if named:
        if not numbers or int(y.min()) < -1 or int(y.max()) >= named + count:
            raise ArrayError("y must have integer classes, rows of class_text, or -1")
        known = np.arange(max(named, int(y.max()) + 1))
        return torch.tensor(y.astype(np.int64)), known
    unlabelled = without_label(y)
    try:
        known, index = np.unique(y[~unlabelled], return_inverse=True)
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


def check_known(texts: CentredTexts, labels: Int[Tensor, " N"], unknown: Unknown) -> None:
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
