"""`predict`: label a folder of any size; `evaluate`: score a classifier on labelled pictures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone, EngineName
from anyclass.classifier import Classifier
from anyclass.data import Classes, Photos
from anyclass.errors import AnyclassError, ModelError, RequestError
from anyclass.features import Embedding, cached_part, embed
from anyclass.files import read_json
from anyclass.methods import METHODS
from anyclass.run.folder import CONTROLS, check_finished
from anyclass.run.progress import Callback, Progress
from anyclass.run.request import check_share, torch_device
from anyclass.run.scoring import Chances, Seen, by_itself, compare, every_score, see, unnamed
from anyclass.run.tables import PREDICTION, Row, prediction_row, rejected_row, write_table
from anyclass.run.unknown import evaluated, widened

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
    least_score: float = 0.0,
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
        least_score: pictures whose best probability is lower get no label: status `unsure`.
        callback: gets `done` and `total`.

    Returns:
        `n`, `rejected`, `unsure`, `out` and how many pictures each class got.

    Raises:
        RequestError: there is no fitted run, no picture, or the table cannot be written there.
        AnyclassError: too many pictures are unreadable (the table is written all the same).
    """
    check_out(Path(out), overwrite, (".csv", ".parquet"))
    check_share(max_rejected)
    check_share(least_score, "--least-score")
    classifier = load(run, device, allow_pickle, engine)
    photos = Photos.read(images)
    result: Json = {"n": len(photos), "rejected": 0, "unsure": 0, "out": str(out), "classes": {}}
    with Progress(callback=callback) as log:
        for sentence in photos.skipped:
            log.say(sentence)
        write_table(Path(out), _rows(classifier, photos, least_score, result, log), PREDICTION)
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
    least_score: float = 0.0,
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
        least_score: score the pictures whose best probability is as high once more, apart.
        callback: gets `done` and `total`.

    Returns:
        accuracy, zero_shot_accuracy, zero_shot_ensemble_accuracy, mean_per_class, n, rejected,
        per_class, confusion, calibration_error, controls and warnings; where some classes were
        labelled and others only named, also base, new and harmonic_mean, each beside zero-shot,
        within each half (`sliced`), over all classes (`mixed`), and that as means over classes
        (`generalized`). Where classes were discovered, labels may be new to the run, and the
        result is all, old, new, old_fixed, nmi, ari, assignment and per_class of clustering
        accuracy v2, beside zero-shot on old pictures alone. With `least_score` also sure: share
        and scores of the pictures that reach it.

    Raises:
        RequestError: there is no fitted run, nothing to score, or labels that are not its classes.
    """
    check_share(least_score, "--least-score")
    classifier = load(run, device, allow_pickle, engine)
    photos = _labelled(images, labels, classifier.classes)
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
        seen = see(base, classifier, usable, log)
        controls = _controls(run, base, device, allow_pickle, engine)
        others = {name: by_itself(base, each, usable, log) for name, each in controls.items()}
    scores: Callable[..., Json] = _scores
    if unnamed(classifier.classes):
        fitted_on = read_json(Path(run) / "config.json").get("images")
        scores = partial(evaluated, fitted_on=fitted_on == str(Path(images).resolve()))
    result = scores(usable, seen, classifier.classes, others)
    result["rejected"] = len(features.rejections)
    return result | (
        _sure(scores, usable, seen, classifier.classes, least_score) if least_score else {}
    )


def _labelled(images: Path | str, labels: str, classes: Classes) -> Photos:
    """Pictures with labels that the run knows; any labels where it discovered classes."""
    if not unnamed(classes):
        return Photos.read(images, classes.names, labels)
    return widened(Photos.read(images, None, labels), classes)


def _scores(photos: Photos, seen: Seen, classes: Classes, others: Mapping[str, Chances]) -> Json:
    """Accuracies where every class has a name; arguments as of `evaluated`."""
    compared = compare(photos.labels, seen, classes)
    adapted, before = compared["adapted"], compared["zero_shot"]
    spaces = ("sliced", "mixed", "generalized")
    apart = {key: adapted[key] | {"zero_shot": before[key]} for key in spaces if key in adapted}
    return {
        "accuracy": adapted["accuracy"],
        "zero_shot_accuracy": before["accuracy"],
        "zero_shot_ensemble_accuracy": compared["zero_shot_ensemble"]["accuracy"],
        "mean_per_class": adapted["mean_per_class"],
        "n": adapted["n"],
        "per_class": adapted["per_class"],
        "confusion": compared["confusion"],
        "calibration_error": compared["calibration_error"],
        "controls": {
            name: every_score(photos.labels, each, classes) for name, each in others.items()
        },
        "warnings": compared["warnings"],
        **apart,
    }


def _sure(
    scores: Callable[..., Json], photos: Photos, seen: Seen, classes: Classes, least: float
) -> Json:
    """Share and scores of the pictures whose best probability is `least` or more."""
    known = photos.labels >= 0
    rows = known & (seen.adapted.max(1) >= least)
    share = {"least_score": least, "n": int(rows.sum()), "share": float(rows[known].mean())}
    if not rows.any():
        return {"sure": share}
    again = scores(photos[rows], Seen(*(chances[rows] for chances in seen)), classes, {})
    keys = ("accuracy", "all", "old", "new", "old_fixed")
    return {"sure": share | {key: again[key] for key in keys if key in again}}


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
    run: Path | str, base: Backbone, device: str, allow_pickle: bool, engine: EngineName
) -> dict[str, Classifier]:
    """The classifiers that the result has to beat, by name; `base` is the model under all."""
    folders = sorted(path.parent for path in Path(run).glob(f"{CONTROLS}/*/classifier.json"))
    where = torch_device(device)
    return {f.name: Classifier.load(f, where, allow_pickle, engine, base) for f in folders}


def check_out(out: Path, overwrite: bool, endings: Sequence[str]) -> None:
    """Refuse a table that cannot be written, before anything is computed."""
    if out.suffix not in endings:
        raise RequestError(f"--out {out}: the table is written as {' or '.join(endings)}")
    if out.is_dir() or not next(p for p in out.absolute().parents if p.exists()).is_dir():
        raise RequestError(f"--out {out}: this is no place for a file; choose another")
    if out.exists() and not overwrite:
        raise RequestError(f"{out} is there already: choose another --out, or say --overwrite")


def _rows(
    classifier: Classifier, photos: Photos, least: float, result: Json, log: Progress
) -> Iterator[Row]:
    """One row per picture, in order; counts into `result`."""
    done = 0
    for part in classifier.stream(photos):
        rows = {row.file_name: rejected_row(row) for row in part.rejections}
        result["rejected"] += len(rows)
        for index, chances in zip(part.rows, part.probabilities.numpy(), strict=True):
            row = prediction_row(photos.files[index], chances, classifier.classes, least)
            rows[row["file_name"]], name = row, row["label"]
            if name is None:
                result["unsure"] += 1
            else:
                result["classes"][name] = result["classes"].get(name, 0) + 1
        for file in photos.files[done : done + len(rows)]:
            yield rows[file]
        done += len(rows)
        log(stage="predict", done=done, total=len(photos))
