"""Features that were computed before, in the place of images: for fit, evaluate and predict."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.precomputed import NO_MODEL, Precomputed, of_features
from anyclass.data import ImageDataset
from anyclass.data.class_files import ClassSource
from anyclass.data.classes import listed
from anyclass.data.feature_dataset import feature_dataset
from anyclass.data.feature_tables import (
    LOGIT_SCALE,
    ClassTextTable,
    FeatureTable,
    align_texts,
)
from anyclass.data.label_tables import KnownLabels
from anyclass.errors import RequestError
from anyclass.features.precomputed import PrecomputedFeatures
from anyclass.features.store import FeatureStore


class ClassKnowledge(NamedTuple):
    """What the user knows of the classes."""

    classes: ClassSource | None
    """Names, or a file of names."""
    labels: Any
    """folders, a label table or an array."""
    unknown: int = 0
    """Number of further classes to discover."""
    columns: tuple[str, str] = ("file_name", "label")
    """Columns of a label table."""
    known: KnownLabels | None = None
    """What an earlier run knew."""


def precomputed(
    table: FeatureTable,
    texts: ClassTextTable | None,
    known: ClassKnowledge,
    logit_scale: float | None,
) -> PrecomputedFeatures:
    """Features with everything that a fit needs.

    Args:
        table: the features.
        texts: text features of the classes; None: those in the file of the features.
        known: labels and classes.
        logit_scale: factor of the model; None: that in the file of the texts, or CLIP's.

    Raises:
        RequestError: features, texts, labels and classes do not match, or nothing is known of a
            class.
    """
    texts = texts or table.texts
    dataset = feature_dataset(
        table, texts, known.classes, known.labels, known.unknown, known.columns, known.known
    )
    aligned = _aligned(texts, dataset, table)
    _check_known(dataset, aligned)
    own_scale = None if texts is None else texts.logit_scale
    scale = logit_scale or own_scale or LOGIT_SCALE
    nouns = _negatives(texts, int(table.x.shape[1]))
    return PrecomputedFeatures(table, dataset, aligned, scale, nouns)


def _aligned(
    texts: ClassTextTable | None, dataset: ImageDataset, table: FeatureTable
) -> Float[Tensor, "C D"]:
    """Class texts in the order of the classes; NaN: none."""
    width = int(table.x.shape[1])
    if texts is None:
        return torch.full((len(dataset.classes), width), torch.nan)
    return torch.from_numpy(align_texts(texts, dataset.classes, width))


def _negatives(texts: ClassTextTable | None, width: int) -> Float[Tensor, "M D"] | None:
    """Texts of nouns other than the classes."""
    if texts is None or texts.negatives is None:
        return None
    nouns = np.array(texts.negatives, np.float32)
    if nouns.shape[1] != width or not np.isfinite(nouns).all() or not nouns.any(1).all():
        raise RequestError(
            f"{texts.source}: negative_text must have {width} columns, as the image features do, "
            "and no row that is zero or not finite"
        )
    return torch.from_numpy(nouns)


def _check_known(dataset: ImageDataset, texts: Float[Tensor, "C D"]) -> None:
    """Refuse classes with neither a label nor a text."""
    nothing_known = texts.isnan().any(1).numpy()
    nothing_known[dataset.classes.labelled] = False
    names = [dataset.classes.names[c] for c in np.flatnonzero(nothing_known)]
    if names:
        raise RequestError(
            f"nothing is known of {listed(names)}: label rows of each class (--labels FILE), or "
            "give its text features (--class-text FILE)"
        )


def check_images(classifier: Classifier) -> None:
    """Refuse images where a run was fitted on features.

    Raises:
        RequestError: there is no model that reads images.
    """
    if isinstance(classifier.representation, Precomputed):
        raise RequestError(NO_MODEL)


@torch.no_grad()
def for_features(classifier: Classifier) -> Classifier:
    """The classifier of a run on images, for features of its model.

    Raises:
        RequestError: it needs the images.
    """
    return replace(classifier, representation=of_features(classifier.representation))


@torch.no_grad()
def of_run(
    classifier: Classifier, table: FeatureTable, dataset: ImageDataset, base: Backbone | None
) -> PrecomputedFeatures:
    """Labelled features for the scores of a run, with its class texts.

    Args:
        classifier: the classifier of the run.
        table: the features.
        dataset: their labels; the classes of the run come first.
        base: the untrained model of the run; None: it was fitted on features.
    """
    representation = classifier.representation
    if isinstance(representation, Precomputed):
        scale = representation.logit_scale
        return PrecomputedFeatures(table, dataset, representation.texts, scale)
    if base is None:
        raise RequestError("the run was fitted on images, and its model is not there")
    store = FeatureStore(base, dataset)
    template = classifier.template
    named, features = store.named_class_features(classifier.classes, [template])
    texts = torch.full((len(classifier.classes), int(table.x.shape[1])), torch.nan)
    texts[torch.from_numpy(named)] = features.cpu()
    return PrecomputedFeatures(table, dataset, texts, store.logit_scale)
