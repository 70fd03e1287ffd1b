"""`predict`: predict images or features in memory, in batches."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from anyclass.api.predictions import Predictions
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.precomputed import Precomputed
from anyclass.commands.precomputed import check_images, for_features
from anyclass.data.feature_tables import read_features
from anyclass.data.inputs import ImageSource, image_source
from anyclass.data.label_inputs import read_images
from anyclass.errors import RequestError
from anyclass.files import Json
from anyclass.report.thumbnails import Thumbnail, no_image, thumbnails_of
from anyclass.run.columns import PREDICTION
from anyclass.run.progress import Progress
from anyclass.run.tables import prediction_row, ranked, rejected_row

QUIET = 64
"""Maximum number of images that are predicted without a sign of progress."""


def predict(
    classifier: Classifier,
    images: Any = None,
    features: Any = None,
    extra: Any = None,
    min_score: float = 0.0,
    image_column: str | None = None,
) -> Predictions:
    """Predict images or features; arguments and errors as of `Run.predict`."""
    with Progress() as log:
        batches = _batches(classifier, images, features, extra, image_column, log)
        classes = classifier.classes
        count = len(batches.names)
        probabilities = np.full((count, len(classes)), np.nan, np.float32)
        rows: list[Json] = [{}] * count
        positions: dict[str, list[int]] = {}
        for i, name in enumerate(batches.names):
            positions.setdefault(name, []).append(i)
        done = 0
        for part in batches.parts:
            for rejection in part.rejections:
                for i in positions[rejection.file_name]:  # a file may be given twice
                    rows[i] = rejected_row(rejection)
            familiarities = part.familiarity
            for k, i in enumerate(part.rows):
                probabilities[i] = part.probabilities[k].numpy()
                familiarity = None if familiarities is None else float(familiarities[k])
                name = batches.names[i]
                rows[i] = prediction_row(name, probabilities[i], classes, min_score, familiarity)
            done += len(part.rows) + len(part.rejections)
            if count > QUIET:
                log(stage="predict", done=done, total=count)
    rows = list(ranked(rows))
    table = pa.Table.from_pylist(rows, schema=PREDICTION)
    names = list(classes.names)
    return Predictions(table, names, probabilities, batches.thumbnail_of, batches.index)


class _Batches(NamedTuple):
    """Predictions under way."""

    names: tuple[str, ...]
    parts: Any
    thumbnail_of: Thumbnail
    index: Any


def _batches(
    classifier: Classifier,
    images: Any,
    features: Any,
    extra: Any,
    column: str | None,
    log: Progress,
) -> _Batches:
    """Start to predict images, or features."""
    of_features = isinstance(classifier.representation, Precomputed)
    if features is None and of_features and not isinstance(images, str | Path | ImageSource):
        features = images  # an array for a classifier of features
    if features is not None:
        table = read_features(features, extra)
        parts = for_features(classifier).stream_features(table)
        return _Batches(table.names, parts, no_image, None)
    if images is None:
        raise RequestError("give images, or features=")
    check_images(classifier)
    source = image_source(images, column)
    dataset = read_images(source)
    for sentence in dataset.skipped:
        log.say(sentence)
    thumbnail_of = thumbnails_of(str(dataset.root), dataset.memory)
    index = None if isinstance(source, Path) else source.index
    return _Batches(dataset.files, classifier.stream(dataset), thumbnail_of, index)
