"""`predict`: label a folder of any size; `evaluate`: score a classifier on labelled images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tyro.conf import Suppress

from anyclass.backbone import EngineName
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
    """Label every image of a folder with a fitted run, in bounded memory.

    Args:
        run: a run folder.
        images: folder of images, walked recursively.
        out: table to write, `.csv` or `.parquet`; one row per image, rejected ones too.
        overwrite: replace a file that is there.
        device: auto (a GPU where there is one), cpu, cuda, cuda:1, mps.
        engine: what runs the frozen image tower on a CPU.
        max_rejected: largest share of images that may be unreadable.
        allow_pickle: accept model weights that are not safetensors from a local folder.
        min_score: images whose best probability is lower get no label: status `unsure`.
        callback: gets `done` and `total`.

    Returns:
        `n`, `rejected`, `unsure`, `out` and how many images each class got.

    Raises:
        RequestError: there is no fitted run, no image, or the table cannot be written there.
        AnyclassError: too many images are unreadable (the table is written all the same).
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


def check_out(out: Path, overwrite: bool, endings: Sequence[str]) -> None:
    """Refuse a table that cannot be written, before anything is computed."""
    if out.suffix not in endings:
        raise RequestError(f"--out {out}: the table is written as {' or '.join(endings)}")
    if out.is_dir() or not next(p for p in out.absolute().parents if p.exists()).is_dir():
        raise RequestError(f"--out {out}: this is no place for a file; choose another")
    if out.exists() and not overwrite:
        raise RequestError(f"{out} is there already: choose another --out, or say --overwrite")


def _rows(
    classifier: Classifier, dataset: ImageDataset, least: float, result: Json, log: Progress
) -> Iterator[Row]:
    """One row per image, in order; counts into `result`."""
    done = 0
    for part in classifier.stream(dataset):
        rows = {row.file_name: rejected_row(row) for row in part.rejections}
        result["rejected"] += len(rows)
        for index, probabilities in zip(part.rows, part.probabilities.numpy(), strict=True):
            row = prediction_row(dataset.files[index], probabilities, classifier.classes, least)
            rows[row["file_name"]], name = row, row["label"]
            if name is None:
                result["unsure"] += 1
            else:
                result["classes"][name] = result["classes"].get(name, 0) + 1
        for file in dataset.files[done : done + len(rows)]:
            yield rows[file]
        done += len(rows)
        log(stage="predict", done=done, total=len(dataset))
