"""GCD: contrast between views and between labels, then k-means with some labels.

Vaze et al., CVPR 2022, arXiv 2201.02609.   Needs: labels for some classes, and how many others.

    h = norm(W norm(MLP(v)))
    L = (1 - lambda) L_con^u(h) + lambda L_con^s(h)
    then semi-supervised k-means of v, by the trained tower, as unit vectors

Letters: N views of B images, v (N, F) features of the image tower before its projection, MLP from
F to E, W (P, E) unit rows, h (N, P). The last stage of the tower is trained; MLP and W are thrown
away; lambda = 0.35.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import normalize
from tyro.conf import arg

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.estimators.kmeans import centroid_bias, nearest, semi_supervised_kmeans
from anyclass.features.extract import Embedding, embed, pooled_features
from anyclass.log import Log
from anyclass.methods.gcd_common import (
    HeadShape,
    kept_part,
    labelled_classes,
    last_stage,
    perceptron,
    prefixed,
    seeded,
)
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.losses import supervised_contrast, unsupervised_contrast
from anyclass.training.two_views import TwoViewTuning

HEAD = 1
"""Names the random numbers that the head begins with."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Gcd:
    """Discovers classes: trains features by contrast, then groups them."""

    discovers: ClassVar[bool] = True
    """It finds classes that have no name."""

    tuning: Annotated[TwoViewTuning, arg(name="")] = TwoViewTuning()
    """What is trained, and how."""
    head: Annotated[HeadShape, arg(name="")] = HeadShape()
    """Widths of the MLP."""
    rows: Annotated[int, Field(gt=0)] = 65_536
    """P, rows of W."""
    sup_weight: Annotated[float, Field(ge=0, le=1)] = 0.35
    """lambda, share of the contrast between labels."""
    unsup_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the contrast between views."""
    sup_temperature: Annotated[float, Field(gt=0)] = 0.07
    """Of the contrast between labels."""
    restarts: Annotated[int, Field(gt=0)] = 100
    """Of k-means; the best one counts."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Of probabilities, softmax(-|x - mu|^2 / 2 temperature)."""

    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from labelled and unlabelled images.

        Args:
            clip: the model; it is left as it is.
            dataset: images, all readable, some labelled; classes beyond those are discovered.
            log: gets both terms.
            scratch: folder for what a run after a kill goes on from; None keeps nothing.

        Raises:
            RequestError: no label, fewer than two classes or more than images.
            TrainingError: a term is not finite.
        """
        known, k = labelled_classes(dataset), dataset.classes.total
        seed, tuned, part = torch.initial_seed(), clip.copy(), self.tuning.tune
        views = self.tuning.embed(clip, dataset, log, seed)
        features = embed(clip, dataset, Embedding(part), log)
        width = tuned.pooled(features[[0]][:, 0].to(clip.device), part).shape[1]
        head = seeded(lambda: ContrastHead(width, self.head, self.rows), seed, HEAD)
        head.to(clip.device)
        y = torch.from_numpy(dataset.labels.copy()).to(clip.device)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            h, labels = head(tuned.pooled(batch.hidden, part)), y[batch.index]
            between_views = unsupervised_contrast(h, self.unsup_temperature)
            between_labels = supervised_contrast(h, labels, self.sup_temperature)
            return {
                "views_loss": (1 - self.sup_weight) * between_views,
                "classes_loss": self.sup_weight * between_labels,
            }

        trained = last_stage(tuned, part) | prefixed(head=head)
        batches = self.tuning.pairs(tuned, dataset, views, seed)
        keep = Checkpoint(scratch / "training.safetensors", {}) if scratch else None
        optimise(loss, trained, batches, self.tuning.schedule(clip, len(dataset)), log, keep)
        x = pooled_features(tuned, features, part)  # (N, F)
        found = semi_supervised_kmeans(x, y, k, self.restarts, seed=seed % 2**32)
        record = {
            "predicted": nearest(x, found.centres).tolist(),
            "inertia": found.inertia,
            "learned_from": dataset.labelled.files,
        }
        about = (dataset.classes.discovered(known), found.centres, "gcd", asdict(self), record)
        bias, scale = centroid_bias(found.centres), 1 / self.temperature
        return Classifier(tuned, kept_part(part), *about, pooled=True, bias=bias, scale=scale)


class ContrastHead(nn.Module):
    """What the contrast reads of a feature."""

    def __init__(self, width: int, shape: HeadShape, rows: int) -> None:
        """For features of `width` dimensions."""
        super().__init__()
        self.mlp = perceptron(width, shape)
        self.w = nn.Linear(shape.h_width, rows, bias=False).weight
        """W (P, E); only the direction of its rows matters."""

    def forward(self, v: Float[Tensor, "N F"]) -> Float[Tensor, "N P"]:
        """The features that are contrasted, h."""
        h = normalize(self.mlp(v), dim=-1) @ normalize(self.w, dim=-1).T
        return normalize(h, dim=-1)
