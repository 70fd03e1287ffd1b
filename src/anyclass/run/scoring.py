"""Scores of a classifier on labelled images, compared with zero-shot and baselines."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anyclass.backbone import Part
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.precomputed import feature_rows
from anyclass.data import Classes
from anyclass.estimators.metrics import (
    base_to_new,
    calibration_error,
    confusion,
    confusion_counts,
    score,
)
from anyclass.features.cache import cached_part
from anyclass.features.openai_templates import OPENAI_TEMPLATES
from anyclass.features.precomputed import AnyFeatures
from anyclass.features.store import FeatureStore
from anyclass.log import Log
from anyclass.run.columns import UNUSUAL

NO_LABELS = (
    "No image has a label, so the accuracy is unknown; label some images (--labels) or run "
    "`anyclass evaluate` on a labelled folder."
)
"""Explanation of scores that are null."""

LOGITS = 2**24
"""Maximum number of logits that are computed at once."""

MATRIX = 500
"""Maximum number of classes whose confusion matrix is stored with its zeros."""

Probabilities = Float[np.ndarray, "N C"]
"""Probabilities of N images."""

LogProbabilities = Float[np.ndarray, "N C"]
"""Log-probabilities of N images."""

CLASSIFIERS = ("zero_shot", "zero_shot_ensemble", "adapted")
"""Classifiers of `AllPredictions`, which are scored."""


class AllPredictions(NamedTuple):
    """Predictions of the same N images by several classifiers.

    Log-probabilities are stored: where one class leads by far, the probabilities of all others are
    0 and the best of them could not be told.
    """

    log_zero_shot: LogProbabilities
    """Zero-shot with the template of the classifier; -inf for a class without a name."""
    log_zero_shot_ensemble: LogProbabilities | None
    """Zero-shot with OpenAI's 80 templates; None if not requested."""
    log_adapted: LogProbabilities
    """The classifier."""
    familiarity: Float[np.ndarray, " N"] | None = None
    """Share of the training images that are at least as unusual; None if not known."""
    sample: Float[np.ndarray, "M E"] | None = None
    """Features of the images that `predict_all` was asked for; None if it was not."""

    def probabilities(self) -> Probabilities:
        """Compute the probabilities by the classifier: a new array of N x C."""
        found: Probabilities = np.exp(self.log_adapted)
        return found

    def confidence(self) -> Float[np.ndarray, " N"]:
        """Compute the score of each image that `--min-score` is compared with."""
        return confidence(np.exp(self.log_adapted.max(1)), self.familiarity)

    def of(self, rows: Bool[np.ndarray, " N"]) -> "AllPredictions":
        """Select the rows of some images."""
        ensemble = self.log_zero_shot_ensemble
        if ensemble is not None:
            ensemble = ensemble[rows]
        usual = self.familiarity
        if usual is not None:
            usual = usual[rows]
        return AllPredictions(self.log_zero_shot[rows], ensemble, self.log_adapted[rows], usual)


def log_of(probabilities: Probabilities) -> LogProbabilities:
    """Logarithms; -inf of 0."""
    with np.errstate(divide="ignore"):
        logs: LogProbabilities = np.log(probabilities)
    return logs


def confidence(
    probability: Float[np.ndarray, " N"], familiarity: Float[np.ndarray, " N"] | None
) -> Float[np.ndarray, " N"]:
    """Probability times min(1, familiarity / UNUSUAL); the probability if that is not known."""
    if familiarity is None:
        return probability
    return probability * np.minimum(1.0, familiarity / UNUSUAL)


@torch.no_grad()
def predict_all(
    data: AnyFeatures,
    classifier: Classifier,
    log: Log,
    prompt_ensemble: bool = True,
    sample: Int[np.ndarray, " M"] | None = None,
) -> AllPredictions:
    """Predict images with the model before training and with the classifier.

    Args:
        data: the model before training, and images, all readable.
        classifier: the model after training.
        log: gets the progress of embedding.
        prompt_ensemble: also predict zero-shot with the 80 prompt templates.
        sample: images, in order, whose features are kept.
    """
    part = cached_part(classifier.representation.part)
    classes = classifier.classes
    template = classifier.template
    ensemble = None
    if prompt_ensemble and isinstance(data, FeatureStore):  # precomputed texts have one template
        ensemble = _zero_shot(data, part, classes, OPENAI_TEMPLATES, log)
    adapted = np.empty((len(data), len(classes)), np.float32)
    usual = []
    kept = []
    done = 0
    for rows in in_blocks(feature_rows(classifier.representation, data, log), len(classes)):
        adapted[done : done + len(rows)] = classifier.log_probabilities(rows).cpu().numpy()
        familiarity = classifier.familiarity(rows)
        if familiarity is not None:
            usual.append(familiarity.cpu().numpy())
        if sample is not None:
            wanted = sample[(sample >= done) & (sample < done + len(rows))] - done
            kept.append(rows[torch.from_numpy(wanted)].cpu().numpy())
        done += len(rows)
    return AllPredictions(
        log_zero_shot=_zero_shot(data, part, classes, [template], log),
        log_zero_shot_ensemble=ensemble,
        log_adapted=adapted,
        familiarity=np.concatenate(usual) if usual else None,
        sample=np.concatenate(kept) if kept else None,
    )


