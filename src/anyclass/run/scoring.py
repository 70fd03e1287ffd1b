"""Zero-shot beside the result, always: the same pictures, the same prompts, three classifiers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from anyclass.backbone import Backbone
from anyclass.classifier import Classifier
from anyclass.data import Photos
from anyclass.features import (
    Embedding,
    cached_part,
    current_features,
    embed,
    pooled_features,
    side_by_side,
    tower_features,
    with_own,
)
from anyclass.metrics import confusion, expected_calibration_error, score
from anyclass.templates import PLAIN, class_features, openai_templates
from anyclass.train import Log

UNKNOWABLE = (
    "No picture has a label, so nobody can say how often the labels are right; label some "
    "(--labels) or run `anyclass evaluate` on a labelled folder."
)


class Seen(NamedTuple):
    """Probabilities of the same N pictures by three classifiers."""

    zero_shot: Float[np.ndarray, "N C"]
    """By the class names in the classifier's template."""
    ensemble: Float[np.ndarray, "N C"]
    """By the class names in OpenAI's 80 templates."""
    adapted: Float[np.ndarray, "N C"]
    """By the classifier."""


@torch.no_grad()
def see(clip: Backbone, classifier: Classifier, photos: Photos, log: Log) -> Seen:
    """Look at pictures with the model as it was loaded and with the classifier.

    Args:
        clip: the model before training.
        classifier: what was made of it.
        photos: pictures, all readable.
        log: gets the progress of embedding.
    """
    part = cached_part(classifier.part)
    shown = embed(clip, photos, Embedding(part), log)
    before = current_features(clip, photos, part, shown)
    after = current_features(classifier.clip, photos, classifier.part or part, shown)

    def by(templates: Sequence[str]) -> Float[np.ndarray, "N C"]:
        weights = class_features(clip, classifier.classes.prompts, templates)
        named = Classifier(clip, None, classifier.classes, weights, "zero_shot")
        return named.probabilities(before).cpu().numpy()

    template = str(classifier.fields.get("template", PLAIN))
    towers = [after] if classifier.beside is None else [after, before]
    rows = side_by_side(towers)
    rows = with_own(rows, tower_features(shown)) if classifier.own else rows
    if classifier.pooled:
        rows = pooled_features(classifier.clip, shown, part)
    adapted = classifier.probabilities(rows).cpu().numpy()
    return Seen(by([template]), by(openai_templates()), adapted)


def compare(labels: Int[np.ndarray, " N"], seen: Seen, names: Sequence[str]) -> dict[str, Any]:
    """Scores of the three, None where nothing is labelled; a warning where adapting harmed."""
    known = bool((labels >= 0).any())
    guesses = {
        "zero_shot": seen.zero_shot.argmax(1),
        "zero_shot_ensemble": seen.ensemble.argmax(1),
        "adapted": seen.adapted.argmax(1),
    }
    scores = {key: score(labels, guess, names) for key, guess in guesses.items()}
    adapted = guesses["adapted"]
    return scores | {
        "scored": int((labels >= 0).sum()),
        "why_null": None if known else UNKNOWABLE,
        "changed": float((adapted != guesses["zero_shot"]).mean()),
        "confusion": confusion(labels, adapted, len(names)).tolist() if known else None,
        "calibration_error": expected_calibration_error(labels, seen.adapted),
        "warnings": _warnings(scores),
    }


def _warnings(scores: dict[str, Any]) -> list[str]:
    before, after = scores["zero_shot"], scores["adapted"]
    if not before or not after or after["accuracy"] >= before["accuracy"]:
        return []
    return [
        f"adapted is worse than zero-shot here ({after['accuracy']:.1%} against "
        f"{before['accuracy']:.1%}): keep zero-shot (`anyclass fit zero_shot`) or another method"
    ]
