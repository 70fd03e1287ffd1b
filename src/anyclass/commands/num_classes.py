"""Estimate of the number of classes without a name, from labels if there are any."""

from pathlib import Path

import torch

from anyclass.backbone import Part
from anyclass.estimators.num_classes import Count, count_classes
from anyclass.features.precomputed import AnyFeatures
from anyclass.files import Json, read_json, write_json
from anyclass.log import Log


def estimate_unknown(
    data: AnyFeatures, part: Part, seed: int, log: Log, scratch: Path | None = None
) -> Json:
    """Estimate the number of classes without a name, with its uncertainty.

    Args:
        data: the model and images, all readable; frozen features are clustered.
        part: part of the model whose trunk outputs are cached.
        seed: random seed of label splits and of k-means.
        log: gets the progress.
        scratch: folder that stores the estimate for a continued run.

    Returns:
        The content of `classes_estimated` in `metrics.json`.
    """
    stored = scratch / "classes.json" if scratch else None
    if stored and stored.is_file():
        estimate: Json = read_json(stored)
    else:
        estimate = _estimate(data, part, seed, log)
        if stored:
            write_json(stored, estimate)
    if estimate["unknown"] == 0:
        log(warning="no class without a name was found; if there are some, set --unknown N")
    return estimate


def _estimate(data: AnyFeatures, part: Part, seed: int, log: Log) -> Json:
    """Estimate from the frozen features of all images."""
    x = data.image_features(part, log).cpu()
    h = data.backbone_features(part, log).to(x)
    y = torch.from_numpy(data.dataset.labels.copy())
    count = count_classes(x, y, log, extra=h, seed=seed)
    labelled = y[y >= 0]
    enough = int((labelled.bincount() >= 2).sum()) >= 2
    return describe_estimate(count, len(labelled) if enough else 0, len(data.dataset.classes))


def describe_estimate(count: Count, labelled: int, names: int) -> Json:
    """Convert an estimated number of classes to JSON, with an explanation.

    Args:
        count: the estimate.
        labelled: number of labelled images that it comes from; 0: there are too few.
        names: number of classes with a name, a lower bound of the estimate.
    """
    least, most = count.range
    total = max(count.classes, names)
    unknown = total - names
    return {
        "classes": total,
        "unknown": unknown,
        "score": count.curve[count.classes],
        "margin": count.margin,
        "range": [least, most],
        "labelled_images": labelled,
        "curve": [{"classes": k, "score": score} for k, score in count.curve.items()],
        "why": (
            f"about {total} classes, {unknown} of them without a name: "
            f"{_evidence(labelled, least, most)}. --unknown N sets the number"
        ),
    }


def _evidence(labelled: int, least: int, most: int) -> str:
    """What an estimate rests on."""
    if not labelled:
        return (
            "an estimate from how well the images group, since fewer than two classes have two "
            f"labelled images; {least} to {most} fit nearly as well"
        )
    return (
        f"an estimate from {labelled} labelled images. {least} to {most} are plausible: with fewer "
        f"than {least} labelled classes merge, with more than {most} they split"
    )