@torch.no_grad()
def predict_adapted(data: AnyFeatures, classifier: Classifier, log: Log) -> LogProbabilities:
    """Predict images with a classifier alone; arguments as of `predict_all`."""
    classes = len(classifier.classes)
    found = np.empty((len(data), classes), np.float32)
    done = 0
    for rows in in_blocks(feature_rows(classifier.representation, data, log), classes):
        found[done : done + len(rows)] = classifier.log_probabilities(rows).cpu().numpy()
        done += len(rows)
    return found


def in_blocks(some: Iterable[Float[Tensor, "n E"]], classes: int) -> Iterator[Float[Tensor, "n E"]]:
    """Smaller blocks of rows where there are many classes, of `LOGITS` logits at most."""
    for rows in some:
        yield from rows.split(max(1, LOGITS // classes))


def _zero_shot(
    data: AnyFeatures, part: Part, classes: Classes, templates: Sequence[str], log: Log
) -> LogProbabilities:
    """Zero-shot log-probabilities; -inf for a class without a name."""
    found = np.full((len(data), len(classes)), -np.inf, np.float32)
    named, texts = data.named_class_features(classes, templates, log)
    if not len(named):
        return found
    head = CosineHead(texts, data.logit_scale)
    done = 0
    for x in in_blocks(data.feature_blocks(part, log), len(classes)):
        rows = head.logits(x).log_softmax(dim=1).cpu().numpy()
        found[done : done + len(x), named] = rows
        done += len(x)
    return found


def unknown_classes(classes: Classes) -> list[int]:
    """Indices of the discovered classes, which have no name and no class prompt."""
    return [c for c, kind in enumerate(classes.kinds) if kind == "unknown"]


def compare(
    labels: Int[np.ndarray, " N"],
    predictions: AllPredictions,
    classes: Classes,
    taught: Bool[np.ndarray, " N"] | None = None,
) -> dict[str, Any]:
    """Score all predictions; warn if adaptation lost accuracy. Scores are None without labels.

    Args:
        labels: true classes, -1 where there is none to score on.
        predictions: predictions of the same images.
        classes: the classes.
        taught: whether the label of each image was trained on; None: no label was. Such an image
            keeps its label, so it does not count among those that `changed`.
    """
    scores: dict[str, Any] = {}
    for key in CLASSIFIERS:
        found = getattr(predictions, f"log_{key}")
        scores[key] = None if found is None else all_scores(labels, found, classes)
    labelled = labels >= 0
    known = bool(labelled.any())
    named = bool(np.isfinite(predictions.log_zero_shot).any())
    adapted = predictions.log_adapted.argmax(1)
    changed = adapted != predictions.log_zero_shot.argmax(1)
    if taught is not None:
        changed = changed[~taught]
    return scores | {
        "scored": int(labelled.sum()),
        "why_null": None if known else NO_LABELS,
        "majority": majority(labels, classes.names),
        "changed": float(changed.mean()) if named and len(changed) else None,
        **stored_confusion(labels, adapted, len(classes)),
        "calibration_error": calibration_error(
            labels, adapted, np.exp(predictions.log_adapted.max(1))
        ),
        "warnings": [] if unknown_classes(classes) else _warnings(scores),
    }


def stored_confusion(
    labels: Int[np.ndarray, " N"], predicted: Int[np.ndarray, " N"], classes: int
) -> dict[str, Any]:
    """Confusion matrix for `metrics.json`; None without labels.

    With more than `MATRIX` classes it is None, and `confusion_counts` has its entries but the
    zeros, so that its size is that of the images, not the square of the classes.
    """
    if not (labels >= 0).any():
        return {"confusion": None}
    if classes <= MATRIX:
        return {"confusion": confusion(labels, predicted, classes).tolist()}
    true, guess, counts = confusion_counts(labels, predicted, classes)
    found = {"true": true.tolist(), "predicted": guess.tolist(), "count": counts.tolist()}
    return {"confusion": None, "confusion_counts": found}


def majority(labels: Int[np.ndarray, " N"], names: Sequence[str]) -> dict[str, Any] | None:
    """Score of the answer that is always the most frequent label; None without labels."""
    known = labels[labels >= 0]
    if not len(known):
        return None
    most = int(np.bincount(known).argmax())
    name = names[most] if most < len(names) else None
    scores = score(labels, np.full_like(labels, most), names) or {}
    return {"name": name} | {key: scores[key] for key in ("accuracy", "mean_per_class", "n")}


def score_baselines(
    data: AnyFeatures, baselines: Mapping[str, Classifier], log: Log
) -> dict[str, Any]:
    """Score the baselines, by name; None without labels.

    Args:
        data: the model before training, and images, all readable, with the labels that score.
        baselines: classifiers by name.
        log: gets the progress of embedding.
    """
    scores = {}
    for name, baseline in baselines.items():
        found = predict_adapted(data, baseline, log)
        scores[name] = all_scores(data.dataset.labels, found, baseline.classes)
    return scores


def all_scores(
    labels: Int[np.ndarray, " N"], found: LogProbabilities | Probabilities, classes: Classes
) -> dict[str, Any] | None:
    """All scores; with labels of labelled and of named classes also those of base and new ones.

    Args:
        labels: true classes.
        found: log-probabilities, or probabilities where only those are stored.
        classes: the classes.
    """
    scores = score(labels, found.argmax(1), classes.names)
    halves = (classes.labelled, classes.named)
    if scores is None or not all(np.isin(labels, half).any() for half in halves):
        return scores
    new = np.isin(np.arange(len(classes)), classes.named)
    return scores | base_to_new(labels, found, new)


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
