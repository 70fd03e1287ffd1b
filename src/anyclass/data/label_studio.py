"""Labels from Label Studio: its JSON and JSON-MIN exports. Its CSV export is a label table."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

CONTROL = "label"
"""Name of the choices in the labelling configuration, and of the column in a CSV export."""

FILE_NAME = "file_name"
"""Name of the path below the image folder in the data of a task."""

Row = dict[str, str]


def label_studio_rows(path: Path) -> Iterator[Row]:
    """Yield `file_name` and `label` of each annotation; predictions of a model are no labels.

    Raises:
        ValueError: the file is no export, or an image has more than one class.
    """
    tasks = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise ValueError("it is no export of Label Studio, which is a list of tasks")
    for number, task in enumerate(tasks, start=1):
        data = task.get("data", task)
        if not isinstance(data, dict):
            raise ValueError(f"task {number} has no data")
        name = data.get(FILE_NAME) or _local_file(data.get("image"))
        if not name:
            raise ValueError(f"task {number} has neither {FILE_NAME} nor a local image in its data")
        labels = _annotated(task) if "data" in task else [task.get(CONTROL)]
        rows = [{FILE_NAME: str(name), CONTROL: _one(label, number)} for label in labels]
        yield from rows or [{FILE_NAME: str(name), CONTROL: ""}]


def _annotated(task: dict[str, Any]) -> Iterator[Any]:
    """Choices of each annotation that was not cancelled."""
    for annotation in task.get("annotations") or []:
        if annotation.get("was_cancelled"):
            continue
        for result in annotation.get("result") or []:
            if result.get("type") == "choices":
                yield result["value"]


def _one(value: Any, number: int) -> str:
    """The class of a choice: a text, or a list of one text.

    Raises:
        ValueError: there are several.
    """
    choices = value.get("choices") if isinstance(value, dict) else value
    if isinstance(choices, list):
        if len(choices) > 1:
            raise ValueError(f"task {number} has several classes, {choices!r:.80}")
        choices = choices[0] if choices else None
    return "" if choices is None else str(choices)


def _local_file(address: Any) -> str:
    """Path in the address of a local file, without the folder of the images."""
    place = parse_qs(urlsplit(str(address or "")).query).get("d", [""])[0]
    return place.partition("/")[2]
