"""A dataset for FiftyOne, with labels, predictions and their confidences.

fiftyone.Dataset.from_json("FILE")
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyclass.exporting.predictions import LabelledPredictions, Row, prediction
from anyclass.files import write_json

_CLASSIFICATION = "fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.labels.Classification)"
_TEXT = "fiftyone.core.fields.StringField"
_NUMBER = "fiftyone.core.fields.FloatField"
FIELDS = {
    "filepath": _TEXT,
    "tags": f"fiftyone.core.fields.ListField({_TEXT})",
    "ground_truth": _CLASSIFICATION,
    "prediction": _CLASSIFICATION,
    "zero_shot": _CLASSIFICATION,
    "familiarity": _NUMBER,
    "label_quality": _NUMBER,
}
"""Fields of a sample and their types, as FiftyOne writes them."""


def write_fiftyone(
    path: Path, predictions: LabelledPredictions, classes: Sequence[str], name: str
) -> dict[str, Any]:
    """Write a JSON file for `fiftyone.Dataset.from_json`.

    Args:
        path: the file.
        predictions: the images and their labels.
        classes: names of all classes, in order.
        name: name of the dataset.

    Returns:
        `file`, and the number of `samples`.
    """
    content = {
        "name": name,
        "media_type": "image",
        "sample_fields": FIELDS,
        "info": {"made_by": "anyclass"},
        "default_classes": list(classes),
        "samples": [_sample(predictions, row) for row in predictions.rows],
    }
    write_json(path, content)
    return {"file": str(path), "samples": len(predictions.rows)}


def _sample(predictions: LabelledPredictions, row: Row) -> dict[str, Any]:
    """One image; its tag says where the label comes from."""
    return {
        "filepath": str(predictions.path(row)),
        "tags": [row["status"]],
        "ground_truth": _classification(row.get("true_label"), None),
        "prediction": _classification(*prediction(row)),
        "zero_shot": _classification(row.get("zero_shot_label"), row.get("zero_shot_score")),
        "familiarity": row.get("familiarity"),
        "label_quality": row.get("label_quality"),
    }


def _classification(label: str | None, confidence: float | None) -> dict[str, Any] | None:
    if label is None:
        return None
    return {"_cls": "Classification", "label": label, "confidence": confidence}
