"""`evaluate`: score a classifier on labelled images."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone, EngineName
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.precomputed import NO_MODEL
from anyclass.commands.baselines import load_baselines
from anyclass.commands.precomputed import for_features, of_run
from anyclass.commands.predict import load_base, load_classifier, model_of
from anyclass.commands.request import FILE, FOLDER, check_share, check_source
from anyclass.commands.seen_images import hide_trained_labels, seen_images
from anyclass.data import Classes, ImageDataset
from anyclass.data.feature_dataset import feature_dataset
from anyclass.data.feature_tables import FeatureTable, read_features
from anyclass.data.label_inputs import read_images
from anyclass.errors import RequestError, UnlistedLabelError
from anyclass.features.cache import Embedding, cached_part
from anyclass.features.precomputed import AnyFeatures
from anyclass.features.store import FeatureStore
from anyclass.files import Json
from anyclass.run.clustering_scores import align_labels, aligned, clustering_scores
from anyclass.run.folder import check_finished
from anyclass.run.predict import predict_adapted, predict_all
from anyclass.run.predictions import AllPredictions, Probabilities
from anyclass.run.progress import Callback, Progress
from anyclass.run.scoring import all_scores, compare


def evaluate(
    run: Path | str,
    images: Annotated[Any, FOLDER] = None,
    labels: Annotated[Any, arg(metavar="folders|FILE", constructor=str)] = None,
    device: str = "auto",
    engine: EngineName = "auto",
    allow_pickle: bool = False,
    min_score: float = 0.0,
    prompt_ensemble: bool = True,
    features: Annotated[Any, FILE] = None,
    extra: Annotated[Any, FILE] = None,
    model: str | None = None,
    callback: Suppress[Callback | None] = None,
) -> Json:
    """Score a fitted run on labelled images, compared with zero-shot and baselines.

    Args:
        run: a run folder.
        images: folder of labelled images.
        labels: `folders` (the default for images): the parent folder of an image is its label. Or
            a table with the columns file_name and label: CSV, Parquet or JSONL. The default for
            features: the labels in their file.
        device: device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.
        engine: engine of the frozen image encoder: auto takes the fastest on a CPU that agrees with
            torch; on a GPU it is torch, and bf16 can be asked for.
        allow_pickle: accept weights from a local folder that are not safetensors. They can run
            code: use it for sources you trust.
        min_score: also score the images with a score of at least this, for a classifier that may
            abstain.
        prompt_ensemble: also score zero-shot with an ensemble of 80 prompt templates. Turn it off
            for thousands of classes: encoding 80 texts per class takes minutes the first time.
        features: features of the images instead, by the model of the run: a file; in Python also an
            array.
        extra: with --features: further features, if the run had such, in the same way.
        model: where the model of the run is now, if it has moved: `local-dir:FOLDER`, or a name.
            Its weights must be those of the fit.
        callback: gets `done` and `total`.

    Returns:
        accuracy, zero_shot_accuracy, zero_shot_ensemble_accuracy, mean_per_class, n, rejected,
        per_class, confusion (with more than 500 classes confusion_counts: true, predicted, count),
        majority (the answer that is always the most frequent class), calibration_error, controls
        (scores of baselines) and warnings. If some classes were labelled and others only named,
        also base, new and harmonic_mean of the run and of zero-shot: within each group of classes
        (`sliced`), over all classes (`mixed`), and over all classes as means over classes
        (`generalized`). If classes were discovered, labels may be new to the run, and the result is
        all, old, new, old_fixed, nmi, ari, assignment and per_class, clustering accuracies; old are
        the classes with a name, and zero-shot is scored on their images alone. `calibration`
        compares the scores of images whose label was not given to the run with the share of them
        that is right. With `min_score` also `sure`: share and scores of the images that reach it.

    Raises:
        RequestError: there is no fitted run, no labelled image, or a label that is none of its
            classes.
    """
    check_share(min_score, "--min-score")
    check_finished(Path(run))
    check_source(images, features, extra, engine)
    model = model_of(run, model)
    base = load_base(run, model, device, allow_pickle, engine) if model else None
    classifier = load_classifier(run, device, allow_pickle, engine, base, model)
    baselines = load_baselines(run, base, device, allow_pickle, engine)
    with Progress(callback=callback) as log, _run_knows_the_labels(run):
        if images is None:
            data = _of_features(read_features(features, extra), labels, classifier, base)
            rejected = 0
            classifier = for_features(classifier)
            baselines = {name: for_features(other) for name, other in baselines.items()}
        else:
            labels = "folders" if labels is None else labels
            data, rejected = _of_images(images, labels, classifier, base, log)
        for sentence in data.dataset.skipped:
            log.say(sentence)
        seen = seen_images(Path(run), images, features, data)
        fair, caveats = hide_trained_labels(data.dataset, seen)
        data = data.of(fair)
        _check_labels(data, images, features)
        predictions = predict_all(data, classifier, log, prompt_ensemble)
        others = {
            name: aligned(predict_adapted(data, other, log), other.classes, classifier.classes)
            for name, other in baselines.items()
        }
    scores: Callable[..., Json] = _scores
    if classifier.classes.discovered_names:
        scores = partial(clustering_scores, fitted_on=seen.all_fitted)
    result = scores(data.dataset, predictions, classifier.classes, others)
    result["rejected"] = rejected
    result["warnings"] = [*caveats, *result["warnings"]]
    if min_score:
        result |= _confident(scores, data.dataset, predictions, classifier.classes, min_score)
    return result


@contextmanager
def _run_knows_the_labels(run: Path | str) -> Iterator[None]:
    """Say how a run gets the classes that only the evaluated labels have.

    Raises:
        RequestError: there are such labels.
    """
    try:
        yield
    except UnlistedLabelError as error:
        again = shlex.join(["anyclass", "fit", "auto", "--from", str(run)])
        raise RequestError(
            f"{error.problem}The list is that of {run}. To find N further classes without labels: "
            f"`{again} --unknown N --out NEW_RUN`; with --classes or --labels it gets those that "
            "you name."
        ) from error


def _of_images(
    images: Any, labels: Any, classifier: Classifier, base: Backbone | None, log: Progress
) -> tuple[AnyFeatures, int]:
    """Readable labelled images, and the number of rejected ones."""
    if base is None:
        raise RequestError(NO_MODEL)
    dataset = _labelled(images, labels, classifier.classes)
    data = FeatureStore(base, dataset)
    found = data.embed(Embedding(cached_part(classifier.representation.part)), log)
    return data.of(dataset[found.ok]), len(found.rejections)


def _of_features(
    table: FeatureTable, labels: Any, classifier: Classifier, base: Backbone | None
) -> AnyFeatures:
    """Labelled features; the labels may be new if the run discovered classes."""
    classes = classifier.classes
    if classes.discovered_names:
        whole = feature_dataset(table, None, None, labels)
        return of_run(classifier, table, align_labels(whole, classes), base)
    return of_run(classifier, table, feature_dataset(table, None, classes.names, labels), base)


def _labelled(images: Any, labels: Any, classes: Classes) -> ImageDataset:
    """Read labelled images; the labels may be new if the run discovered classes."""
    if not classes.discovered_names:
        return read_images(images, classes.names, labels)
    return align_labels(read_images(images, None, labels), classes)


def _check_labels(data: AnyFeatures, images: Any, features: Any) -> None:
    """Require a label.

    Raises:
        RequestError: no image has one.
    """
    if not (data.dataset.labels >= 0).any():
        raise RequestError(
            f"no readable image{_of(images, features)} has a label: sort the images into class "
            "folders, or give a table (--labels FILE)"
        )


def _of(images: Any, features: Any) -> str:
    """The place of images or features, for a message; nothing if they are in memory."""
    place = features if images is None else images
    return f" of {place!s:.200}" if isinstance(place, str | Path) else ""


def _scores(
    dataset: ImageDataset,
    predictions: AllPredictions,
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
    kept = ("confusion", "confusion_counts")
    confusion = {key: compared[key] for key in kept if key in compared}
    beside = {name: all_scores(dataset.labels, p, classes) for name, p in baselines.items()}
    return {
        "accuracy": adapted["accuracy"],
        "zero_shot_accuracy": before["accuracy"],
        "zero_shot_ensemble_accuracy": ensemble["accuracy"] if ensemble else None,
        "mean_per_class": adapted["mean_per_class"],
        "n": adapted["n"],
        "per_class": adapted["per_class"],
        **confusion,
        "majority": compared["majority"],
        "calibration_error": compared["calibration_error"],
        "controls": beside,
        "warnings": compared["warnings"],
        **base_and_new,
    }


def _confident(
    scores: Callable[..., Json],
    dataset: ImageDataset,
    predictions: AllPredictions,
    classes: Classes,
    least: float,
) -> Json:
    """Share and scores of the images with a score of at least `least`."""
    known = dataset.labels >= 0
    rows = known & (predictions.confidence() >= least)
    share = {"min_score": least, "n": int(rows.sum()), "share": float(rows[known].mean())}
    if not rows.any():
        return {"sure": share}
    again = scores(dataset[rows], predictions.of(rows), classes, {})
    keys = ("accuracy", "all", "old", "new", "old_fixed")
    return {"sure": share | {key: again[key] for key in keys if key in again}}
