"""`predict`: label a folder of any size; `evaluate`: score a classifier on labelled pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone, EngineName
from anyclass.classifier import Classifier
from anyclass.data import Photos
from anyclass.errors import AnyclassError, ModelError, RequestError
from anyclass.features import Embedding, cached_part, embed
from anyclass.methods import METHODS
from anyclass.run.folder import CONTROLS, check_finished
from anyclass.run.progress import Callback, Progress
from anyclass.run.request import check_share, torch_device
from anyclass.run.scoring import beat, compare, see
from anyclass.run.tables import PREDICTION, Row, prediction_row, rejected_row, write_table

Json = dict[str, Any]


def predict(
    run: Path | str,
    images: Path | str,
    out: Path | str = "predictions.csv",
    overwrite: bool = False,
    device: str = "auto",
    engine: EngineName = "auto",
    max_rejected: float = 0.1,
    allow_pickle: bool = False,
    callback: Suppress[Callback | None] = None,
) -> Json:
    """Label every picture of a folder with a fitted run, in bounded memory.

    Args:
        run: a run folder.
        images: folder of pictures, walked recursively.
        out: table to write, `.csv` or `.parquet`; one row per picture, rejected ones too.
        overwrite: replace a file that is there.
        device: auto (a GPU where there is one), cpu, cuda, cuda:1, mps.
        engine: what runs the frozen image tower on a CPU.
        max_rejected: largest share of pictures that may be unreadable.
        allow_pickle: accept model weights that are not safetensors from a local folder.
        callback: gets `done` and `total`.

    Returns:
        `n`, `rejected`, `out` and how many pictures each class got.

    Raises:
        RequestError: there is no fitted run, no picture, or the table cannot be written there.
        AnyclassError: too many pictures are unreadable (the table is written all the same).
    """
    check_out(Path(out), overwrite, (".csv", ".parquet"))
    check_share(max_rejected)
    classifier = load(run, device, allow_pickle, engine)
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
    labels: Annotated[str, arg(metavar="folders|FILE")] = "folders",
    device: str = "auto",
    engine: EngineName = "auto",
    allow_pickle: bool = False,
    callback: Suppress[Callback | None] = None,
) -> Json:
    """Score a fitted run on labelled pictures, zero-shot beside it.

    Args:
        run: a run folder.
        images: folder of labelled pictures.
        labels: "folders" (a picture's parent folder), or a table with file_name and label.
        device: auto (a GPU where there is one), cpu, cuda, cuda:1, mps.
        engine: what runs the frozen image tower on a CPU.
        allow_pickle: accept model weights that are not safetensors from a local folder.
        callback: gets `done` and `total`.

    Returns:
        accuracy, zero_shot_accuracy, zero_shot_ensemble_accuracy, mean_per_class, n, rejected,
        per_class, confusion, calibration_error, controls and warnings; where some classes were
        labelled and others only named, also base, new and harmonic_mean, each beside zero-shot,
        within each half (`sliced`), over all classes (`mixed`), and that as means over classes
        (`generalized`).

    Raises:
        RequestError: there is no fitted run, nothing to score, or labels that are not its classes.
    """
    classifier = load(run, device, allow_pickle, engine)
    photos = Photos.read(images, classifier.classes_, labels)
    base = Backbone.load(classifier.clip.model_id, torch_device(device), allow_pickle, engine)
    with Progress(callback=callback) as log:
        part = cached_part(classifier.part)
        features = embed(base, photos, Embedding(part), log)
        usable = photos[features.ok]
        if not (usable.labels >= 0).any():
            raise RequestError(
                f"no readable picture of {images} has a label to score with: "
                "sort them into class folders, or give a table (--labels FILE)"
            )
        compared = compare(usable.labels, see(base, classifier, usable, log), classifier.classes)
        compared["controls"] = beat(base, _controls(run, device, allow_pickle, engine), usable, log)
    adapted, before = compared["adapted"], compared["zero_shot"]
    spaces = ("sliced", "mixed", "generalized")
    apart = {key: adapted[key] | {"zero_shot": before[key]} for key in spaces if key in adapted}
    return {
        "accuracy": adapted["accuracy"],
        "zero_shot_accuracy": before["accuracy"],
        "zero_shot_ensemble_accuracy": compared["zero_shot_ensemble"]["accuracy"],
        "mean_per_class": adapted["mean_per_class"],
        "n": adapted["n"],
        "rejected": len(features.rejections),
        "per_class": adapted["per_class"],
        "confusion": compared["confusion"],
        "calibration_error": compared["calibration_error"],
        "controls": compared["controls"],
        "warnings": compared["warnings"],
        **apart,
    }


def load(
    run: Path | str,
    device: str = "auto",
    allow_pickle: bool = False,
    engine: EngineName = "auto",
) -> Classifier:
    """The classifier of a run folder.

    Raises:
        RequestError: the folder holds no finished run.
        ModelError: its model is damaged, or was made by a method that is not known here.
    """
    check_finished(Path(run))
    model = Path(run) / "model"
    classifier = Classifier.load(model, torch_device(device), allow_pickle, engine)
    if classifier.method not in METHODS:
        raise ModelError(
            f"{run} was made by {classifier.method!r:.100}, which this version does not know"
        )
    return classifier


def _controls(
    run: Path | str, device: str, allow_pickle: bool, engine: EngineName
) -> dict[str, Classifier]:
    """The classifiers that the result has to beat, by name."""
    folders = sorted(path.parent for path in Path(run).glob(f"{CONTROLS}/*/classifier.json"))
    where = torch_device(device)
    return {f.name: Classifier.load(f, where, allow_pickle, engine) for f in folders}


def check_out(out: Path, overwrite: bool, endings: Sequence[str]) -> None:
    """Refuse a table that cannot be written, before anything is computed."""
    if out.suffix not in endings:
        raise RequestError(f"--out {out}: the table is written as {' or '.join(endings)}")
    if out.is_dir() or not next(p for p in out.absolute().parents if p.exists()).is_dir():
        raise RequestError(f"--out {out}: this is no place for a file; choose another")
    if out.exists() and not overwrite:
        raise RequestError(f"{out} is there already: choose another --out, or say --overwrite")


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
