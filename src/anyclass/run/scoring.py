"""Scores of a classifier on labelled images, compared with zero-shot and baselines."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.data import Classes
from anyclass.estimators.metrics import base_to_new, confusion, expected_calibration_error, score
from anyclass.features.cache import Embedding, cached_part
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, cached_class_features, openai_templates
from anyclass.log import Log

NO_LABELS = (
    "No image has a label, so the accuracy is unknown; label some images (--labels) or run "
    "`anyclass evaluate` on a labelled folder."
)
"""Explanation of scores that are null."""

Probabilities = Float[np.ndarray, "N C"]
"""Probabilities of N images."""


class Predictions(NamedTuple):
    """Probabilities of the same N images by several classifiers."""

    zero_shot: Probabilities
    """Zero-shot with the template of the classifier; 0 for a class without a name."""
    zero_shot_ensemble: Probabilities | None
    """Zero-shot with OpenAI's 80 templates; None if not requested."""
    adapted: Probabilities
    """The classifier."""

    def of(self, rows: Bool[np.ndarray, " N"]) -> "Predictions":
        """Select the rows of some images."""
        ensemble = self.zero_shot_ensemble
        if ensemble is not None:
            ensemble = ensemble[rows]
        return Predictions(self.zero_shot[rows], ensemble, self.adapted[rows])


@torch.no_grad()
def predict_all(
    data: FeatureStore, classifier: Classifier, log: Log, prompt_ensemble: bool = True
) -> Predictions:
    """Predict images with the model before training and with the classifier.

    Args:
        data: the model before training, and images, all readable.
        classifier: the model after training.
        log: gets the progress of embedding.
        prompt_ensemble: also predict zero-shot with the 80 prompt templates.
    """
    x = data.image_features(cached_part(classifier.representation.part), log)
    classes = classifier.classes
    template = str(classifier.fields.get("template", PLAIN))
    ensemble = _zero_shot(data, x, classes, openai_templates()) if prompt_ensemble else None
    return Predictions(
        zero_shot=_zero_shot(data, x, classes, [template]),
        zero_shot_ensemble=ensemble,
        adapted=predict_adapted(data, classifier, log),
    )


@torch.no_grad()
def predict_adapted(data: FeatureStore, classifier: Classifier, log: Log) -> Probabilities:
    """Predict images with a classifier alone; arguments as of `predict_all`."""
    representation = classifier.representation
    cached = data.embed(Embedding(cached_part(representation.part)), log)
    rows = representation.of(data.dataset, cached)
    return classifier.probabilities(rows).cpu().numpy()


def _zero_shot(
    data: FeatureStore, x: Float[Tensor, "N D"], classes: Classes, templates: Sequence[str]
) -> Probabilities:
    """Zero-shot probabilities; 0 for a class without a name."""
    probabilities = np.zeros((len(x), len(classes)), np.float32)
    named = np.setdiff1d(np.arange(len(classes)), unknown_classes(classes))
    if len(named):
        prompts = [classes.prompts[c] for c in named]
        texts = cached_class_features(data.clip, prompts, templates)
        logits = CosineHead(texts, data.clip.logit_scale).logits(x)
        probabilities[:, named] = logits.softmax(dim=1).cpu().numpy()
    return probabilities


def unknown_classes(classes: Classes) -> list[int]:
    """Indices of the discovered classes, which have no name and no class prompt."""
    return [c for c, kind in enumerate(classes.kinds) if kind == "unknown"]


def compare(
    labels: Int[np.ndarray, " N"], predictions: Predictions, classes: Classes
) -> dict[str, Any]:
    """Score all predictions; warn if adaptation lost accuracy. Scores are None without labels."""
    scores: dict[str, Any] = {}
    for key, probabilities in predictions._asdict().items():
        wanted = probabilities is not None
        scores[key] = all_scores(labels, probabilities, classes) if wanted else None
    labelled = labels >= 0
    known = bool(labelled.any())
    named = bool(predictions.zero_shot.any())
    adapted = predictions.adapted.argmax(1)
    changed = adapted != predictions.zero_shot.argmax(1)
    return scores | {
        "scored": int(labelled.sum()),
        "why_null": None if known else NO_LABELS,
        "changed": float(changed.mean()) if named else None,
        "confusion": confusion(labels, adapted, len(classes)).tolist() if known else None,
        "calibration_error": expected_calibration_error(labels, predictions.adapted),
        "warnings": [] if unknown_classes(classes) else _warnings(scores),
    }


def score_baselines(
    data: FeatureStore, baselines: Mapping[str, Classifier], log: Log
) -> dict[str, Any]:
    """Score the baselines, by name; None without labels.

    Args:
        data: the model before training, and images, all readable, with the labels that score.
        baselines: classifiers by name.
        log: gets the progress of embedding.
    """
    scores = {}
    for name, baseline in baselines.items():
        probabilities = predict_adapted(data, baseline, log)
        scores[name] = all_scores(data.dataset.labels, probabilities, baseline.classes)
    return scores


def all_scores(
    labels: Int[np.ndarray, " N"], probabilities: Probabilities, classes: Classes
) -> dict[str, Any] | None:
    """All scores; with labelled and named classes also those of base and new classes."""
    scores = score(labels, probabilities.argmax(1), classes.names)
    if scores is None or not classes.labelled or not classes.named:
        return scores
    new = np.isin(np.arange(len(classes)), classes.named)
    return scores | base_to_new(labels, probabilities, new)


def _warnings(scores: dict[str, Any]) -> list[str]:
    """Warn if zero-shot is more accurate than the classifier."""
    before = scores["zero_shot"]
    after = scores["adapted"]
    if not before or not after or after["accuracy"] >= before["accuracy"]:
        return []
    return [
        f"adaptation lowers the accuracy ({after['accuracy']:.1%}, zero-shot "
        f"{before['accuracy']:.1%}): use zero-shot (`anyclass fit zero-shot`) or another method"
    ]
