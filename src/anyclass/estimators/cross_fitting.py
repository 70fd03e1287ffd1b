"""Cross-fitting: fits without some labels, so that no label takes part in its own prediction.

Letters: N images, C classes, F folds, R replicas without some of the labels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anyclass.estimators.rows import Rows


@dataclass
class Replicas:
    """Which labels each replica of a fit knows.

    Replica r < R does without the labels of fold r; replica R knows all labels. Where some classes
    have only a name, replica r also does without all labels of the named classes of group r, as
    they are then in the situation of these classes.
    """

    labels: Int[Tensor, " N"]
    """Class of each image, -1 if it has no label."""
    fold: Int[Tensor, " N"]
    """Fold of each image."""
    group: Int[Tensor, " C"]
    """Group of each class, 0 ... F - 1."""
    named: Bool[Tensor, " C"]
    """Classes with a name."""
    folds: int
    """F."""

    @classmethod
    def of(
        cls, rows: Rows, labels: Int[Tensor, " N"], named: Bool[Tensor, " C"], folds: int
    ) -> "Replicas":
        """Divide images into folds, and classes into groups."""
        fold, group = assign_folds(rows, labels, len(named), folds)
        return cls(labels, fold, group, named, folds)

    def __post_init__(self) -> None:
        """Find the classes of which each replica knows a label."""
        self.only_named = self.named & ~self._classes_of(self.labels)
        any_label = bool((self.labels >= 0).any())
        self.mixed = any_label and bool(self.only_named.any())
        """Whether some classes have labels, and others only a name."""
        self.count = self.folds if any_label else 0
        """R."""
        self.known = [self._classes_of(self.visible(r)) for r in range(self.count + 1)]
        """Classes of which each replica knows a label, (C,)."""

    def visible(self, r: int, rows: slice = slice(None)) -> Int[Tensor, " n"]:
        """Labels of some images that replica r knows, -1 otherwise."""
        labels = self.labels[rows]
        if r == self.count:
            return labels
        hidden = self.fold[rows] == r
        if self.mixed:
            y = labels.clamp_min(0)
            hidden = hidden | (self.named[y] & (self.group[y] == r))
        return torch.where(hidden, -1, labels)

    def predictable(self, r: int, labels: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Whether replica r knows a name or another label of the class."""
        return (self.known[r] | self.named)[labels.clamp_min(0)]

    def held_out(self, r: int, most: int) -> Int[np.ndarray, " n"]:
        """Images whose label replica r does without, and whose class it can predict.

        Args:
            r: the replica.
            most: most images of all replicas together; of more, some at equal distances.
        """
        hidden = (self.labels >= 0) & (self.visible(r) < 0)
        index = torch.nonzero(hidden & self.predictable(r, self.labels))[:, 0].numpy()
        return index[:: max(1, -(-len(index) * self.count // most))]

    def _classes_of(self, labels: Int[Tensor, " N"]) -> Bool[Tensor, " C"]:
        """Classes with a label."""
        return torch.bincount(labels[labels >= 0], minlength=len(self.named)) > 0


def assign_folds(
    rows: Rows, labels: Int[Tensor, " N"], classes: int, count: int
) -> tuple[Int[Tensor, " N"], Int[Tensor, " C"]]:
    """Divide images into folds, and classes into groups, by the content of the images.

    The order of images and classes does not matter, equal images share a fold, and the images of a
    class are spread over the folds.

    Args:
        rows: images.
        labels: class of each image, -1 if it has no label.
        classes: C.
        count: F.

    Returns:
        Fold of each image, and group of each class.
    """
    key = _content_key(rows).numpy()
    order = np.lexsort((key, labels.numpy()))
    y = labels.numpy()[order].astype(np.int32)
    key = key[order]
    new_class = np.ones(len(y), bool)
    new_class[1:] = y[1:] != y[:-1]
    new_image = new_class.copy()
    new_image[1:] |= key[1:] != key[:-1]
    starts = np.flatnonzero(new_class)
    first = dict(zip(y[starts].tolist(), key[starts].tolist(), strict=True))
    ranked = sorted((c for c in first if c >= 0), key=first.__getitem__)
    group = torch.zeros(classes, dtype=torch.long)
    group[ranked] = torch.arange(len(ranked)) % count
    place = np.cumsum(new_image, dtype=np.int32)  # of an image in its class, 0 for the first
    place -= np.repeat(place[starts], np.diff([*starts, len(y)]))
    if classes:
        place += np.where(y >= 0, group.numpy().astype(np.int32)[y], 0)
    fold = torch.empty(len(y), dtype=torch.int32)
    fold[torch.from_numpy(order)] = torch.from_numpy(place % np.int32(count))
    return fold, group


def _content_key(rows: Rows) -> Float[Tensor, " N"]:
    """A number for each image that only its features decide: their product with a fixed vector."""
    found = torch.empty(len(rows))
    for block, x, _ in rows.blocks():
        axis = torch.cos(1.7 * torch.arange(x.shape[1]) + 0.3)  # as good as random
        found[block] = (x * axis).sum(1)
    return found
