"""`score` collects everything that a run folder stores of a fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int

from anyclass.auditing.labels import text_findings
from anyclass.classifier.classifier import Classifier
from anyclass.commands.baselines import fit_baselines, fit_probe, score_baselines
from anyclass.commands.calibrate import calibrated
from anyclass.commands.request import Request
from anyclass.commands.train import Trained
from anyclass.data import ImageDataset, Rejection
from anyclass.estimators.class_quality import ClassQuality
from anyclass.features.precomputed import AnyFeatures, PrecomputedFeatures
from anyclass.features.text import PLAIN
from anyclass.files import Json
from anyclass.naming.class_names import name_classes
from anyclass.naming.quality import judged
from anyclass.run.baselines import LINEAR_PROBE
from anyclass.run.clustering_scores import discovery_summary
from anyclass.run.columns import UNSEEN
from anyclass.run.earlier import compare_rounds
from anyclass.run.embedding_map import EmbeddingMap, map_of, sample_rows
from anyclass.run.expected_accuracy import expected_accuracy
from anyclass.run.label_scores import fair_labels
from anyclass.run.opinions import Opinions, opinions_of
from anyclass.run.predict import predict_all
from anyclass.run.predictions import AllPredictions
from anyclass.run.progress import Progress
from anyclass.run.scoring import compare


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
    predictions: AllPredictions
    """Probabilities of the other images, in order."""
    trained_on: Bool[np.ndarray, " M"]
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


def score(request: Request, trained: Trained, log: Progress) -> Learned:
    """Predict all images and score the predictions.

    Args:
        request: the request of the user.
        trained: the result of `train`.
        log: gets the progress.
    """
    training_data = trained.training_data
    clock = trained.clock
    log_texts(training_data, log)
    data = trained.data.of(replace(trained.data.dataset, classes=trained.classifier.classes))
    predicted = _predict(request, trained, data, log)
    classifier = predicted.classifier
    baselines = dict(classifier.record.baselines)
    baselines |= fit_baselines(training_data, classifier.classes, log, request.seed)
    baselines |= fit_probe(
        training_data, predicted.trained_on, classifier.classes, log, request.seed
    )
    metrics = _metrics(request, trained, data, predicted, baselines, log)
    naming = None
    if predicted.qualities:
        p = predicted.predictions.probabilities()
        naming = name_classes(training_data, classifier, p, predicted.qualities, request.names, log)
        metrics["naming"] = {key: value for key, value in naming.items() if key != "classes"}
        clock("name")
    files = [data.dataset.files[i] for i in predicted.sample]
    places = map_of(files, predicted.predictions.sample, request.seed)
    clock("map")
    metrics["seconds"] = clock.seconds | {"total": clock.total}
    return Learned(
        model=data.about(),
        device=str(data.device),
        classifier=classifier,
        baselines=baselines,
        dataset=replace(trained.all_images, classes=classifier.classes),
        rejections=trained.rejections,
        predictions=predicted.predictions,
        trained_on=predicted.trained_on,
        opinions=predicted.opinions,
        metrics=metrics,
        naming=naming,
        map=places,
        started=trained.started,
        hashes=None if isinstance(data, PrecomputedFeatures) else data.hashes(),
    )


class _Predicted(NamedTuple):
    """Predictions of the M readable images; see `Learned`."""

    classifier: Classifier
    """The classifier with calibrated scores."""
    predictions: AllPredictions
    trained_on: Bool[np.ndarray, " M"]
    opinions: Opinions | None
    sample: Int[np.ndarray, " S"]
    """Rows of the map of the embeddings."""
    qualities: Sequence[ClassQuality | None]
    """How far each class can be trusted; empty if none was discovered."""


def _predict(request: Request, trained: Trained, data: AnyFeatures, log: Progress) -> _Predicted:
    """Predict all readable images."""
    classifier = trained.classifier
    scored = bool((data.dataset.labels >= 0).any())
    sample = sample_rows(len(data), request.seed)
    ensemble = request.prompt_ensemble and scored
    predictions = predict_all(data, classifier, log, ensemble, sample)
    trained_on = np.isin(data.dataset.files, list(classifier.record.trained_on))
    trained_on &= trained.training_data.dataset.labels >= 0
    qualities: Sequence[ClassQuality | None] = []
    if classifier.classes.discovered_names:
        predicted = torch.from_numpy(predictions.log_adapted.argmax(1))
        qualities = judged(trained.training_data, classifier, predicted, log)
        classifier, predictions = calibrated(classifier, predictions, qualities, trained_on)
    opinions = opinions_of(classifier.record)
    return _Predicted(classifier, predictions, trained_on, opinions, sample, qualities)


def _metrics(
    request: Request,
    trained: Trained,
    data: AnyFeatures,
    predicted: _Predicted,
    baselines: Mapping[str, Classifier],
    log: Progress,
) -> Json:
    """The content of `metrics.json`, without the names of classes and the seconds."""
    classifier, predictions, trained_on, opinions, _, _ = predicted
    record = classifier.record
    fair = fair_labels(data.dataset, trained_on, predictions, opinions)
    if fair.kind != UNSEEN:  # the probe was fitted on these labels
        baselines = {name: fitted for name, fitted in baselines.items() if name != LINEAR_PROBE}
    metrics = compare(fair.dataset.labels, fair.predictions, classifier.classes, trained_on) | {
        "n": len(trained.all_images),
        "rejected": len(trained.rejections),
        "facts": dict(record.metrics),
        "controls": score_baselines(data.of(fair.dataset), baselines, log),
        "classes_estimated": trained.estimate,
        "scored_on": fair.kind,
        "contributions": dict(record.contributions),
        "suspicious": None if opinions is None else len(opinions.suspicious),
    }
    if classifier.classes.discovered_names:
        metrics |= expected_accuracy(record, predictions, trained_on, metrics)
    labels = predictions.log_adapted.argmax(1)
    held_out = fair.kind in (None, UNSEEN)
    metrics |= discovery_summary(labels, classifier.classes, metrics, held_out)
    metrics["warnings"] = [*log.warnings, *fair.caveats, *metrics["warnings"]]
    earlier = request.earlier
    if earlier is not None:
        metrics["second_round"] = compare_rounds(
            earlier, data.dataset, trained_on, predictions.probabilities(), opinions
        )
    return metrics


def log_texts(data: AnyFeatures, log: Progress) -> None:
    """Log class names that the text encoder truncates or cannot distinguish."""
    if isinstance(data, PrecomputedFeatures) or not len(data.dataset.classes):
        return
    for finding in text_findings(data.clip, data.dataset, data.class_features([PLAIN], log)):
        log.say(f"{finding.summary}: {finding.first}; {finding.advice}")
