"""Give exports to the programs they are made for, and compare what comes back.

    pip install cleanlab label-studio-sdk fiftyone
    python scripts/hand_over.py FOLDER --work DIR [--in-memory]

FOLDER holds images in class folders. One label in ten is changed on purpose; a run that was fitted
on half of the labels is exported with the other half.

cleanlab      `find_label_issues` on the arrays: how many of the changed labels it finds
fiftyone      the samples by FiftyOne's own classes: labels and confidences as in the predictions;
              --in-memory sets mongomock in the place of MongoDB, which FiftyOne downloads
label studio  each task checked by Label Studio's own classes, accepted, written by its converter as
              JSON, JSON-MIN and CSV, and read back as labels
"""

import argparse
import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from anyclass.commands.export import export
from anyclass.commands.fit import fit
from anyclass.data import ImageDataset

CHANGED = 0.1
"""Share of the labels that are changed."""


def main() -> None:
    """Export, hand over, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything written")
    parser.add_argument("--in-memory", action="store_true", help="FiftyOne without MongoDB")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    truth, given = changed_labels(asked.images)
    first = asked.work / "first.csv"
    second = asked.work / "second.csv"
    files = list(given)
    write_labels(first, {file: given[file] for file in files[::2]})
    write_labels(second, {file: given[file] for file in files[1::2]})
    run = asked.work / "run"
    names = sorted(set(truth.values()))
    fit("open-world", run, overwrite=run.exists(), images=asked.images, labels=first, classes=names)
    with_cleanlab(asked, run, second, truth)
    with_label_studio(asked, run)
    with_fiftyone(asked, run)


def changed_labels(images: Path) -> tuple[dict[str, str], dict[str, str]]:
    """True labels by file, and the same with some changed, in random order."""
    dataset = ImageDataset.read(images, labels="folders")
    rng = np.random.default_rng(0)
    order = rng.permutation(len(dataset))
    names = dataset.classes.names
    truth = {dataset.files[i]: names[dataset.labels[i]] for i in order}
    given = dict(truth)
    for file in rng.permutation(list(truth))[: round(CHANGED * len(truth))].tolist():
        given[file] = str(rng.choice([name for name in names if name != truth[file]]))
    return truth, given


def write_labels(path: Path, labels: dict[str, str]) -> None:
    """A label table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerows([("file_name", "label"), *labels.items()])


