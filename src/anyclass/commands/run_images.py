"""The training images of a finished run: their rows and probabilities, without a new fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from anyclass.classifier.class_edits import ClassEdits
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.edited_probabilities import gate_logits
from anyclass.classifier.heads import fitted_head
from anyclass.classifier.precomputed import feature_rows
from anyclass.commands.precomputed import of_run
from anyclass.commands.predict import load_base, load_classifier
from anyclass.commands.request import was_array
from anyclass.data import ImageDataset
from anyclass.data.feature_dataset import feature_dataset
from anyclass.data.feature_tables import read_features
from anyclass.errors import RequestError
from anyclass.features.precomputed import AnyFeatures
from anyclass.features.store import FeatureStore
from anyclass.files import Json, read_json
from anyclass.log import Log
from anyclass.run.probabilities import ImageProbabilities


class ImageRows(NamedTuple):
    """The classifier of a run, and rows of its training images."""

    classifier: Classifier
    """The classifier."""
    rows: Float[Tensor, "M E"]
    """Rows of its representation, on the CPU."""

    @torch.no_grad()
    def probabilities(self, edits: ClassEdits) -> ImageProbabilities:
        """Probabilities of the fitted classes, and the gates of splits."""
        device = self.classifier.representation.device
        head = fitted_head(self.classifier.head)
        parts = [head.logits(part.to(device)).softmax(1).cpu() for part in self.rows.split(4096)]
        return ImageProbabilities(torch.cat(parts), gate_logits(edits, self.rows))


@torch.no_grad()
def image_rows(
    run: Path, files: Sequence[str], log: Log, images: ImageDataset | None = None
) -> ImageRows:
    """Rows of the training images; features that are in the cache are not computed again.

    Args:
        run: the run folder.
        files: the images.
        log: gets the progress.
        images: the images of the run, if they are not to be read from where it found them.

    Raises:
        RequestError: images or features of the run are no longer there.
        ModelError: its model is damaged, or not there.
    """
    config = read_json(run / "config.json")
    model = config["model"]
    device = config["device"]
    engine = config["engine"]
    base = load_base(run, model, device, False, engine) if model else None
    classifier = load_classifier(run, device, engine=engine, base=base)
    data: AnyFeatures
    if base is None:
        data = _features(config, classifier)
    elif images is not None:
        data = FeatureStore(base, images)
    elif config["images"] is None:
        raise RequestError(f"{run} does not say where its images are, and they are needed")
    else:
        data = FeatureStore(base, ImageDataset.read(config["images"]))
    order = {file: i for i, file in enumerate(data.dataset.files)}
    missing = [file for file in files if file not in order]
    if missing:
        raise RequestError(
            f"{config['images'] or config['features']} has no {missing[0]!r:.100} any more, nor "
            f"{len(missing) - 1} others of {len(files)}: the images of the run are needed"
        )
    wanted = [order[file] for file in files]
    if isinstance(data, FeatureStore):
        data = data.of(data.dataset[wanted])
        return ImageRows(classifier, _rows(classifier, data, log))
    return ImageRows(classifier, _rows(classifier, data, log)[torch.tensor(wanted)])


def _rows(classifier: Classifier, data: AnyFeatures, log: Log) -> Float[Tensor, "N E"]:
    """Rows of all images, on the CPU."""
    blocks = feature_rows(classifier.representation, data, log)
    return torch.cat([rows.cpu() for rows in blocks])


def _features(config: Json, classifier: Classifier) -> AnyFeatures:
    """The features that a run was fitted on.

    Raises:
        RequestError: they were an array, which is not kept.
    """
    for source in (config["features"], config.get("extra")):
        if was_array(source):
            raise RequestError(
                "the run was fitted on an array, which is not kept: use `Classifier.split` with "
                "the array in Python"
            )
    table = read_features(config["features"], config.get("extra"))
    return of_run(classifier, table, feature_dataset(table, None, None, None), None)
