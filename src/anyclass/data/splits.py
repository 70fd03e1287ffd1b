"""Splits of a labelled dataset: hold-out for scores, and the category discovery benchmark.

The benchmark split is that of GCD (Vaze et al., CVPR 2022, arXiv 2201.02609) and later papers.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int, Int64

from anyclass.data.classes import Classes
from anyclass.data.dataset import ImageDataset
from anyclass.errors import RequestError


def hold_out(dataset: ImageDataset, share: float, seed: int) -> ImageDataset:
    """Hide a share of the labels from training.

    Labels are drawn uniformly from the labelled images; each class keeps at least one.

    Args:
        dataset: images, some of them labelled.
        share: share of the labelled images that lose their label; 0 returns the dataset itself.
        seed: random seed of the draw.

    Raises:
        RequestError: there are too few labels.
    """
    if share == 0:
        return dataset
    draw = np.random.default_rng(seed)
    rows = draw.permutation(np.flatnonzero(dataset.labels >= 0))
    kept = rows[np.unique(dataset.labels[rows], return_index=True)[1]]
    hidden = rows[~np.isin(rows, kept)][: round(share * len(rows))]
    if len(hidden) == 0:
        raise RequestError(
            f"--holdout {share:g} of {len(rows)} labelled images holds out none: label more "
            "images, give a larger share, or leave --holdout out"
        )
    labels = dataset.labels.copy()
    labels[hidden] = -1
    return replace(dataset, labels=labels)


def labelled_share(
    labels: Int[np.ndarray, " N"], known: Sequence[int], share: float = 0.5, seed: int = 0
) -> Bool[np.ndarray, " N"]:
    """Mask of the labelled images: a share of the images of the known classes, drawn uniformly.

    The same draw as in the official code, which depends on the order of the images.
    """
    candidates = np.flatnonzero(np.isin(labels, known))
    draw = np.random.RandomState(seed)  # noqa: NPY002 (the published draw)
    chosen = draw.choice(len(candidates), int(share * len(candidates)), replace=False)
    mask = np.zeros(len(labels), dtype=bool)
    mask[candidates[chosen]] = True
    return mask


def discovery_split(
    dataset: ImageDataset, known: Sequence[int], share: float = 0.5, seed: int = 0
) -> tuple[ImageDataset, Int64[np.ndarray, " N"]]:
    """Dataset with hidden labels, and the true labels in its class order: known classes first.

    Args:
        dataset: fully labelled images.
        known: indices of the known classes; some of their images keep their label.
        share: share of the images of the known classes that keep their label.
        seed: random seed of the draw.
    """
    order = [*known, *(c for c in range(len(dataset.classes)) if c not in set(known))]
    new_index = np.empty(len(order), dtype=np.int64)
    new_index[order] = np.arange(len(order))
    truth = new_index[dataset.labels]
    labels = np.where(labelled_share(dataset.labels, known, share, seed), truth, -1)
    names = [dataset.classes.names[c] for c in known]
    prompts = [dataset.classes.all_prompts[c] for c in known]
    labelled = [names[c] for c in set(labels[labels >= 0].tolist())]
    classes = Classes.of(names, prompts, labelled, unknown=len(order) - len(known))
    return replace(dataset, labels=labels, classes=classes), truth
