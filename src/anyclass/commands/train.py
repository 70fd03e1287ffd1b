"""`train` fits a method in memory; `score` collects everything that a run folder stores."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from anyclass.auditing.copies import copies_in_words
from anyclass.auditing.labels import text_findings
from anyclass.backbone import Part
from anyclass.classifier.classifier import Classifier
from anyclass.commands.baselines import fit_baselines
from anyclass.commands.num_classes import estimate_unknown
from anyclass.commands.request import Request
from anyclass.commands.second_round import training_labels
from anyclass.data import ImageDataset, Rejection
from anyclass.data.classes import listed
from anyclass.distributed.processes import from_first, rank
from anyclass.errors import AnyclassError
from anyclass.features.cache import Embedding, cached_part
from anyclass.features.precomputed import AnyFeatures, PrecomputedFeatures
from anyclass.features.text import PLAIN
from anyclass.methods import Method
from anyclass.naming.class_names import name_classes
from anyclass.run.clustering_scores import discovery_summary
from anyclass.run.earlier import compare_rounds
from anyclass.run.embedding_map import EmbeddingMap, map_of, sample_rows
from anyclass.run.label_scores import UNSEEN, fair_labels
from anyclass.run.opinions import Opinions, opinions_of
from anyclass.run.progress import Progress
from anyclass.run.scoring import (
    Predictions,
    compare,
    predict_all,
    score_baselines,
    unknown_classes,
)
from anyclass.run.triage import triage

Json = dict[str, Any]


class Trained(NamedTuple):
    """A fitted classifier, and what its scores need."""

    classifier: Classifier
    """The fitted classifier."""
    all_images: ImageDataset
    """All images, including rejected ones."""
    data: AnyFeatures
    """The model before training and the other images, with all their labels."""
    taught: AnyFeatures
    """The same with the labels that were trained on."""
    rejections: list[Rejection]
    """Rejected images, with reasons."""
    estimate: Json | None
    """Estimate of the number of classes without a name; None if it was given."""
    started: str
    """Start of the run, ISO 8601, UTC."""
    clock: "Clock"
    """Seconds of each stage so far."""


@dataclass(frozen=True)
class Learned:
    """Result of a fit with its scores; `write_run` stores it in a run folder."""

    model: Json
    """The model before training: its name and checksum."""
    device: str
    """Device that it was on."""
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
    taught: Bool[np.ndarray, " M"]
    """Whether the label of each of these images was trained on."""
    opinions: Opinions | None
    """What the other images say of these labels; None if the method does not tell."""
    metrics: Json
    """The content of `metrics.json`."""
    naming: Json | None
    """Suggested names of discovered classes; None if none was discovered."""
    map: EmbeddingMap | None
    """Positions of some images in the plane; None for very few images."""
    started: str
    """Start of the run, ISO 8601, UTC."""
    hashes: list[str | None] | None = None
    """SHA-256 of each readable image; None for precomputed features."""

    @property
    def readable(self) -> ImageDataset:
        """All images but the rejected ones."""
        rejected = [rejection.file_name for rejection in self.rejections]
        return self.dataset[~np.isin(self.dataset.files, rejected)]

    @property
    def seconds(self) -> float:
        """Duration of the run."""
        return float(self.metrics["seconds"]["total"])


def train(
    request: Request, method: Method, data: AnyFeatures, scratch: Path, log: Progress
) -> Trained:
    """Embed and fit; several processes do so together.

    Args:
        request: the request of the user.
        method: the method with its hyper-parameters.
        data: the model and all images, or precomputed features.
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
    if not isinstance(data, PrecomputedFeatures):
        log_copies(data.dataset, data.hashes(), log)
    scratch = _scratch_folder(data, scratch)
    taught = data.of(training_labels(request, data.dataset))
    estimate = None
    if request.unknown == "auto":
        estimate = from_first(partial(estimate_unknown, taught, part, request.seed, log, scratch))
        log.say(estimate["why"])
        taught = taught.with_unknown(estimate["unknown"])
        clock("count")
    fit_method: Callable[..., Classifier] = method.fit  # it takes features where there are any
    classifier = fit_method(taught, log, scratch, request.seed)
    clock("fit")
    return Trained(classifier, all_images, data, taught, rejections, estimate, started, clock)


