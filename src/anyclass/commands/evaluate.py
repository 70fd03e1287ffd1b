"""`evaluate`: score a classifier on labelled images."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone, EngineName
from anyclass.backbone.device import torch_device
from anyclass.classifier.classifier import Classifier
from anyclass.commands.discovery import evaluated, widened
from anyclass.commands.predict import load
from anyclass.commands.request import check_share
from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError
from anyclass.features.extract import Embedding, cached_part, embed
from anyclass.files import read_json
from anyclass.report.gallery import Json
from anyclass.run.folder import CONTROLS
from anyclass.run.progress import Callback, Progress
from anyclass.run.scoring import (
    Predictions,
    Probabilities,
    by_itself,
    compare,
    every_score,
    predict_all,
    unnamed,
)


def evaluate(
    run: Path | str,
    images: Path | str,
    labels: Annotated[str, arg(metavar="folders|FILE")] = "folders",
    device: str = "auto",
    engine: EngineName = "auto",
    allow_pickle: bool = False,
    min_score: float = 0.0,
    callback: Suppress[Callback | None] = None,
) -> Json:
    """Score a fitted run on labelled images, zero-shot beside it.

    Args:
        run: a run folder.
        images: folder of labelled images.
        labels: "folders" (an image's parent folder), or a table with file_name and label.
        device: auto (a GPU where there is one), cpu, cuda, cuda:1, mps.
        engine: what runs the frozen image tower on a CPU.
        allow_pickle: accept model weights that are not safetensors from a local folder.
        min_score: score the images whose best probability is as high once more, apart.
        callback: gets `done` and `total`.

    Returns:
        accuracy, zero_shot_accuracy, zero_shot_ensemble_accuracy, mean_per_class, n, rejected,
        per_class, confusion, calibration_error, controls and warnings; where some classes were
        labelled and others only named, also base, new and harmonic_mean, each beside zero-shot,
        within each half (`sliced`), over all classes (`mixed`), and that as means over classes
        (`generalized`). Where classes were discovered, labels may be new to the run, and the
        result is all, old, new, old_fixed, nmi, ari, assignment and per_class of clustering
        accuracy v2, beside zero-shot on old images alone. With `min_score` also sure: share
        and scores of the images that reach it.

    Raises:
        RequestError: there is no fitted run, nothing to score, or labels that are not its classes.
    """
    check_share(min_score, "--min-score")
    classifier = load(run, device, allow_pickle, engine)
    dataset = _labelled(images, labels, classifier.classes)
    base = Backbone.load(classifier.clip.model_id, torch_device(device), allow_pickle, engine)
    with Progress(callback=callback) as log:
        part = cached_part(classifier.part)
        features = embed(base, dataset, Embedding(part), log)
        usable = dataset[features.ok]
        if not (usable.labels >= 0).any():
            raise RequestError(
                f"no readable image of {images} has a label to score with: "
                "sort them into class folders, or give a table (--labels FILE)"
            )
        seen = predict_all(base, classifier, usable, log)
        controls = _controls(run, base, device, allow_pickle, engine)
        others = {name: by_itself(base, each, usable, log) for name, each in controls.items()}
    scores: Callable[..., Json] = _scores
    if unnamed(classifier.classes):
        fitted_on = read_json(Path(run) / "config.json").get("images")
        scores = partial(evaluated, fitted_on=fitted_on == str(Path(images).resolve()))
    result = scores(usable, seen, classifier.classes, others)
    result["rejected"] = len(features.rejections)
    return result | (
        _sure(scores, usable, seen, classifier.classes, min_score) if min_score else {}
    )


def _labelled(images: Path | str, labels: str, classes: Classes) -> ImageDataset:
    """Images with labels that the run knows; any labels where it discovered classes."""
    if not unnamed(classes):
        return ImageDataset.read(images, classes.names, labels)
    return widened(ImageDataset.read(images, None, labels), classes)


def _scores(
    dataset: ImageDataset, seen: Predictions, classes: Classes, others: Mapping[str, Probabilities]
) -> Json:
    """Accuracies where every class has a name; arguments as of `evaluated`."""
    compared = compare(dataset.labels, seen, classes)
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
            name: every_score(dataset.labels, each, classes) for name, each in others.items()
        },
        "warnings": compared["warnings"],
        **apart,
    }


def _sure(
    scores: Callable[..., Json],
    dataset: ImageDataset,
    seen: Predictions,
    classes: Classes,
    least: float,
) -> Json:
    """Share and scores of the images whose best probability is `least` or more."""
    known = dataset.labels >= 0
    rows = known & (seen.adapted.max(1) >= least)
    share = {"min_score": least, "n": int(rows.sum()), "share": float(rows[known].mean())}
    if not rows.any():
        return {"sure": share}
    again = scores(
        dataset[rows], Predictions(*(probabilities[rows] for probabilities in seen)), classes, {}
    )
    keys = ("accuracy", "all", "old", "new", "old_fixed")
    return {"sure": share | {key: again[key] for key in keys if key in again}}


def _controls(
    run: Path | str, base: Backbone, device: str, allow_pickle: bool, engine: EngineName
) -> dict[str, Classifier]:
    """The classifiers that the result has to beat, by name; `base` is the model under all."""
    folders = sorted(path.parent for path in Path(run).glob(f"{CONTROLS}/*/classifier.json"))
    where = torch_device(device)
    return {f.name: Classifier.load(f, where, allow_pickle, engine, base) for f in folders}
