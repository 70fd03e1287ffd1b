"""`evaluate`: score a classifier on labelled images."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone, EngineName
from anyclass.backbone.device import torch_device
from anyclass.commands.baselines import load_baselines
from anyclass.commands.predict import load
from anyclass.commands.request import check_share
from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError
from anyclass.features.cache import Embedding, cached_part
from anyclass.features.store import FeatureStore
from anyclass.files import read_json
from anyclass.report.gallery import Json
from anyclass.run.clustering_scores import align_labels, clustering_scores
from anyclass.run.folder import check_finished
from anyclass.run.progress import Callback, Progress
from anyclass.run.scoring import (
    Predictions,
    Probabilities,
    all_scores,
    compare,
    predict_adapted,
    predict_all,
    unknown_classes,
)


def evaluate(
    run: Path | str,
    images: Path | str,
    labels: Annotated[str, arg(metavar="folders|FILE")] = "folders",
    device: str = "auto",
    engine: EngineName = "auto",
    allow_pickle: bool = False,
    min_score: float = 0.0,
    prompt_ensemble: bool = True,
    callback: Suppress[Callback | None] = None,
) -> Json:
    """Score a fitted run on labelled images, compared with zero-shot and baselines.

    Args:
        run: a run folder.
        images: folder of labelled images.
        labels: `folders`: the parent folder of an image is its label. Or a table with the columns
            file_name and label: CSV, Parquet or JSONL.
        device: device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.
        engine: engine for the frozen image tower on a CPU; auto takes the fastest that agrees with
            torch.
        allow_pickle: accept weights from a local folder that are not safetensors. They can run
            code: use it for sources you trust.
        min_score: also score the images with a best probability of at least this, for a
            classifier that may abstain.
        prompt_ensemble: also score zero-shot with an ensemble of 80 prompt templates. Turn it off
            for thousands of classes: their 80 texts each take minutes the first time.
        callback: gets `done` and `total`.

    Returns:
        accuracy, zero_shot_accuracy, zero_shot_ensemble_accuracy, mean_per_class, n, rejected,
        per_class, confusion, calibration_error, controls (scores of baselines) and warnings. If
        some classes were labelled and others only named, also base, new and harmonic_mean of the
        run and of zero-shot: within each group of classes (`sliced`), over all classes
        (`mixed`), and over all classes as means over classes (`generalized`). If classes were
        discovered, labels may be new to the run, and the result is all, old, new, old_fixed, nmi,
        ari, assignment and per_class of clustering accuracy v2; zero-shot is scored on images of
        labelled classes alone. With `min_score` also `sure`: share and scores of the images that
        reach it.

    Raises:
        RequestError: there is no fitted run, no labelled image, or a label that is none of its
            classes.
    """
    check_share(min_score, "--min-score")
    check_finished(Path(run))
    model = read_json(Path(run) / "config.json")["model"]
    base = Backbone.load(model, torch_device(device), allow_pickle, engine)
    classifier = load(run, device, allow_pickle, engine, base)
    dataset = _labelled(images, labels, classifier.classes)
    with Progress(callback=callback) as log:
        data = FeatureStore(base, dataset)
        features = data.embed(Embedding(cached_part(classifier.representation.part)), log)
        data = data.of(dataset[features.ok])
        if not (data.dataset.labels >= 0).any():
            raise RequestError(
                f"no readable image of {images} has a label: sort the images into class folders, "
                "or give a table (--labels FILE)"
            )
        predictions = predict_all(data, classifier, log, prompt_ensemble)
        baselines = {
            name: predict_adapted(data, baseline, log)
            for name, baseline in load_baselines(run, base, device, allow_pickle, engine).items()
        }
    scores: Callable[..., Json] = _scores
    if unknown_classes(classifier.classes):
        scores = partial(clustering_scores, fitted_on=_fitted_on(run, images))
    result = scores(data.dataset, predictions, classifier.classes, baselines)
    result["rejected"] = len(features.rejections)
    if min_score:
        result |= _confident(scores, data.dataset, predictions, classifier.classes, min_score)
    return result


def _labelled(images: Path | str, labels: str, classes: Classes) -> ImageDataset:
    """Read labelled images; the labels may be new if the run discovered classes."""
    if not unknown_classes(classes):
        return ImageDataset.read(images, classes.names, labels)
    return align_labels(ImageDataset.read(images, None, labels), classes)


def _fitted_on(run: Path | str, images: Path | str) -> bool:
    """Whether a run was fitted on this folder of images."""
    return bool(read_json(Path(run) / "config.json").get("images") == str(Path(images).resolve()))


def _scores(
    dataset: ImageDataset,
    predictions: Predictions,
    classes: Classes,
    baselines: Mapping[str, Probabilities],
) -> Json:
    """Score a run without discovered classes; arguments as for `clustering_scores`."""
    compared = compare(dataset.labels, predictions, classes)
    adapted = compared["adapted"]
    before = compared["zero_shot"]
    ensemble = compared["zero_shot_ensemble"]
    spaces = ("sliced", "mixed", "generalized")
    base_and_new = {
        key: adapted[key] | {"zero_shot": before[key]} for key in spaces if key in adapted
    }
    return {
        "accuracy": adapted["accuracy"],
        "zero_shot_accuracy": before["accuracy"],
        "zero_shot_ensemble_accuracy": ensemble["accuracy"] if ensemble else None,
        "mean_per_class": adapted["mean_per_class"],
        "n": adapted["n"],
        "per_class": adapted["per_class"],
        "confusion": compared["confusion"],
        "calibration_error": compared["calibration_error"],
        "controls": {
            name: all_scores(dataset.labels, rows, classes) for name, rows in baselines.items()
        },
        "warnings": compared["warnings"],
        **base_and_new,
    }


def _confident(
    scores: Callable[..., Json],
    dataset: ImageDataset,
    predictions: Predictions,
    classes: Classes,
    least: float,
) -> Json:
    """Share and scores of the images with a best probability of at least `least`."""
    known = dataset.labels >= 0
    rows = known & (predictions.adapted.max(1) >= least)
    share = {"min_score": least, "n": int(rows.sum()), "share": float(rows[known].mean())}
    if not rows.any():
        return {"sure": share}
    again = scores(dataset[rows], predictions.of(rows), classes, {})
    keys = ("accuracy", "all", "old", "new", "old_fixed")
    return {"sure": share | {key: again[key] for key in keys if key in again}}
