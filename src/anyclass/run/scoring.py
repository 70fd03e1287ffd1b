"""Zero-shot beside the result, always: the same images, the same prompts, three classifiers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import Classes, ImageDataset
from anyclass.estimators.metrics import base_to_new, confusion, expected_calibration_error, score
from anyclass.features.extract import (
    Embedding,
    Features,
    cached_part,
    current_features,
    embed,
    pooled_features,
    side_by_side,
    tower_features,
    with_own,
)
from anyclass.features.text import PLAIN, class_features, openai_templates
from anyclass.log import Log

UNKNOWABLE = (
    "No image has a label, so nobody can say how often the labels are right; label some "
    "(--labels) or run `anyclass evaluate` on a labelled folder."
)

Probabilities = Float[np.ndarray, "N C"]
"""Probabilities of N images."""


class Predictions(NamedTuple):
    """Probabilities of the same N images by several classifiers."""

    zero_shot: Probabilities
    """By the class names in the classifier's template; 0 for a class without a name."""
    zero_shot_ensemble: Probabilities
    """By the class names in OpenAI's 80 templates."""
    adapted: Probabilities
    """By the classifier."""


@torch.no_grad()
def predict_all(
    clip: Backbone, classifier: Classifier, dataset: ImageDataset, log: Log
) -> Predictions:
    """Look at images with the model as it was loaded and with the classifier.

    Args:
        clip: the model before training.
        classifier: what was made of it.
        dataset: images, all readable.
        log: gets the progress of embedding.
    """
    features, before = _before(clip, classifier, dataset, log)
    classes = classifier.classes
    named = np.setdiff1d(np.arange(len(classes)), unnamed(classes))

    def by(templates: Sequence[str]) -> Probabilities:
        table = np.zeros((len(dataset), len(classes)), np.float32)
        if len(named):
            weights = class_features(clip, [classes.prompts[c] for c in named], templates)
            among = Classifier(clip, None, classes, weights, "zero-shot")
            table[:, named] = among.probabilities(before).cpu().numpy()
        return table

    template = str(classifier.fields.get("template", PLAIN))
    adapted = _adapted(classifier, dataset, features, before)
    return Predictions(by([template]), by(openai_templates()), adapted)


@torch.no_grad()
def by_itself(
    clip: Backbone, classifier: Classifier, dataset: ImageDataset, log: Log
) -> Probabilities:
    """Probabilities of images by a classifier alone; arguments as of `see`."""
    return _adapted(classifier, dataset, *_before(clip, classifier, dataset, log))


def _before(
    clip: Backbone, classifier: Classifier, dataset: ImageDataset, log: Log
) -> tuple[Features, Float[Tensor, "N D"]]:
    """What the frozen trunk says of images, and their features by the untrained model."""
    part = cached_part(classifier.part)
    features = embed(clip, dataset, Embedding(part), log)
    return features, current_features(clip, dataset, part, features)


def _adapted(
    classifier: Classifier, dataset: ImageDataset, features: Features, before: Float[Tensor, "N D"]
) -> Probabilities:
    part = cached_part(classifier.part)
    after = current_features(classifier.clip, dataset, classifier.part or part, features)
    towers = [after] if classifier.beside is None else [after, before]
    rows = side_by_side(towers)
    rows = with_own(rows, tower_features(features)) if classifier.own else rows
    if classifier.pooled:
        rows = pooled_features(classifier.clip, features, part)
    return classifier.probabilities(rows).cpu().numpy()


def unnamed(classes: Classes) -> list[int]:
    """Indices of the classes that were discovered: no text stands for them."""
    return [c for c, kind in enumerate(classes.kinds) if kind == "unknown"]


def compare(labels: Int[np.ndarray, " N"], seen: Predictions, classes: Classes) -> dict[str, Any]:
    """Scores of the three, None where nothing is labelled; a warning where adapting harmed."""
    known, names = bool((labels >= 0).any()), classes.names
    scores = {
        key: every_score(labels, probabilities, classes)
        for key, probabilities in seen._asdict().items()
    }
    adapted, named = seen.adapted.argmax(1), bool(seen.zero_shot.any())
    return scores | {
        "scored": int((labels >= 0).sum()),
        "why_null": None if known else UNKNOWABLE,
        "changed": float((adapted != seen.zero_shot.argmax(1)).mean()) if named else None,
        "confusion": confusion(labels, adapted, len(names)).tolist() if known else None,
        "calibration_error": expected_calibration_error(labels, seen.adapted),
        "warnings": [] if unnamed(classes) else _warnings(scores),
    }


@torch.no_grad()
def score_baselines(
    clip: Backbone, controls: Mapping[str, Classifier], dataset: ImageDataset, log: Log
) -> dict[str, Any]:
    """Scores of the classifiers that the result has to beat, by name; None where none is known."""
    return {
        name: every_score(dataset.labels, by_itself(clip, each, dataset, log), each.classes)
        for name, each in controls.items()
    }


def every_score(
    labels: Int[np.ndarray, " N"], probabilities: Probabilities, classes: Classes
) -> dict[str, Any] | None:
    """Every number; base and new classes apart where some are labelled and others only named."""
    scores = score(labels, probabilities.argmax(1), classes.names)
    if scores is None or not classes.labelled or not classes.named:
        return scores
    new = np.isin(np.arange(len(classes)), classes.named)
    return scores | base_to_new(labels, probabilities, new)


def _warnings(scores: dict[str, Any]) -> list[str]:
    before, after = scores["zero_shot"], scores["adapted"]
    if not before or not after or after["accuracy"] >= before["accuracy"]:
        return []
    return [
        f"adapted is worse than zero-shot here ({after['accuracy']:.1%} against "
        f"{before['accuracy']:.1%}): keep zero-shot (`anyclass fit zero-shot`) or another method"
    ]
