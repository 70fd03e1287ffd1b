"""Arrays for cleanlab: predicted probabilities and labels, classes in the same order.

    pred_probs.npy   (N, C) float32, probability of each class
    features.npy     (N, D) float32, unit features of the model: for cleanlab's Datalab
    labels.npy       (N,) int64, the given label of each image
    trained_on.npy   (N,) bool, whether the classifier was trained on this label
    images.csv       file_name and label of each row
    classes.txt      one name per line, in the order of the columns

cleanlab wants probabilities by a model that has not seen the label. Where `trained_on` is true it
has: hold labels out (`--holdout`), or give other labelled images.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int64

from anyclass.classifier.classifier import Classifier
from anyclass.classifier.representation import unit_features
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.files import atomic_write, write_text
from anyclass.log import Log
from anyclass.run.tables import write_table

_COLUMNS = pa.schema([("file_name", pa.string()), ("label", pa.string())])


def write_cleanlab(
    folder: Path,
    classifier: Classifier,
    dataset: ImageDataset,
    trained_on: frozenset[str],
    log: Log,
) -> dict[str, Any]:
    """Predict the labelled images and write the arrays.

    Args:
        folder: a new or empty folder.
        classifier: predicts the images.
        dataset: the images, with the classes of the classifier; those without a label are left
            out.
        trained_on: files whose label the classifier was trained on.
        log: gets `stage`, `done` and `total`.

    Returns:
        `folder`, `images`, `classes`, `trained_on` and `rejected`.

    Raises:
        RequestError: no image has a label, or none can be read.
    """
    labelled = dataset.labelled
    if not len(labelled):
        raise RequestError(
            "cleanlab looks at labels, and no image has one: give labelled images "
            "(--images DIR --labels folders)"
        )
    found = _predict(classifier, labelled, log)
    files = [labelled.files[i] for i in found.rows]
    labels: Int64[np.ndarray, " n"] = labelled.labels[found.rows]
    known: Bool[np.ndarray, " n"] = np.array([file in trained_on for file in files])
    arrays = {"pred_probs": found.probabilities, "features": found.features}
    arrays |= {"labels": labels, "trained_on": known}
    for name, array in arrays.items():
        with atomic_write(folder / f"{name}.npy") as draft, draft.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    names = classifier.classes.names
    pairs = zip(files, labels, strict=True)
    table = [{"file_name": file, "label": names[label]} for file, label in pairs]
    write_table(folder / "images.csv", table, _COLUMNS)
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in names))
    return {
        "folder": str(folder),
        "images": len(files),
        "classes": len(names),
        "trained_on": int(known.sum()),
        "rejected": found.rejected,
    }


class _Predicted(NamedTuple):
    """Predictions of the n readable images of a dataset."""

    rows: list[int]
    """Rows of these images."""
    probabilities: Float[np.ndarray, "n C"]
    features: Float[np.ndarray, "n D"]
    """Unit features."""
    rejected: int
    """Number of images that cannot be read."""


@torch.no_grad()
def _predict(classifier: Classifier, dataset: ImageDataset, log: Log) -> _Predicted:
    """Predict all images.

    Raises:
        RequestError: none can be read.
    """
    rows: list[int] = []
    parts: list[Float[np.ndarray, "n C"]] = []
    features: list[Float[np.ndarray, "n D"]] = []
    rejected = 0
    width = classifier.representation.comparable_width
    for index, x, rejections in classifier.representation.stream(dataset):
        rejected += len(rejections)
        if index:
            rows += index
            parts.append(classifier.probabilities(x).cpu().numpy())
            features.append(unit_features(x, width))
        log(stage="predict", done=len(rows) + rejected, total=len(dataset))
    if not rows:
        raise RequestError(f"no labelled image in {dataset.root} can be read")
    return _Predicted(rows, np.concatenate(parts), np.concatenate(features), rejected)
