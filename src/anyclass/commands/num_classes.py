"""Estimate of the number of classes without a name, from the labelled images of a request."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from anyclass.backbone import Part
from anyclass.estimators.num_classes import Count, estimate_num_classes
from anyclass.features.cache import Embedding
from anyclass.features.extract import map_rows, stack_features
from anyclass.features.store import FeatureStore
from anyclass.files import read_json, write_json
from anyclass.log import Log

Json = dict[str, Any]


def estimate_unknown(
    data: FeatureStore, part: Part, seed: int, log: Log, scratch: Path | None = None
) -> Json:
    """Estimate the number of classes without a name, with its uncertainty.

    Args:
        data: the model and images, all readable, some labelled; frozen features are clustered.
        part: part of the model whose trunk outputs are cached.
        seed: random seed of label splits and of k-means.
        log: gets the progress.
        scratch: folder that stores the estimate for a continued run.

    Returns:
        The content of `classes_estimated` in `metrics.json`.

    Raises:
        RequestError: no class has two labelled images.
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


def _estimate(data: FeatureStore, part: Part, seed: int, log: Log) -> Json:
    """Estimate from the frozen features of all images."""
    clip = data.clip
    x = data.image_features(part, log).cpu()
    hidden = data.embed(Embedding(part), log)
    h = map_rows(partial(clip.pooled, part=part), clip.device, hidden).to(x)
    y = torch.from_numpy(data.dataset.labels.copy())
    count = estimate_num_classes(stack_features(x, h), x.shape[1], y, log, seed=seed)
    return describe_estimate(count, int((y >= 0).sum()), len(data.dataset.classes))


def describe_estimate(count: Count, labelled: int, names: int) -> Json:
    """Convert an estimated number of classes to JSON, with an explanation.

    Args:
        count: the estimate.
        labelled: number of labelled images.
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
        "labelled_pictures": labelled,
        "curve": [{"classes": k, "score": score} for k, score in count.curve.items()],
        "why": (
            f"about {total} classes, {unknown} of them without a name: an estimate from "
            f"{labelled} labelled images. {least} to {most} are plausible: with fewer than "
            f"{least} labelled classes merge, with more than {most} they split. "
            "--unknown N sets the number"
        ),
    }
