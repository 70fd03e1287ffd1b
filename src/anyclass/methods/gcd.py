"""GCD: contrastive training with and without labels, then semi-supervised k-means.

Vaze et al., CVPR 2022, arXiv 2201.02609.   Needs: labels for some classes, number of others.

    h = norm(W norm(MLP(v)))
    L = (1 - lambda) L_con^u(h) + lambda L_con^s(h)
    then semi-supervised k-means of norm(v), by the trained tower

Letters: N views of B images, v (N, F) features of the image tower before its projection, MLP from
F to E, W (P, E) unit rows, h (N, P). The last stage of the tower, MLP and W are trained; MLP and W
are discarded; lambda = 0.35.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, ClassVar

from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import normalize
from tyro.conf import arg

from anyclass.classifier.classifier import Classifier
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.estimators.kmeans import (
    UNCALIBRATED,
    centroid_bias,
    nearest_centre,
    semi_supervised_kmeans,
)
from anyclass.estimators.linear import Linear
from anyclass.features.extract import pooled_features
from anyclass.features.store import FeatureStore
from anyclass.log import Log
from anyclass.methods.gcd_common import (
    MlpShape,
    TwoViewTask,
    perceptron,
    saved_part,
    seeded,
    workload_of_pairs,
)
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.workload import Workload
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.losses import supervised_contrast, unsupervised_contrast
from anyclass.training.two_views import TwoViewTuning

HEAD = 1
"""Seed key of the initial head."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Gcd:
    """Discovers classes: contrastive training, then semi-supervised k-means."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="GCD", situations=(Situation.UNKNOWN,), discovers=True, divisible=("tail",)
    )
    """Facts for lists, planning and the report."""

    tuning: Annotated[TwoViewTuning, arg(name="")] = TwoViewTuning()
    """Training on pairs of views."""
    head: Annotated[MlpShape, arg(name="")] = MlpShape()
    """Widths of the MLP."""
    rows: Annotated[int, Field(gt=0)] = 65_536
    """P, outputs of the head (the number of rows of W; released code: 65,536)."""
    sup_weight: Annotated[float, Field(ge=0, le=1)] = 0.35
    """lambda, weight of the supervised contrastive loss (paper: 0.35)."""
    unsup_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the unsupervised contrastive loss (official code: 1)."""
    sup_temperature: Annotated[float, Field(gt=0)] = 0.07
    """Temperature of the supervised contrastive loss (official code: 0.07)."""
    restarts: Annotated[int, Field(gt=0)] = 100
    """Restarts of k-means, of which the best is kept."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Temperature of the predicted probabilities, softmax(-|x - mu|^2 / 2 temperature); None: that
    at which the mean score is the share of images on which clusterings agree. Classes do not depend
    on it."""

    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on labelled and unlabelled images.

        Args:
            data: the model, which is not changed, and readable images, some labelled; the other
                classes are discovered.
            log: receives both loss terms.
            scratch: folder of checkpoints, to resume a killed run; None: no checkpoints.
            seed: random seed.

        Raises:
            RequestError: no label, fewer than two classes, or more classes than images.
            TrainingError: a loss term is not finite.
        """
        task = TwoViewTask.begin(data, self.tuning, log, seed)
        tuned = task.tuned
        part = task.part
        width = task.width(tuned.pooled)
        head = seeded(lambda: ContrastHead(width, self.head, self.rows), seed, HEAD)
        head.to(data.clip.device)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            h = head(batch.gathered(tuned.pooled(batch.hidden, part)))
            labels = task.y[batch.index]
            between_views = unsupervised_contrast(h, self.unsup_temperature)  # L_con^u(h)
            between_labels = supervised_contrast(h, labels, self.sup_temperature)  # L_con^s(h)
            return {
                "views_loss": (1 - self.sup_weight) * between_views,
                "classes_loss": self.sup_weight * between_labels,
            }

        checkpoint = Checkpoint.at(scratch and scratch / "training.safetensors")
        parameters = task.parameters(head=head)
        scaler = tuned.loss_scaler()
        optimise(loss, parameters, task.batches, task.schedule, log, checkpoint, scaler)
        x = pooled_features(tuned, task.test, part)  # (N, F)
        found = semi_supervised_kmeans(x, task.y, task.k, self.restarts, seed=seed % 2**32)
        record = FitRecord(
            trained_on=data.dataset.labelled.files,
            predictions={"predicted": nearest_centre(x, found.centres).tolist()},
            inertia=found.inertia,
        )
        representation = Representation((tuned,), saved_part(part), "pooled")
        linear = Linear(
            found.centres, centroid_bias(found.centres), 1 / (self.temperature or UNCALIBRATED)
        )
        classes = data.dataset.classes.discovered(task.known)
        return Classifier(representation, linear, classes, "gcd", asdict(self), record)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        return workload_of_pairs(self.tuning, "further")


class ContrastHead(nn.Module):
    """Head of the contrastive losses: h of a feature v."""

    def __init__(self, width: int, shape: MlpShape, rows: int) -> None:
        """Initialise for features of `width` dimensions."""
        super().__init__()
        self.mlp = perceptron(width, shape)
        self.w = nn.Linear(shape.h_width, rows, bias=False).weight
        """W (P, E); only the direction of its rows matters."""

    def forward(self, v: Float[Tensor, "N F"]) -> Float[Tensor, "N P"]:
        """h = norm(W norm(MLP(v)))."""
        h = normalize(self.mlp(v), dim=-1) @ normalize(self.w, dim=-1).T
        return normalize(h, dim=-1)
