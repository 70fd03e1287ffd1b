"""`train` embeds the images and fits a method, in memory."""

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from anyclass.auditing.copies import copies_in_words
from anyclass.backbone import Part
from anyclass.classifier.classifier import Classifier
from anyclass.commands.num_classes import estimate_unknown
from anyclass.commands.request import Request
from anyclass.commands.second_round import check_same_images, training_labels
from anyclass.data import ImageDataset, Rejection
from anyclass.data.classes import listed
from anyclass.distributed.processes import from_first, rank
from anyclass.errors import AnyclassError
from anyclass.features.cache import Embedding, cached_part
from anyclass.features.precomputed import AnyFeatures, PrecomputedFeatures
from anyclass.files import Json
from anyclass.methods import Method
from anyclass.run.progress import Progress


class Trained(NamedTuple):
    """A fitted classifier, and what its scores need."""

    classifier: Classifier
    """The fitted classifier."""
    all_images: ImageDataset
    """All images, including rejected ones."""
    data: AnyFeatures
    """The model before training and the other images, with all their labels."""
    training_data: AnyFeatures
    """The same images with only the labels that were trained on."""
    rejections: list[Rejection]
    """Rejected images, with reasons."""
    estimate: Json | None
    """Estimate of the number of classes without a name; None if it was given."""
    started: str
    """Start of the run, ISO 8601, UTC."""
    clock: "Clock"
    """Seconds of each stage so far."""


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
    data, rejections = embed_readable(data, part, request.max_rejected, log)
    clock("embed")
    if not isinstance(data, PrecomputedFeatures):
        log_copies(data.dataset, data.hashes(), log)
        check_same_images(request.from_run, data.dataset, data.hashes())
    scratch = _scratch_folder(data, scratch)
    training_data = data.of(training_labels(request, data.dataset))
    estimate = None
    if request.unknown == "auto":
        estimate = from_first(
            partial(estimate_unknown, training_data, part, request.seed, log, scratch)
        )
        log.say(estimate["why"])
        training_data = training_data.of(training_data.dataset.with_unknown(estimate["unknown"]))
        clock("count")
    fit_method: Callable[..., Classifier] = method.fit  # it takes features where there are any
    classifier = fit_method(training_data, log, scratch, request.seed)
    clock("fit")
    return Trained(
        classifier, all_images, data, training_data, rejections, estimate, started, clock
    )


def log_copies(dataset: ImageDataset, hashes: Sequence[str | None], log: Progress) -> None:
    """Log duplicates."""
    if words := copies_in_words(dataset, hashes):
        log.say(f"{words}; `anyclass plan --audit DIR` lists them")


def embed_readable(
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
        raise AnyclassError(_too_many(features.rejections, len(dataset), max_rejected))
    kept = dataset[features.ok].with_kinds()
    gone = [
        dataset.classes.names[c]
        for c in sorted({*dataset.classes.labelled} - {*kept.classes.labelled})
    ]
    if gone:
        log.say(f"only the name is known of {listed(gone)}: no image with that label is readable")
    return data.of(kept), features.rejections


def _too_many(rejections: Sequence[Rejection], total: int, max_rejected: float) -> str:
    """Message on images of which too many cannot be used."""
    lost = len(rejections)
    first = rejections[0]
    why = f"{first.reason}: {first.detail}" if first.detail else first.reason
    consequence = "so there is nothing to learn from"
    cure = "repair such files or leave them out"
    if lost < total:
        consequence = f"more than --max-rejected allows ({max_rejected:.0%})"
        cure = "repair such files, leave them out, or raise --max-rejected"
    return (
        f"{lost} of {total} images cannot be used, {consequence}.\n"
        f"The first is {first.file_name} ({why}): {cure}"
    )


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
