"""`predict`: label the images of a folder with a fitted run."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tyro.conf import Suppress

from anyclass.backbone import Backbone, EngineName
from anyclass.backbone.device import torch_device
from anyclass.classifier.classifier import Classifier
from anyclass.commands.request import check_share
from anyclass.data import ImageDataset
from anyclass.errors import AnyclassError, ModelError, RequestError
from anyclass.methods import METHODS
from anyclass.run.folder import check_finished
from anyclass.run.progress import Callback, Progress
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
    min_score: float = 0.0,
    callback: Suppress[Callback | None] = None,
) -> Json:
    """Label the images of a folder with a fitted run, in bounded memory.

    Args:
        run: a run folder.
        images: folder of images; its subfolders are searched too.
        out: table to write, `.csv` or `.parquet`, with one row per image, including rejected ones.
        overwrite: replace an existing file.
        device: device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.
        engine: engine for the frozen image tower on a CPU; auto takes the fastest that agrees with
            torch.
        max_rejected: fail when a larger share of the images is unreadable.
        allow_pickle: accept weights from a local folder that are not safetensors. They can run
            code: use it for sources you trust.
        min_score: leave images with a lower best probability without a label, status `unsure`.
            Raise it if a wrong label is worse than none.
        callback: gets `done` and `total`.

    Returns:
        `n`, `rejected`, `unsure`, `out` and the number of images of each class.

    Raises:
        RequestError: there is no fitted run, no image, or the table cannot be written.
        AnyclassError: too many images are unreadable; the table is written nevertheless.
    """
    check_out(Path(out), overwrite, (".csv", ".parquet"))
    check_share(max_rejected)
    check_share(min_score, "--min-score")
    classifier = load(run, device, allow_pickle, engine)
    dataset = ImageDataset.read(images)
    result: Json = {"n": len(dataset), "rejected": 0, "unsure": 0, "out": str(out), "classes": {}}
    with Progress(callback=callback) as log:
        for sentence in dataset.skipped:
            log.say(sentence)
        write_table(Path(out), _rows(classifier, dataset, min_score, result, log), PREDICTION)
    if result["rejected"] > max_rejected * len(dataset):
        raise AnyclassError(
            f"{result['rejected']} of {len(dataset)} images could not be read; "
            f"the reasons are in {out}. --max-rejected allows {max_rejected:.0%}"
        )
    return result


def load(
    run: Path | str,
    device: str = "auto",
    allow_pickle: bool = False,
    engine: EngineName = "auto",
    base: Backbone | None = None,
) -> Classifier:
    """Load the classifier of a run folder.

    Args:
        run: a run folder.
        device: auto, cpu, cuda, cuda:1 or mps.
        allow_pickle: accept weights that are not safetensors.
        engine: engine of the frozen image tower on a CPU.
        base: the untrained model, if it is loaded already.

    Raises:
        RequestError: the folder contains no finished run.
        ModelError: the model is damaged, or its method is unknown to this version.
    """
    check_finished(Path(run))
    model = Path(run) / "model"
    classifier = Classifier.load(model, torch_device(device), allow_pickle, engine, base)
    if classifier.method not in METHODS:
        raise ModelError(
            f"{run} was fitted with method {classifier.method!r:.100}, which is unknown to this "
            "version"
        )
    return classifier


def check_out(out: Path, overwrite: bool, endings: Sequence[str]) -> None:
    """Refuse a table that cannot be written, before anything is computed."""
    if out.suffix not in endings:
        raise RequestError(f"--out {out}: the file name must end in {' or '.join(endings)}")
    parent = next(path for path in out.absolute().parents if path.exists())
    if out.is_dir() or not parent.is_dir():
        raise RequestError(f"--out {out}: no file can be written there; choose another path")
    if out.exists() and not overwrite:
        raise RequestError(f"{out} exists already: choose another --out, or add --overwrite")


def _rows(
    classifier: Classifier, dataset: ImageDataset, least: float, result: Json, log: Progress
) -> Iterator[Row]:
    """Yield one row per image, in order; count into `result`."""
    done = 0
    for part in classifier.stream(dataset):
        rows = {row.file_name: rejected_row(row) for row in part.rejections}
        result["rejected"] += len(rows)
        for index, probabilities in zip(part.rows, part.probabilities.numpy(), strict=True):
            row = prediction_row(dataset.files[index], probabilities, classifier.classes, least)
            rows[row["file_name"]] = row
            name = row["label"]
            if name is None:
                result["unsure"] += 1
            else:
                result["classes"][name] = result["classes"].get(name, 0) + 1
        for file in dataset.files[done : done + len(rows)]:
            yield rows[file]
        done += len(rows)
        log(stage="predict", done=done, total=len(dataset))