def with_cleanlab(
    asked: argparse.Namespace, run: Path, labels: Path, truth: dict[str, str]
) -> None:
    """Find changed labels that the run was not trained on."""
    from cleanlab.filter import find_label_issues

    folder = fresh(asked.work / "arrays")
    export(run, cleanlab=folder, images=asked.images, labels=str(labels))
    p = np.load(folder / "pred_probs.npy")
    y = np.load(folder / "labels.npy")
    trained = np.load(folder / "trained_on.npy")
    with (folder / "images.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = np.array([truth[row["file_name"]] != row["label"] for row in rows])
    found = find_label_issues(labels=y, pred_probs=p)
    hits = int((found & wrong).sum())
    print(
        f"cleanlab: {len(y)} labels, {int(trained.sum())} trained on, {int(wrong.sum())} changed; "
        f"{int(found.sum())} reported, {hits} of them changed"
    )


def with_label_studio(asked: argparse.Namespace, run: Path) -> None:
    """Accept each pre-annotation, write it in each format of Label Studio, and read it back."""
    folder = fresh(asked.work / "label_studio")
    folder.mkdir()
    export(run, label_studio=folder / "tasks.json")
    tasks = json.loads((folder / "tasks.json").read_text("utf-8"))
    config = (folder / "tasks.xml").read_text("utf-8")
    print(f"label studio: {len(tasks)} tasks, {mistakes(config, tasks)} that it does not take")
    accepted = folder / "accepted.json"
    accepted.write_text(json.dumps([*answers(tasks)]), encoding="utf-8")
    predicted = pq.read_table(run / "predictions.parquet").to_pylist()
    ours = {row["file_name"]: row["label"] for row in predicted if row["status"] == "ok"}
    for back in converted(config, accepted, folder):
        again = ImageDataset.read(asked.images, labels=str(back))
        names = again.classes.names
        known = {f: names[c] for f, c in zip(again.files, again.labels, strict=True) if c >= 0}
        same = sum(known.get(file) == label for file, label in ours.items())
        print(f"label studio: {same} of {len(ours)} predictions read back from {back.parent.name}")


def mistakes(config: str, tasks: list[dict[str, Any]]) -> int:
    """Number of tasks, predictions and annotations that Label Studio's classes refuse."""
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface(config)
    interface.validate()
    valid = []
    for task in tasks:
        valid.append(interface.validate_task({"data": task["data"]}))
        valid += map(interface.validate_prediction, task.get("predictions", ()))
        valid += map(interface.validate_annotation, task.get("annotations", ()))
    return valid.count(False)


def answers(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Tasks whose pre-annotation somebody accepted, as Label Studio keeps them."""
    about: dict[str, Any] = {"completed_by": 1, "lead_time": 1.0}
    about |= dict.fromkeys(("created_at", "updated_at"), "2026-01-01T00:00:00Z")
    for number, task in enumerate(tasks):
        if task.get("predictions"):
            result = task["predictions"][0]["result"]
            annotation = {"id": number, "result": result, **about}
            yield {"id": number, "data": task["data"], "annotations": [annotation]}


def converted(config: str, tasks: Path, folder: Path) -> list[Path]:
    """Files that Label Studio's converter writes of annotated tasks."""
    from label_studio_sdk.converter import Converter

    files = []
    for name, ending in (("JSON", "json"), ("JSON_MIN", "json"), ("CSV", "csv")):
        Converter(config, str(folder)).convert(str(tasks), str(folder / name), name, is_dir=False)
        files.append(folder / name / f"result.{ending}")
    return files


def with_fiftyone(asked: argparse.Namespace, run: Path) -> None:
    """Read each sample by FiftyOne's own classes, and compare it with the predictions."""
    if asked.in_memory:
        without_mongodb()
    import fiftyone

    path = asked.work / "samples.json"
    path.unlink(missing_ok=True)
    export(run, fiftyone=path)
    dataset = fiftyone.Dataset.from_json(str(path))
    rows = pq.read_table(run / "predictions.parquet").to_pylist()
    ours = {row["file_name"]: row for row in rows if row["status"] == "ok"}
    root = asked.images.resolve()
    same = 0
    for sample in dataset:
        row = ours.get(Path(sample.filepath).relative_to(root).as_posix())
        if row is not None:
            shown = (sample.prediction.label, sample.prediction.confidence)
            same += shown == (row["label"], row["score"])
    print(f"fiftyone: {len(dataset)} samples, {same} of {len(ours)} predictions as in the run")


def without_mongodb() -> None:
    """Keep FiftyOne's data in memory: mongomock takes the place of a MongoDB server."""
    import mongomock
    import pymongo

    os.environ["FIFTYONE_DATABASE_URI"] = "mongodb://localhost:27017"  # never connected to
    os.environ |= {"FIFTYONE_DATABASE_VALIDATION": "false", "FIFTYONE_DATABASE_ADMIN": "false"}
    os.environ |= {"FIFTYONE_DISABLE_SERVICES": "1", "FIFTYONE_DO_NOT_TRACK": "true"}
    store = mongomock.store.ServerStore()

    class Client(mongomock.MongoClient):  # type: ignore[misc]
        """A client of one store in memory, whatever it is asked to connect to."""

        _closed = False

        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__(_store=store)

    pymongo.MongoClient = Client


def fresh(folder: Path) -> Path:
    """A folder that does not exist."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


if __name__ == "__main__":
    main()