def score(request: Request, trained: Trained, log: Progress) -> Learned:
    """Predict all images and score the predictions.

    Args:
        request: the request of the user.
        trained: the result of `train`.
        log: gets the progress.
    """
    classifier = trained.classifier
    all_images = trained.all_images
    rejections = trained.rejections
    given = trained.taught
    clock = trained.clock
    log_texts(given, log)
    data = trained.data.of(replace(trained.data.dataset, classes=classifier.classes))
    scored = bool((data.dataset.labels >= 0).any())
    sample = sample_rows(len(data), request.seed)
    predictions = predict_all(data, classifier, log, request.prompt_ensemble and scored, sample)
    opinions = opinions_of(classifier.record)
    taught = np.isin(data.dataset.files, list(classifier.record.trained_on))
    taught &= given.dataset.labels >= 0
    fair = fair_labels(data.dataset, taught, predictions, opinions)
    baselines = dict(classifier.record.baselines)
    baselines |= fit_baselines(given, classifier.classes, log, request.seed)
    metrics = compare(fair.dataset.labels, fair.predictions, classifier.classes, taught) | {
        "n": len(all_images),
        "rejected": len(rejections),
        "facts": dict(classifier.record.facts),
        "controls": score_baselines(data.of(fair.dataset), baselines, log),
        "classes_estimated": trained.estimate,
        "scored_on": fair.kind,
        "contributions": dict(classifier.record.contributions),
        "suspicious": None if opinions is None else len(opinions.suspicious),
    }
    if unknown_classes(classifier.classes):
        metrics |= triage(classifier.record, predictions, taught, metrics)
    probabilities = predictions.probabilities()
    predicted = predictions.log_adapted.argmax(1)
    held_out = fair.kind in (None, UNSEEN)
    metrics |= discovery_summary(predicted, classifier.classes, metrics, held_out)
    metrics["warnings"] = [*log.warnings, *fair.caveats, *metrics["warnings"]]
    earlier = request.earlier()
    if earlier is not None:
        metrics["second_round"] = compare_rounds(
            earlier, data.dataset, taught, probabilities, opinions
        )
    naming = name_classes(given, classifier, probabilities, request.names, log)
    if naming:
        metrics["naming"] = {key: value for key, value in naming.items() if key != "classes"}
        clock("name")
    found = map_of([data.dataset.files[i] for i in sample], predictions.sample, request.seed)
    clock("map")
    metrics["seconds"] = clock.seconds | {"total": clock.total}
    return Learned(
        model=data.about(),
        device=str(data.device),
        classifier=classifier,
        baselines=baselines,
        dataset=replace(all_images, classes=classifier.classes),
        rejections=rejections,
        predictions=predictions,
        taught=taught,
        opinions=opinions,
        metrics=metrics,
        naming=naming,
        map=found,
        started=trained.started,
        hashes=None if isinstance(data, PrecomputedFeatures) else data.hashes(),
    )


def log_copies(dataset: ImageDataset, hashes: Sequence[str | None], log: Progress) -> None:
    """Say in a line that some images have the same content, if they do."""
    if words := copies_in_words(dataset, hashes):
        log.say(f"{words}; `anyclass plan --audit DIR` lists them")


def log_texts(data: AnyFeatures, log: Progress) -> None:
    """Say of class names that the text encoder cuts off, or cannot tell apart, if there are any."""
    if isinstance(data, PrecomputedFeatures) or not len(data.dataset.classes):
        return
    for finding in text_findings(data.clip, data.dataset, data.class_features([PLAIN], log)):
        log.say(f"{finding.summary}: {finding.first}; {finding.advice}")


def readable(
    data: AnyFeatures, part: Part, max_rejected: float, log: Progress
) -> tuple[AnyFeatures, list[Rejection]]:
    """Embed all images; return the usable ones and the rejections.

    Precomputed features are all usable.

    Args:
        data: the model and the images.
        part: part of the model whose trunk outputs are cached.
        max_rejected: largest share of images that may be unusable.
        log: gets the progress and the first rejections.

    Raises:
        AnyclassError: more than `max_rejected` of the images are unusable, or all are.
    """
    if isinstance(data, PrecomputedFeatures):
        return data, []
    dataset = data.dataset
    features = data.embed(Embedding(part), log)
    lost = len(features.rejections)
    for row in features.rejections[:3]:
        log.say(f"rejected {row.file_name}: {row.reason}. {row.detail}")
    refused = lost == len(dataset) or lost > max_rejected * len(dataset)
    if lost > 3:
        place = "`anyclass plan --audit DIR`" if refused else "fit"
        table = "audit.csv" if refused else "rejected.csv"
        log.say(f"rejected: and {lost - 3} more; {place} lists all in {table}")
    if refused:
        first = features.rejections[0]
        limit = f"more than --max-rejected allows ({max_rejected:.0%})"
        cure = "repair such files or leave them out"
        if lost < len(dataset):
            cure = "repair such files, leave them out, or raise --max-rejected"
        why = f"{first.reason}: {first.detail}" if first.detail else first.reason
        raise AnyclassError(
            f"{lost} of {len(dataset)} images cannot be used, "
            f"{limit if lost < len(dataset) else 'so there is nothing to learn from'}.\n"
            f"The first is {first.file_name} ({why}): {cure}"
        )
    kept = dataset[features.ok].with_kinds()
    gone = [
        dataset.classes.names[c]
        for c in sorted({*dataset.classes.labelled} - {*kept.classes.labelled})
    ]
    if gone:
        log.say(f"only the name is known of {listed(gone)}: no image with that label is readable")
    return data.of(kept), features.rejections


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


def _scratch_folder(data: AnyFeatures, scratch: Path) -> Path:
    """Folder for the state of an unfinished run with the same model and images."""
    key = json.dumps(data.key())
    folder = scratch / sha256(key.encode()).hexdigest()[:24]
    if not rank():
        folder.mkdir(exist_ok=True)
    return folder
