"""`predict`: label the images of a folder with a fitted run."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from tyro.conf import Suppress, arg

import anyclass
from anyclass.backbone import Backbone, EngineName
from anyclass.backbone.device import torch_device
from anyclass.bulk import Bulk
from anyclass.classifier.classifier import Classifier, Prediction
from anyclass.commands.command_line import REPLACED
from anyclass.commands.precomputed import check_images, for_features
from anyclass.commands.request import FILE, PLACE, check_rejected, check_share, check_source
from anyclass.data import Classes, ImageDataset
from anyclass.data.feature_tables import read_features
from anyclass.data.image import Decoding
from anyclass.data.label_inputs import read_images
from anyclass.errors import ModelError, RequestError
from anyclass.files import MANIFEST, Json, check_may_write, read_json, sha256
from anyclass.log import Log, silent
from anyclass.methods import METHODS
from anyclass.run.columns import PREDICTION, REJECTED
from anyclass.run.folder import check_finished
from anyclass.run.progress import Callback, Progress
from anyclass.run.row_journal import RowJournal
from anyclass.run.tables import Row, confidences, prediction_rows, ranked, write_table


def predict(
    run: Path | str,
    images: Annotated[Any, PLACE] = None,
    out: Annotated[Path | str, PLACE] = "predictions.csv",
    overwrite: bool = False,
    device: str = "auto",
    engine: EngineName = "auto",
    max_rejected: float = 0.1,
    allow_pickle: bool = False,
    min_score: float = 0.0,
    features: Annotated[Any, FILE] = None,
    extra: Annotated[Any, FILE] = None,
    model: str | None = None,
    bulk: Annotated[Bulk, arg(name="")] = Bulk(),
    callback: Suppress[Callback | None] = None,
) -> Json:
    """Label the images of a folder with a fitted run, in bounded memory.

    After a kill or Ctrl-C the same call goes on where it was stopped.

    Args:
        run: a run folder.
        images: folder of images; its subfolders are searched too.
        out: table to write, `.csv` or `.parquet`, with one row per image, including rejected ones;
            with --on ray a folder of such tables.
        overwrite: replace an existing file.
        device: device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.
        engine: engine of the frozen image encoder: auto takes the fastest on a CPU that agrees with
            torch; on a GPU it is torch, and bf16 can be asked for.
        max_rejected: fail when a larger share of the images is unreadable.
        allow_pickle: accept weights from a local folder that are not safetensors. They can run
            code: use it for sources you trust.
        min_score: leave images with a lower score without a label, status `unsure`. The score is
            the best probability, reduced for images that are unlike the training images
            (open-world). Raise it if a wrong label is worse than none.
        features: features of the images instead, by the model of the run: a file; in Python also an
            array.
        extra: with --features: further features, if the run had such, in the same way.
        model: where the model of the run is now, if it has moved: `local-dir:FOLDER`, or a name.
            Its weights must be those of the fit.
        bulk: where to compute: here, or in many processes on Ray.
        callback: gets `done` and `total`.

    Returns:
        `n`, `rejected`, `unsure`, `out` and the number of images of each class.

    Raises:
        RequestError: there is no fitted run, no image, or the table cannot be written; or features
            are not those of the run's model.
        AnyclassError: too many images are unreadable; the table is written nevertheless.
    """
    check_share(max_rejected)
    check_share(min_score, "--min-score")
    check_source(images, features, extra, engine)
    if bulk.on == "ray":
        from anyclass.commands.bulk import BulkOptions, predict_in_bulk
        from anyclass.commands.bulk_jobs import PredictJob

        job = PredictJob(Path(run), device, allow_pickle, engine, min_score, model)
        options = BulkOptions(images, out, overwrite, bulk, device, max_rejected, callback)
        return predict_in_bulk(job, options)
    check_out(Path(out), overwrite, (".csv", ".parquet"))
    classifier = load_classifier(run, device, allow_pickle, engine, model=model)
    with Progress(callback=callback) as log:
        source = _source(classifier, images, features, extra, log)
        n = len(source.files)
        result: Json = {"n": n, "rejected": 0, "unsure": 0, "out": str(out), "classes": {}}
        batches = partial(_batches, classifier.classes, source, min_score)
        if images is None:  # from features twice is cheap
            confidence = confidences(chain.from_iterable(batches(log, 0)))
            rows = ranked(chain.from_iterable(batches(silent, 0)), confidence)
            write_table(Path(out), _counted(rows, result), PREDICTION)
        elif source.dataset is None:  # images in memory, which has room for their rows
            rows = ranked(list(chain.from_iterable(batches(log, 0))))
            write_table(Path(out), _counted(rows, result), PREDICTION)
        else:
            request = _checksum(run, source.dataset, [device, engine, min_score])
            stamp = partial(_stamp, source.dataset)
            with RowJournal(Path(out), request, source.files, stamp) as journal:
                confidence = confidences(journal.continued(partial(batches, log)))
                rows = ranked(journal.finished(), confidence)
                write_table(Path(out), _counted(rows, result), PREDICTION)
                journal.remove()
    check_rejected(result["rejected"], n, out, max_rejected)
    return result


class _Source(NamedTuple):
    """What is predicted."""

    files: Sequence[str]
    """Names of the images."""
    parts: Callable[[int], Iterator[Prediction]]
    """Predictions from an image on; their rows count from there."""
    dataset: ImageDataset | None
    """The images, if they are files."""


def _source(
    classifier: Classifier, images: Any, features: Any, extra: Any, log: Progress
) -> _Source:
    """Images, or their features."""
    if images is None:
        table = read_features(features, extra)
        given = for_features(classifier)
        return _Source(table.names, lambda _: given.stream_features(table), None)
    check_images(classifier)
    dataset = read_images(images)
    for sentence in dataset.skipped:
        log.say(sentence)

    def parts(start: int) -> Iterator[Prediction]:
        return classifier.stream(dataset[start:] if start else dataset)

    return _Source(dataset.files, parts, dataset if dataset.memory is None else None)


def _checksum(run: Path | str, dataset: ImageDataset, settings: Sequence[Any]) -> str:
    """Checksum of what a table of predictions depends on, besides the content of the images."""
    about = [anyclass.__version__, sha256(Path(run) / MANIFEST), str(dataset.root), *settings]
    names = hashlib.sha256("\0".join(dataset.files).encode("utf-8", "surrogateescape"))
    about.append(names.hexdigest())
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _stamp(dataset: ImageDataset, index: int) -> tuple[int, ...]:
    """What changes when the file of an image changes."""
    try:
        status = dataset.path(index).stat()
    except (OSError, ValueError):
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def load_classifier(
    run: Path | str,
    device: str = "auto",
    allow_pickle: bool = False,
    engine: EngineName = "auto",
    base: Backbone | None = None,
    model: str | None = None,
) -> Classifier:
    """Load the classifier of a run folder.

    Args:
        run: a run folder.
        device: auto, cpu, cuda, cuda:1 or mps.
        allow_pickle: accept weights that are not safetensors.
        engine: engine of the frozen image encoder.
        base: the untrained model, if it is loaded already.
        model: where the model is now, if it has moved.

    Raises:
        RequestError: the folder contains no finished run.
        ModelError: the model is damaged, or its method is unknown to this version.
    """
    check_finished(Path(run))
    place = model_of(run, model)
    folder = Path(run) / "model"
    target = torch_device(device)
    classifier = Classifier.load(folder, target, allow_pickle, engine, base, model=place)
    if classifier.method not in (*METHODS, *REPLACED):
        raise ModelError(
            f"{run} was fitted with method {classifier.method!r:.100}, which is unknown to this "
            "version"
        )
    return classifier


def model_of(run: Path | str, model: str | None = None) -> str | None:
    """Where the model of a finished run is; None: the run was fitted on features.

    Args:
        run: a run folder.
        model: where a person says that it is; None: where it was at the fit.

    Raises:
        ModelError: it was in a folder that is no longer there.
        RequestError: a model is given to a run that was fitted on features.
    """
    known: str | None = read_json(Path(run) / "config.json").get("model")
    if known is None and model is not None:
        raise RequestError(f"{run} was fitted on features and has no model: leave out --model")
    if known is None or model is not None:
        return model
    folder = known.removeprefix("local-dir:")
    if folder != known and not Path(folder).is_dir():
        raise ModelError(
            f"{run} was fitted with the model in {folder}, which is no longer there: say where it "
            "is now (--model local-dir:FOLDER)"
        )
    return known


def load_base(
    run: Path | str, model: str, device: str, allow_pickle: bool, engine: EngineName
) -> Backbone:
    """Load the model of a finished run as it was before the fit, decoding JPEGs as the fit did.

    Args:
        run: a run folder.
        model: where the model is, as of `model_of`.
        device: auto, cpu, cuda, cuda:1 or mps.
        allow_pickle: accept weights that are not safetensors.
        engine: engine of the frozen image encoder.

    Raises:
        ModelError: the model is damaged, or not there.
    """
    decoding: Decoding = read_json(Path(run) / "config.json").get("decoding", "full")
    return Backbone.load(model, torch_device(device), allow_pickle, engine, decoding=decoding)


def check_out(out: Path, overwrite: bool, endings: Sequence[str]) -> None:
    """Refuse a table that cannot be written, before anything is computed."""
    if out.suffix not in endings:
        raise RequestError(f"--out {out}: the file name must end in {' or '.join(endings)}")
    parent = next(path for path in out.absolute().parents if path.exists())
    if out.is_dir() or not parent.is_dir():
        raise RequestError(f"--out {out}: no file can be written there; choose another path")
    if out.exists() and not overwrite:
        raise RequestError(f"{out} exists already: choose another --out, or add --overwrite")
    check_may_write(out)


def _batches(
    classes: Classes, source: _Source, least: float, log: Log, start: int
) -> Iterator[list[Row]]:
    """Rows of the images from `start` on, in order, as they are computed."""
    done = start
    log(stage="predict", done=done, total=len(source.files))
    for part in source.parts(start):
        rows = prediction_rows(part, source.files, classes, least, start)
        count = len(part.rows) + len(part.rejections)  # a file may be given twice
        names = source.files[done : done + count]
        done += count
        yield [rows[name] for name in names]
        log(stage="predict", done=done, total=len(source.files))


def _counted(rows: Iterable[Row], result: Json) -> Iterator[Row]:
    """The rows, counted into `result`."""
    for row in rows:
        name = row.get("label")
        if row["status"] == REJECTED:
            result["rejected"] += 1
        elif name is None:
            result["unsure"] += 1
        else:
            result["classes"][name] = result["classes"].get(name, 0) + 1
        yield row
