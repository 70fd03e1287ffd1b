"""`predict`: label a folder of any size; `evaluate`: score a classifier on labelled pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tyro.conf import Suppress

from anyclass.backbone import Backbone
from anyclass.classifier import Classifier
from anyclass.data import Photos
from anyclass.errors import AnyclassError, RequestError
from anyclass.features import Embedding, embed
from anyclass.run.progress import Callback, Progress
from anyclass.run.scoring import compare, see
from anyclass.run.tables import PREDICTION, Row, prediction_row, rejected_row, write_table

Json = dict[str, Any]


def predict(
    run: Path | str,
    images: Path | str,
    out: Path | str = "predictions.csv",
    device: str = "cpu",
    max_rejected: float = 0.1,
    callback: Suppress[Callback | None] = None,
) -> Json:
    """Label every picture of a folder with a fitted run, in bounded memory.

    Args:
        run: a run folder.
        images: folder of pictures, walked recursively.
        out: table to write, `.csv` or `.parquet`; one row per picture, rejected ones too.
        device: torch device.
        max_rejected: largest share of pictures that may be unreadable.
        callback: gets `done` and `total`.

    Returns:
        `n`, `rejected`, `out` and how many pictures each class got.

    Raises:
        RequestError: there is no fitted run, no picture, or the table has another ending.
        AnyclassError: too many pictures are unreadable (the table is written all the same).
    """
    if Path(out).suffix not in (".csv", ".parquet"):
        raise RequestError(f"--out {out}: the table is written as .csv or .parquet")
    classifier = load(run, device)
    photos = Photos.read(images)
    result: Json = {"n": len(photos), "rejected": 0, "out": str(out), "classes": {}}
    with Progress(callback=callback) as log:
        for sentence in photos.skipped:
            log.say(sentence)
        write_table(Path(out), _rows(classifier, photos, result, log), PREDICTION)
    if result["rejected"] > max_rejected * len(photos):
        raise AnyclassError(
            f"{result['rejected']} of {len(photos)} pictures could not be read; "
            f"the reasons are in {out}. --max-rejected allows {max_rejected:.0%}"
        )
    return result


def evaluate(
    run: Path | str,
    images: Path | str,
    labels: str = "folders",
    device: str = "cpu",
    callback: Suppress[Callback | None] = None,
) -> Json:
    """Score a fitted run on labelled pictures, zero-shot beside it.

    Args:
        run: a run folder.
        images: folder of labelled pictures.
        labels: "folders" (a picture's parent folder), or a table with file_name and label.
        device: torch device.
        callback: gets `done` and `total`.

    Returns:
        accuracy, zero_shot_accuracy, zero_shot_ensemble_accuracy, mean_per_class, n, rejected,
        per_class, confusion, calibration_error and warnings.

    Raises:
        RequestError: there is no fitted run, or labels are not among its classes.
    """
    classifier = load(run, device)
    photos = Photos.read(images, classifier.classes_, labels)
    base = Backbone.load(classifier.clip.model_id, device)
    with Progress(callback=callback) as log:
        features = embed(
            base, photos, Embedding("tail" if classifier.part == "tail" else "head"), log
        )
        usable = photos[features.ok]
        compared = compare(usable.labels, see(base, classifier, usable, log), classifier.classes_)
    if not compared["scored"]:
        raise RequestError(f"no picture of {images} has a label of the run's classes: use --labels")
    adapted = compared["adapted"]
    return {
        "accuracy": adapted["accuracy"],
        "zero_shot_accuracy": compared["zero_shot"]["accuracy"],
        "zero_shot_ensemble_accuracy": compared["zero_shot_ensemble"]["accuracy"],
        "mean_per_class": adapted["mean_per_class"],
        "n": adapted["n"],
        "rejected": len(features.rejections),
        "per_class": adapted["per_class"],
        "confusion": compared["confusion"],
        "calibration_error": compared["calibration_error"],
        "warnings": compared["warnings"],
    }


def load(run: Path | str, device: str = "cpu") -> Classifier:
    """The classifier of a run folder.

    Raises:
        RequestError: the folder holds no finished run.
    """
    if not (Path(run) / "manifest.json").is_file():
        raise RequestError(
            f"{run} holds no finished run: fit one first (`anyclass fit auto --out {run} ...`)"
        )
    return Classifier.load(Path(run) / "model", device)


def _rows(classifier: Classifier, photos: Photos, result: Json, log: Progress) -> Iterator[Row]:
    """One row per picture, in order; counts into `result`."""
    done = 0
    for part in classifier.stream(photos):
        rows = {row.file_name: rejected_row(row) for row in part.rejections}
        result["rejected"] += len(rows)
        for index, chances in zip(part.rows, part.probabilities.numpy(), strict=True):
            row = prediction_row(photos.files[index], chances, classifier.classes)
            rows[row["file_name"]] = row
            result["classes"][row["label"]] = result["classes"].get(row["label"], 0) + 1
        for file in photos.files[done : done + len(rows)]:
            yield rows[file]
        done += len(rows)
        log(stage="predict", done=done, total=len(photos))
