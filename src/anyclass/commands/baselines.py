"""Baseline classifiers that are compared with the result of a run: k-means, a linear probe."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from anyclass.backbone import Backbone, EngineName
from anyclass.backbone.device import torch_device
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.precomputed import represent
from anyclass.data import Classes
from anyclass.errors import RequestError
from anyclass.estimators.linear_probe import linear_probe
from anyclass.features.precomputed import AnyFeatures
from anyclass.log import Log
from anyclass.methods import METHODS
from anyclass.run.baselines import FITTED, KMEANS, KMEANS_WITH_LABELS, LINEAR_PROBE
from anyclass.run.folder import BASELINES
from anyclass.run.predict import predict_adapted
from anyclass.run.progress import Progress
from anyclass.run.scoring import all_scores

RESTARTS = 10
"""Restarts of semi-supervised k-means as a baseline: a tenth of the official code's, for speed."""


def fit_baselines(
    data: AnyFeatures, classes: Classes, log: Progress, seed: int
) -> dict[str, Classifier]:
    """Fit k-means on frozen features, without and with labels, as baselines of class discovery.

    Args:
        data: the model before training, and the images as the method received them.
        classes: classes of the method's result; k-means finds as many clusters.
        log: gets the progress of embedding.
        seed: random seed.

    Returns:
        Baselines by name; none if no class was discovered or no class is labelled.
    """
    if not classes.discovered_names or not classes.labelled:
        return {}
    kmeans = METHODS["kmeans"]
    data = data.of(data.dataset.with_unknown(len(classes) - len(data.dataset.classes)))
    methods: dict[str, Any] = {  # k-means takes features as well
        KMEANS: kmeans(),
        KMEANS_WITH_LABELS: kmeans(semi_supervised=True, restarts=RESTARTS),
    }
    baselines: dict[str, Classifier] = {}
    for name, method in methods.items():
        try:
            baselines[name] = method.fit(data, log, seed=seed)
        except RequestError as error:
            log.say(f"no {FITTED[name]} as a baseline: {error}")
    return baselines


def fit_probe(
    data: AnyFeatures,
    trained_on: Bool[np.ndarray, " N"],
    classes: Classes,
    log: Progress,
    seed: int,
) -> dict[str, Classifier]:
    """Fit the baseline of runs without discovered classes: a linear probe on the same labels.

    Args:
        data: the model before training, and the N images as the method received them.
        trained_on: whether the label of each image was trained on.
        classes: classes of the method's result.
        log: gets the progress of embedding.
        seed: random seed.

    Returns:
        The probe by its name; nothing if fewer than two classes have such labels, or if there are
        discovered classes.
    """
    if classes.discovered_names or not trained_on.any():
        return {}
    known = torch.from_numpy(trained_on)
    labels = torch.from_numpy(data.dataset.labels.copy())
    x = data.image_features("head", log).cpu()
    head = linear_probe(x[known], labels[known], len(classes), seed)
    if head is None:
        return {}
    weights = head.weights.to(data.device)
    head = replace(head, weights=weights, bias=head.intercept.to(data.device))
    return {LINEAR_PROBE: Classifier(represent(data, "projected"), head, classes, LINEAR_PROBE)}


def score_baselines(
    data: AnyFeatures, baselines: Mapping[str, Classifier], log: Log
) -> dict[str, Any]:
    """Score the baselines, by name; None without labels.

    Args:
        data: the model before training, and images, all readable, with the labels that score.
        baselines: classifiers by name.
        log: gets the progress of embedding.
    """
    scores = {}
    for name, baseline in baselines.items():
        found = predict_adapted(data, baseline, log)
        scores[name] = all_scores(data.dataset.labels, found, baseline.classes)
    return scores


def load_baselines(
    run: Path | str, base: Backbone | None, device: str, allow_pickle: bool, engine: EngineName
) -> dict[str, Classifier]:
    """Load the baselines of a run, by name.

    Args:
        run: a run folder.
        base: the untrained model that all of them share; None: they were fitted on features.
        device: auto, cpu, cuda, cuda:1 or mps.
        allow_pickle: accept weights that are not safetensors.
        engine: engine of the frozen image encoder.
    """
    folders = sorted(path.parent for path in Path(run).glob(f"{BASELINES}/*/classifier.json"))
    target = torch_device(device)
    model = None if base is None else base.model_id
    return {
        folder.name: Classifier.load(folder, target, allow_pickle, engine, base, model=model)
        for folder in folders
    }
