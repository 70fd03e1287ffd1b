"""How long a fit takes with the starter model on two cores, from measured speeds."""

import numpy as np

from anyclass.backbone import Precision
from anyclass.backbone.engine import has_amx
from anyclass.data import ImageDataset
from anyclass.methods import Workload
from anyclass.training.two_views import TwoViewTuning, steps_of_epoch

IMAGES_PER_MINUTE = 3_600
"""Conservative speed of the image encoder, decoding included."""

PAIRS_PER_MINUTE = 12_800
"""Training speed of the last stage of the image encoder, or of the text encoder."""

TEXTS_PER_MINUTE = 10_000
"""Speed of the text encoder."""

TRAINED_TEXTS_PER_MINUTE = 4_000
"""Speed of training through the text encoder: CoOp on 16 images of each of 41 groceries takes 354
seconds for 24,600 texts, and 706 for 48,600 (`benchmarks/results/ship.json`)."""

TEMPLATES = 80
"""Number of templates of the prompt ensemble."""


def texts(dataset: ImageDataset, prompt_ensemble: bool, candidates: int) -> int:
    """Number of texts that a fit encodes; those in the cache count as well.

    Args:
        dataset: images and classes.
        prompt_ensemble: whether zero-shot is also scored with the prompt templates, which it is
            where an image has a label.
        candidates: words that discovered classes may be called, if there are such classes.
    """
    scored = prompt_ensemble and bool(np.any(dataset.labels >= 0))
    return len(dataset.classes) * (1 + (TEMPLATES if scored else 0)) + candidates


def pairs_per_minute(precision: Precision) -> int:
    """Training speed at a precision."""
    return PAIRS_PER_MINUTE * (2 if precision == "bf16" and has_amx() else 1)


def minutes_per_epoch(images: int, tuning: TwoViewTuning, rate: int) -> float:
    """Minutes of one epoch of training on pairs of views.

    Args:
        images: number of images.
        tuning: settings of the training.
        rate: pairs per minute.
    """
    size = min(tuning.batch_size, images)
    return size * steps_of_epoch(images, size) / rate if images else 0.0


def trained_texts(dataset: ImageDataset, workload: Workload) -> int:
    """Number of texts that are trained through, at most."""
    labelled = workload.labelled(dataset)
    classes = len(dataset.classes)
    return sum(training.texts(labelled, classes) for training in workload.text_training)


def minutes(
    embeddings: int, texts: int, trained: int, images: int, workload: Workload, rate: int
) -> float | None:
    """Minutes of a fit; None if the training was never measured.

    Args:
        embeddings: images and views to embed.
        texts: texts to encode.
        trained: texts to train through.
        images: number of images.
        workload: computations of the method.
        rate: pairs per minute.
    """
    total = embeddings / IMAGES_PER_MINUTE + texts / TEXTS_PER_MINUTE
    total += trained / TRAINED_TEXTS_PER_MINUTE
    tuning = workload.pairs
    if workload.trains == "all" or (tuning is not None and tuning.views == 0):
        return None
    if tuning is not None:
        epochs = workload.text_epochs + tuning.epochs
        total += epochs * minutes_per_epoch(images, tuning, rate)
    return total
