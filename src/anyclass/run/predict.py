"""Predict all images of a run, by the classifier and by zero-shot."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.backbone import Part
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.precomputed import feature_rows
from anyclass.data import Classes
from anyclass.features.cache import cached_part
from anyclass.features.openai_templates import OPENAI_TEMPLATES
from anyclass.features.precomputed import AnyFeatures
from anyclass.features.store import FeatureStore
from anyclass.log import Log
from anyclass.run.predictions import AllPredictions, LogProbabilities

LOGITS = 2**24
"""Maximum number of logits that are computed at once."""


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
    familiarities = []
    kept = []
    done = 0
    for rows in in_blocks(feature_rows(classifier.representation, data, log), len(classes)):
        adapted[done : done + len(rows)] = classifier.log_probabilities(rows).cpu().numpy()
        familiarity = classifier.familiarity(rows)
        if familiarity is not None:
            familiarities.append(familiarity.cpu().numpy())
        if sample is not None:
            wanted = sample[(sample >= done) & (sample < done + len(rows))] - done
            kept.append(rows[torch.from_numpy(wanted)].cpu().numpy())
        done += len(rows)
    return AllPredictions(
        log_zero_shot=_zero_shot(data, part, classes, [template], log),
        log_zero_shot_ensemble=ensemble,
        log_adapted=adapted,
        familiarity=np.concatenate(familiarities) if familiarities else None,
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
