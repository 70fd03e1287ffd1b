"""`learn`: fit a method in memory and collect everything that a run folder stores."""

import json
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from anyclass.backbone import Backbone, Part
from anyclass.classifier.classifier import Classifier
from anyclass.commands.baselines import fit_baselines
from anyclass.commands.num_classes import estimate_unknown
from anyclass.commands.request import Request
from anyclass.data import ImageDataset, Rejection
from anyclass.data.splits import hold_out
from anyclass.errors import AnyclassError
from anyclass.features.cache import Embedding, cached_part
from anyclass.features.store import FeatureStore
from anyclass.methods import Method
from anyclass.naming.class_names import name_classes
from anyclass.run.clustering_scores import discovery_summary
from anyclass.run.progress import Progress
from anyclass.run.scoring import Predictions, compare, predict_all, score_baselines

Json = dict[str, Any]


@dataclass(frozen=True)
class Learned:
    """Result of a fit with its scores; `write_run` stores it in a run folder."""

    clip: Backbone
    """The model before training."""
    classifier: Classifier
    """The fitted classifier."""
    baselines: dict[str, Classifier]
    """Baselines that the result is compared with, by name."""
    dataset: ImageDataset
    """All images, including rejected ones, with the classes of the classifier."""
    rejections: list[Rejection]
    """Rejected images, with reasons."""
    predictions: Predictions
    """Probabilities of the other images, in order."""
    metrics: Json
    """The content of `metrics.json`."""
    naming: Json | None
    """Suggested names of discovered classes; None if none was discovered."""
    started: str
    """Start of the run, ISO 8601, UTC."""

    @property
    def seconds(self) -> float:
        """Duration of the run."""
        return float(self.metrics["seconds"]["total"])


def learn(
    request: Request, method: Method, data: FeatureStore, scratch: Path, log: Progress
) -> Learned:
    """Embed, fit, predict and score.

    Args:
        request: the request of the user.
        method: the method with its hyper-parameters.
        data: the model and all images.
        scratch: folder for the state that an interrupted run continues from.
        log: gets the progress.

    Raises:
        RequestError: the request cannot be fulfilled.
        AnyclassError: too many images are unreadable, or training failed.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    clock = Clock()
    all_images = data.dataset
    part = cached_part(method.workload(len(data), len(all_images.classes)).trains)
    data, rejections = readable(data, part, request.max_rejected, log)
    clock("embed")
    scratch = _scratch_folder(data, scratch)
    given = data.of(hold_out(data.dataset, request.holdout, request.seed))
    estimate = None
    if request.unknown == "auto":
        estimate = estimate_unknown(given, part, request.seed, log, scratch)
        log.say(estimate["why"])
        given = given.with_unknown(estimate["unknown"])
        clock("count")
    classifier = method.fit(given, log, scratch, request.seed)
    clock("fit")
    data = data.of(replace(data.dataset, classes=classifier.classes))
    predictions = predict_all(data, classifier, log, request.prompt_ensemble)
    scored, caveats = _scored_labels(data.dataset, classifier.record.trained_on)
    baselines = dict(classifier.record.baselines)
    baselines |= fit_baselines(given, classifier.classes, log, request.seed)
    metrics = compare(scored.labels, predictions, classifier.classes) | {
        "n": len(all_images),
        "rejected": len(rejections),
        "facts": dict(classifier.record.facts),
        "controls": score_baselines(data.of(scored), baselines, log),
        "classes_estimated": estimate,
    }
    predicted = predictions.adapted.argmax(1)
    metrics |= discovery_summary(predicted, classifier.classes, metrics, held_out=not caveats)
    metrics["warnings"] = [*log.warnings, *caveats, *metrics["warnings"]]
    naming = name_classes(given, classifier, predictions.adapted, request.names, log)
    if naming:
        metrics["naming"] = {key: value for key, value in naming.items() if key != "classes"}
        clock("name")
    metrics["seconds"] = clock.seconds | {"total": clock.total}
    return Learned(
        clip=data.clip,
        classifier=classifier,
        baselines=baselines,
        dataset=replace(all_images, classes=classifier.classes),
        rejections=rejections,
        predictions=predictions,
        metrics=metrics,
        naming=naming,
        started=started,
    )


def readable(
    data: FeatureStore, part: Part, max_rejected: float, log: Progress
) -> tuple[FeatureStore, list[Rejection]]:
    """Embed all images; return the usable ones and the rejections.

    Args:
        data: the model and the images.
        part: part of the model whose trunk outputs are cached.
        max_rejected: largest share of images that may be unusable.
        log: gets the progress and the first rejections.

    Raises:
        AnyclassError: more than `max_rejected` of the images are unusable, or all are.
    """
    dataset = data.dataset
    features = data.embed(Embedding(part), log)
    lost = len(features.rejections)
    for row in features.rejections[:3]:
        log.say(f"rejected {row.file_name}: {row.reason}. {row.detail}")
    if lost == len(dataset) or lost > max_rejected * len(dataset):
        first = features.rejections[0]
        limit = f"more than --max-rejected allows ({max_rejected:.0%})"
        raise AnyclassError(
            f"{lost} of {len(dataset)} images cannot be used, "
            f"{limit if lost < len(dataset) else 'so there is nothing to learn from'}.\n"
            f"The first is {first.file_name} ({first.reason}): repair or remove such files"
        )
    return data.of(dataset[features.ok]), features.rejections


class Clock:
    """Stopwatch: seconds of each stage, by name."""

    def __init__(self) -> None:
        """Start."""
        self.seconds: dict[str, float] = {}
        self._start = time.monotonic()
        self._last = self._start

    def __call__(self, name: str) -> None:
        """Record the seconds of a stage that ends now."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 2)
        self._last = now

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return round(time.monotonic() - self._start, 2)


def _scratch_folder(data: FeatureStore, scratch: Path) -> Path:
    """Folder for the state of an unfinished run with the same model and images."""
    key = json.dumps([data.clip.weights_sha256, data.dataset.files, data.hashes()])
    folder = scratch / sha256(key.encode()).hexdigest()[:24]
    folder.mkdir(exist_ok=True)
    return folder


def _scored_labels(
    dataset: ImageDataset, trained_on: Collection[str]
) -> tuple[ImageDataset, list[str]]:
    """Hide the labels that were trained on, if there are others; return warnings as well."""
    trained = np.isin(dataset.files, list(trained_on))
    labelled = dataset.labels >= 0
    if not (trained & labelled).any():
        return dataset, []
    if (labelled & ~trained).any():
        return replace(dataset, labels=np.where(trained, -1, dataset.labels)), []
    return dataset, [
        "every label was trained on, so these scores are training scores; for an unbiased score "
        "run `anyclass evaluate` on other images, or hold out some labels (--holdout 0.1)"
    ]
