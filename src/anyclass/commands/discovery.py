"""Classes without a name in a run: how many there seem to be, what is kept back, how it is scored.

Letters: N images, K classes.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from anyclass.backbone import Backbone, Part
from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError
from anyclass.estimators.metrics import accuracy, clustering, per_class
from anyclass.estimators.num_classes import Count, estimate_num_classes
from anyclass.features.extract import Embedding, embed, image_features, through, with_own
from anyclass.files import read_json, write_json
from anyclass.log import Log
from anyclass.methods import METHODS
from anyclass.run.progress import Progress
from anyclass.run.scoring import Predictions, Probabilities, unnamed

Json = dict[str, Any]

RESTARTS = 10
"""Of semi-supervised k-means beside a result: a tenth of the official code's, for its time."""

FEW = 5
"""Images that a class needs to count as used."""

NAMES_ONLY = "zero-shot among the labelled classes, which finds no other,"
"""Words for the baseline that knows names alone."""

SEEN = "the run was fitted on these images, and maybe on some of their labels; others are fairer"
"""Said of scores on the folder that a run was fitted on."""

OTHERS = {"kmeans": "k-means", "kmeans_with_labels": "k-means with labels"}
"""The classifiers that discovered classes have to beat: their folders, and words for them."""


def hold_out(dataset: ImageDataset, share: float, seed: int) -> ImageDataset:
    """The images without a share of their labels, which only score.

    Drawn evenly over the labelled images; of each class one at least keeps its label.

    Raises:
        RequestError: there are too few labels.
    """
    if share == 0:
        return dataset
    draw = np.random.default_rng(seed)
    rows = draw.permutation(np.flatnonzero(dataset.labels >= 0))
    kept = rows[np.unique(dataset.labels[rows], return_index=True)[1]]
    hidden = rows[~np.isin(rows, kept)][: round(share * len(rows))]
    if len(hidden) == 0:
        raise RequestError(
            f"--holdout {share:g} of {len(rows)} labelled images keeps none back: label more, "
            "give a larger share, or leave it out"
        )
    labels = dataset.labels.copy()
    labels[hidden] = -1
    return replace(dataset, labels=labels)


def counted(
    clip: Backbone,
    dataset: ImageDataset,
    part: Part,
    seed: int,
    log: Log,
    scratch: Path | None = None,
) -> tuple[ImageDataset, Json]:
    """The images with as many unknown classes as there seem to be, and how sure that is.

    Args:
        clip: the model; its frozen features of all images are grouped.
        dataset: images, all readable, some labelled.
        part: whose trunk outputs are kept.
        seed: of halves and of k-means.
        log: gets the progress.
        scratch: keeps the estimate for a run that is continued.

    Raises:
        RequestError: no class has two labelled images.
    """
    kept = scratch / "classes.json" if scratch else None
    if kept and kept.is_file():
        about = read_json(kept)
    else:
        features = embed(clip, dataset, Embedding(part), log)
        x = image_features(clip, features, part).cpu()
        h = through(partial(clip.pooled, part=part), clip.device, features).to(x)
        y = torch.from_numpy(dataset.labels.copy())
        found = estimate_num_classes(with_own(x, h), x.shape[1], y, log, seed=seed)
        about = estimate(found, int((dataset.labels >= 0).sum()), len(dataset.classes))
    if kept:
        write_json(kept, about)
    if about["unknown"] == 0:
        log(warning="no sign of a class without a name; if there are some, say --unknown N")
    return replace(dataset, classes=replace(dataset.classes, unknown=about["unknown"])), about


def estimate(found: Count, labelled: int, names: int) -> Json:
    """What is to be said of an estimated number of classes.

    Args:
        found: the estimate.
        labelled: how many images have a label.
        names: how many classes have a name; there are no fewer.
    """
    total, (least, most) = max(found.classes, names), found.range
    unknown = total - names
    return {
        "classes": total,
        "unknown": unknown,
        "score": found.curve[found.classes],
        "margin": found.margin,
        "range": [least, most],
        "labelled_pictures": labelled,
        "curve": [{"classes": k, "score": score} for k, score in found.curve.items()],
        "why": (
            f"about {total} classes, {unknown} of them without a name: an estimate from "
            f"{labelled} labelled images. {least} to {most} are possible: with fewer than "
            f"{least} labelled classes run together, with more than {most} they fall apart. "
            "--unknown N sets the number"
        ),
    }


def fit_baselines(
    clip: Backbone, dataset: ImageDataset, classes: Classes, log: Progress
) -> dict[str, Any]:
    """k-means of frozen features, plain and with labels: what discovered classes have to beat.

    Args:
        clip: the model before training.
        dataset: what the method was shown.
        classes: what it made of the classes, so many are found here as well; where none is
            discovered, or none labelled: {}.
        log: gets the progress of embedding.
    """
    if not unnamed(classes) or not classes.labelled:
        return {}
    kind, found = METHODS["kmeans"], dict[str, Any]()
    as_many = replace(dataset.classes, unknown=len(classes) - len(dataset.classes))
    dataset = replace(dataset, classes=as_many)
    with_labels = kind(semi_supervised=True, restarts=RESTARTS)
    for name, method in zip(OTHERS, (kind(), with_labels), strict=True):
        try:
            found[name] = method.fit(clip, dataset, log)
        except RequestError as wrong:
            log.say(f"no {OTHERS[name]} beside it: {wrong}")
    return found


