"""What a run has seen of the images that it is evaluated on: images and labels of its fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from anyclass.data import ImageDataset
from anyclass.data.classes import plural
from anyclass.data.inputs import image_source
from anyclass.features.precomputed import AnyFeatures
from anyclass.features.store import FeatureStore
from anyclass.files import read_json
from anyclass.run.columns import TRAINING_CAVEAT
from anyclass.run.earlier import given_files
from anyclass.run.fitted_images import FittedImages


class SeenImages(NamedTuple):
    """What a run has seen of N images."""

    fitted: Bool[np.ndarray, " N"]
    """Whether it was fitted on each image, with or without a label."""
    trained_on: Bool[np.ndarray, " N"]
    """Whether the label of each image was trained on."""
    all_fitted: bool
    """Whether it was fitted on all of them, or on their folder or file."""


def seen_images(run: Path, images: Any, features: Any, data: AnyFeatures) -> SeenImages:
    """Find the images of a fit by their content; by their names where that is not known.

    Args:
        run: a run folder.
        images: source of the images, as the user gave it; None for features.
        features: source of the features, as the user gave it; None for images.
        data: the N images or features themselves.
    """
    given = given_files(run)
    same = _fitted_on(run, images, features)
    fitted = FittedImages.read(run, given)
    if fitted is not None and isinstance(data, FeatureStore):
        hashes = data.hashes()
        among = fitted.among(hashes)
        return SeenImages(among, fitted.trained_on_among(hashes), same or bool(among.all()))
    trained_on = np.isin(data.dataset.files, list(given)) & same
    return SeenImages(np.full(len(data.dataset), same), trained_on, same)


def hide_trained_labels(dataset: ImageDataset, seen: SeenImages) -> tuple[ImageDataset, list[str]]:
    """Hide labels that a run was trained on, if there are others; return warnings as well."""
    labelled = dataset.labels >= 0
    trained_on = labelled & seen.trained_on
    if trained_on.any() and not (labelled & ~trained_on).any():
        return dataset, [TRAINING_CAVEAT]
    rest = replace(dataset, labels=np.where(trained_on, -1, dataset.labels))
    caveats = []
    if trained_on.any():
        caveats.append(
            f"left out {plural(int(trained_on.sum()), 'label')} that the run was trained on"
        )
    unlabelled = int((labelled & ~trained_on & seen.fitted).sum())
    if unlabelled:
        caveats.append(_transductive(unlabelled, int((labelled & ~trained_on).sum())))
    return rest, caveats


def _fitted_on(run: Path, images: Any, features: Any) -> bool:
    """Whether a run was fitted on this folder of images, or on this file of features."""
    config = read_json(run / "config.json")
    if images is not None:
        source = image_source(images)
        if isinstance(source, Path):
            return bool(config.get("images") == str(source.resolve()))
        files = source.dataset.memory is None
        return files and bool(config.get("images") == str(source.dataset.root))
    is_file = isinstance(features, str | Path)
    return bool(is_file and config.get("features") == str(Path(features).resolve()))


def _transductive(fitted: int, labelled: int) -> str:
    """Warning about images that were fitted on without their labels."""
    return (
        f"{fitted} of {labelled} images are images of the fit, which did not use their labels: "
        "scores of new images may be lower"
    )
