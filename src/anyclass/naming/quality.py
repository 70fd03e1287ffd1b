"""Quality of discovered classes in a run folder: how sure each one is, and what to do with it."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from anyclass.classifier.classifier import Classifier
from anyclass.data import Classes
from anyclass.estimators.class_quality import MIN_IMAGES, ClassQuality, class_quality
from anyclass.features.cache import cached_part
from anyclass.features.precomputed import AnyFeatures
from anyclass.features.store import FeatureStore
from anyclass.files import Json
from anyclass.log import Log
from anyclass.naming.verdicts import FEW, SAME, SEVERAL, SOUND, UNSURE, with_hint

TOO_FEW = f"fewer than {MIN_IMAGES} images: look at them, then merge or reject the class"
"""What to do with a class of so few images that nothing can be said of it."""


def judged(
    data: AnyFeatures, classifier: Classifier, predicted: Int[Tensor, " N"], log: Log
) -> list[ClassQuality | None]:
    """Judge each class; None for one of too few images.

    Features of the model before training judge, also where the model was trained.

    Args:
        data: the model before training, and the N training images.
        classifier: the classifier that discovered the classes.
        predicted: class of each of these images.
        log: gets the progress of embedding.
    """
    part = cached_part(classifier.representation.part)
    x = data.image_features(part, log).cpu()
    extra = None
    if isinstance(data, FeatureStore) or data.extra_width:
        extra = data.backbone_features(part, log).cpu()
    trained_on = np.isin(data.dataset.files, list(classifier.record.trained_on))
    labels = torch.from_numpy(np.where(trained_on, data.dataset.labels, -1))
    return class_quality(x, predicted, labels, len(classifier.classes), extra)


def quality_rows(qualities: Sequence[ClassQuality | None], classes: Classes) -> list[Json]:
    """Entry `quality` of the row of each class; None for a class that was given."""
    return [
        {"quality": _entry(q, classes) if classes.kind(k) == "unknown" else None}
        for k, q in enumerate(qualities)
    ]


def _entry(quality: ClassQuality | None, classes: Classes) -> Json:
    """What is known of a discovered class."""
    if quality is None:
        nothing: Json = dict.fromkeys(("agreement", "nearest", "separation"))
        return nothing | {"verdict": FEW, "hint": TOO_FEW}
    verdict = SOUND if quality.is_sound else UNSURE
    if quality.is_mixed:
        verdict = SEVERAL
    elif quality.may_be_nearest:
        verdict = SAME
    entry = {
        "agreement": round(quality.agreement, 3),
        "nearest": None if quality.nearest is None else classes.names[quality.nearest],
        "separation": None if quality.separation is None else round(quality.separation, 2),
        "verdict": verdict,
    }
    return with_hint(entry)
