"""Tasks for Label Studio: predictions as pre-annotations, given labels as annotations.

    FILE.json   tasks to import
    FILE.xml    the labelling configuration of the project

Label Studio shows the images from its local file storage: `LOCAL_FILES_DOCUMENT_ROOT` is the folder
above the images. `anyclass fit --labels EXPORT.json` reads what it exports.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from anyclass.data.label_studio import CONTROL, FILE_NAME
from anyclass.exporting.predictions import LabelledPredictions, Row, is_given, prediction
from anyclass.files import write_json, write_text

IMAGE = "image"
"""Name of the image in the labelling configuration."""


def write_label_studio(
    path: Path, predictions: LabelledPredictions, classes: Sequence[str], version: str
) -> dict[str, Any]:
    """Write the tasks, and beside them the labelling configuration.

    Args:
        path: the file of the tasks, `.json`.
        predictions: the images and their labels.
        classes: names of all classes, in order.
        version: name of the model that predicted.

    Returns:
        `file`, `config`, `document_root`, and the numbers of `tasks` and of tasks `annotated`.
    """
    tasks = [_task(predictions, row, version) for row in predictions.rows]
    config = path.with_suffix(".xml")
    write_json(path, tasks)
    write_text(config, labelling_config(classes))
    return {
        "file": str(path),
        "config": str(config),
        "document_root": str(predictions.root.parent),
        "tasks": len(tasks),
        "annotated": sum("annotations" in task for task in tasks),
    }


def labelling_config(classes: Sequence[str]) -> str:
    """The XML of a project where each image gets one class."""
    view = Element("View")
    SubElement(view, "Image", name=IMAGE, value="$image")
    choices = SubElement(
        view, "Choices", name=CONTROL, toName=IMAGE, choice="single", required="true"
    )
    for name in classes:
        SubElement(choices, "Choice", value=name)
    indent(view)
    return tostring(view, encoding="unicode") + "\n"


def _task(predictions: LabelledPredictions, row: Row, version: str) -> dict[str, Any]:
    """One image."""
    name = str(row["file_name"])
    place = quote(f"{predictions.root.name}/{name}")
    data = {"image": f"/data/local-files/?d={place}", FILE_NAME: name}
    task: dict[str, Any] = {"data": data}
    label, score = prediction(row)
    if label is not None:
        task["predictions"] = [
            {"model_version": version, "score": score, "result": [_choice(label)]}
        ]
    if is_given(row):
        task["annotations"] = [{"result": [_choice(row["label"])]}]
    return task


def _choice(label: str) -> dict[str, Any]:
    return {
        "from_name": CONTROL,
        "to_name": IMAGE,
        "type": "choices",
        "value": {"choices": [label]},
    }
