"""Folds of images and groups of classes, for labels that are held out.

Letters: N images, C classes.
"""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from anyclass.estimators.rows import Rows


def folds(
    rows: Rows, labels: Int[Tensor, " N"], classes: int, count: int
) -> tuple[Int[Tensor, " N"], Int[Tensor, " C"]]:
    """Divide images into folds, and classes into groups, by the content of the images.

    The order of images and classes does not matter, equal images share a fold, and the images of a
    class are spread over the folds.

    Args:
        rows: images.
        labels: class of each image, -1 if it has no label.
        classes: C.
        count: number of folds and of groups.

    Returns:
        Fold of each image, and group of each class.
    """
    parts = []
    for _, x, _ in rows.blocks():
        axis = torch.cos(1.7 * torch.arange(x.shape[1]) + 0.3)
        parts.append((x * axis).sum(1))
    key = torch.cat(parts).numpy()
    order = np.lexsort((key, labels.numpy()))
    y = labels.numpy()[order]
    new_class = np.diff(y, prepend=y[:1] - 1) != 0
    new_image = new_class | (np.diff(key[order], prepend=np.nan) != 0)
    rank = np.cumsum(new_image) - 1
    starts = np.flatnonzero(new_class)
    within = rank - np.repeat(rank[starts], np.diff([*starts, len(y)]))
    first = dict(zip(y[starts].tolist(), key[order][starts].tolist(), strict=True))
    ranked = sorted((c for c in first if c >= 0), key=first.__getitem__)
    group = torch.zeros(classes, dtype=torch.long)
    group[ranked] = torch.arange(len(ranked)) % count
    shift = np.where(y >= 0, group.numpy()[y], 0) if classes else 0
    fold = torch.empty(len(y), dtype=torch.long)
    fold[torch.from_numpy(order)] = torch.from_numpy((within + shift) % count)
    return fold, group
