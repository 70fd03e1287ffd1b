"""The benchmark of category discovery made of a fully labelled set: what is shown, what is hidden.

As in GCD (Vaze et al., CVPR 2022, arXiv 2201.02609) and all that came after it.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int, Int64

from anyclass.data.classes import Classes
from anyclass.data.dataset import ImageDataset


def labelled_share(
    labels: Int[np.ndarray, " N"], known: Sequence[int], share: float = 0.5, seed: int = 0
) -> Bool[np.ndarray, " N"]:
    """Which images are labelled: a share of those of the known classes, uniform over images.

    The same draw as in the official codes: it hangs on the order of the images.
    """
    candidates = np.flatnonzero(np.isin(labels, known))
    draw = np.random.RandomState(seed)  # noqa: NPY002 (the published draw)
    chosen = draw.choice(len(candidates), int(share * len(candidates)), replace=False)
    mask = np.zeros(len(labels), dtype=bool)
    mask[candidates[chosen]] = True
    return mask


def discovery(
    dataset: ImageDataset, known: Sequence[int], share: float = 0.5, seed: int = 0
) -> tuple[ImageDataset, Int64[np.ndarray, " N"]]:
    """Images with hidden labels, and the truth in their numbers: known classes come first.

    Args:
        dataset: images that all have a label.
        known: indices of the classes of which some images keep their label.
        share: of their images that do.
        seed: of the draw.
    """
    order = [*known, *(c for c in range(len(dataset.classes)) if c not in set(known))]
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    truth = number[dataset.labels]
    features = np.where(labelled_share(dataset.labels, known, share, seed), truth, -1)
    names = [dataset.classes.names[c] for c in known]
    prompts = [dataset.classes.prompts[c] for c in known]
    labelled = [names[c] for c in set(features[features >= 0].tolist())]
    classes = Classes.of(names, prompts, labelled, unknown=len(order) - len(known))
    return replace(dataset, labels=features, classes=classes), truth