def discovery(
    predicted: Int64[np.ndarray, " N"], classes: Classes, metrics: Json, unseen: bool
) -> Json:
    """What a run says of its discovered classes, {} where there are none.

    Args:
        predicted: class of each image.
        classes: all of them.
        metrics: scores so far.
        unseen: whether labels score that were not learned from. Then `old_fixed` is the share of
            these images, all of labelled classes, that are called by their own class.
    """
    if not unnamed(classes):
        return {}
    sizes, ours = np.bincount(predicted, minlength=len(classes)), metrics["adapted"]
    empty = [name for name, size in zip(classes.names, sizes, strict=True) if size == 0]
    share = ours["accuracy"] if ours and unseen else None
    rows = {NAMES_ONLY: metrics["zero_shot"], **metrics["controls"]}
    others = {name: row["accuracy"] for name, row in rows.items() if row}
    said = [f"no image fell into {', '.join(empty[:5])}: fewer classes may do"] if empty else []
    return {
        "discovery": {
            "classes": len(classes),
            "labelled": len(classes.labelled),
            "used": int((sizes >= FEW).sum()),
            "empty": empty,
            "old_fixed": share,
            "protocol": "transductive",
        },
        "warnings": [
            *metrics["warnings"],
            *said,
            *_beaten("on images with a label", share, others),
        ],
    }


def widened(dataset: ImageDataset, classes: Classes) -> ImageDataset:
    """The images with labels in the numbers of `classes`; names it lacks come after them."""
    more = [name for name in dataset.classes.names if name not in classes.names]
    names = (*classes.names, *more)
    number = np.array([names.index(name) for name in dataset.classes.names] + [-1])
    return replace(dataset, labels=number[dataset.labels], classes=Classes.of(names))


def evaluated(
    dataset: ImageDataset,
    seen: Predictions,
    classes: Classes,
    others: Mapping[str, Probabilities],
    fitted_on: bool = False,
) -> Json:
    """Scores of discovered classes on labelled images, zero-shot and k-means beside them.

    Args:
        dataset: images with labels, their classes `widened`.
        seen: probabilities of the run's classes.
        classes: the run's classes.
        others: probabilities of the same classes by other classifiers, by name.
        fitted_on: whether the run saw these images.
    """
    ours = _clusters(dataset, seen.adapted, classes)
    old = np.where(np.isin(dataset.labels, classes.labelled), dataset.labels, -1)
    controls = {
        name: _clusters(dataset, probabilities, classes) for name, probabilities in others.items()
    }
    fixed = "on images of the labelled classes"
    before = {
        "zero_shot_accuracy": accuracy(old, seen.zero_shot.argmax(1)),
        "zero_shot_ensemble_accuracy": accuracy(old, seen.zero_shot_ensemble.argmax(1)),
    }
    zero_shot = {NAMES_ONLY: before["zero_shot_accuracy"]}
    shares = {OTHERS.get(name, name): row["all"] for name, row in controls.items()}
    return ours | {
        **before,
        "n_old": int((old >= 0).sum()),
        "controls": controls,
        "protocol": "transductive" if fitted_on else "inductive",
        "metric": "clustering accuracy v2",
        "warnings": [
            *([SEEN] if fitted_on else []),
            *_beaten(fixed, ours["old_fixed"], zero_shot),
            *_beaten("on all images", ours["all"], shares),
        ],
    }


def _clusters(dataset: ImageDataset, probabilities: Probabilities, classes: Classes) -> Json:
    """Clustering accuracy with names for numbers."""
    guess, true = probabilities.argmax(1), dataset.labels
    scores = clustering(true, guess, classes.labelled) or {}
    assigned, known = np.array(scores["assignment"]), true >= 0
    hits = assigned[guess[known]] == true[known]
    met = set(guess[known][hits].tolist())
    names, kinds = dataset.classes.names, set(classes.labelled)
    rows = per_class(true, assigned[guess], names)
    return scores | {
        "assignment": {
            name: names[assigned[p]] if p in met else None for p, name in enumerate(classes.names)
        },
        "mean_per_class": scores["per_class"],
        "per_class": [
            row | {"kind": "old" if c in kinds else "new"} for c, row in enumerate(rows) if row["n"]
        ],
    }


def _beaten(what: str, share: float | None, others: Mapping[str, float | None]) -> list[str]:
    """A warning for each of the others that is right more often."""
    return [
        f"{OTHERS.get(name, name)} is right more often {what}: {other:.1%} against {share:.1%}"
        for name, other in others.items()
        if share is not None and other is not None and other > share
    ]
