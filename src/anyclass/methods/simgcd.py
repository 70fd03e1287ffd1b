"""SimGCD: a parametric classifier of known and new classes, trained by self-distillation.

Wen, Zhao, Qi, ICCV 2023, arXiv 2211.11727.   Needs: labels for some classes, number of others.

    l_k  = cos(f, c_k),   h = norm(MLP(f))
    p    = softmax(l / 0.1),   q = sg softmax(l / tau),  tau from 0.07 to 0.04
    L_cluster = mean_i H(q_i', p_i)                  i' is the other view of the image of view i
    R    = log K - H(mean_i p_i)                     0 if all classes are equally frequent
    L    = (1 - lambda) (L_cluster + eps R) + lambda H(y, p)
         + (1 - lambda) L_con^u(h) + lambda L_con^s(h)

Letters: N views of B images, K classes, f (N, F) features of the image tower before its
projection, c (K, F) prototypes, MLP from F to E. The last stage of the tower, the MLP and the
prototypes are trained; lambda = 0.35.
"""

from dataclasses import asdict
from math import log as log_of
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import nll_loss, normalize
from tyro.conf import arg

from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.metric_names import STEPS
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.features.extract import pooled_features
from anyclass.features.store import FeatureStore
from anyclass.log import Log
from anyclass.methods.collapse_monitor import STOP_COLLAPSED_FROM, CollapseMonitor
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

NONE = -1
"""Label of an unlabelled view."""

HEAD = 1
"""Seed key of the initial head."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Objective:
    """Loss of one branch."""

    sup_weight: Annotated[float, Field(ge=0, le=1)] = 0.35
    """lambda, weight of the supervised losses (paper: 0.35)."""
    entropy_weight: Annotated[float, Field(ge=0)] = 1.0
    """eps, weight of the entropy regulariser R; lower it for unbalanced classes (official code: 1;
    2 for CUB, 4 for CIFAR-100)."""
    student_temperature: Annotated[float, Field(gt=0)] = 0.1
    """Temperature of p and of the fitted classifier (paper: 0.1)."""
    teacher_temperatures: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (
        0.07,
        0.04,
    )
    """tau, temperature of q in the first epoch and after the warm-up (paper: 0.07, 0.04)."""
    teacher_warmup_epochs: Annotated[int, Field(gt=0)] = 30
    """Epochs of linear warm-up between them; all epochs if there are fewer (paper: 30)."""
    unsup_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the unsupervised contrastive loss (official code: 1)."""
    sup_temperature: Annotated[float, Field(gt=0)] = 0.07
    """Temperature of the supervised contrastive loss (official code: 0.07)."""
    stop_collapsed_from: Annotated[int, Field(ge=0)] | None = STOP_COLLAPSED_FROM
    """Step from which the training stops if nearly all images have been in few classes for three
    epochs; None: it never stops. The first steps of a small folder often look so, and recover."""

    def teacher(self, epoch: int, epochs: int) -> float:
        """tau of an epoch."""
        first, last = self.teacher_temperatures
        warm_up = min(self.teacher_warmup_epochs, epochs)
        return first + (last - first) * min(1.0, epoch / max(1, warm_up - 1))


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class SimGcd:
    """Discovers classes: K prototypes trained by self-distillation between two views."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="SimGCD", situations=(Situation.UNKNOWN,), discovers=True, divisible=("tail",)
    )
    """Facts for lists, planning and the report."""

    tuning: Annotated[TwoViewTuning, arg(name="")] = TwoViewTuning(decay="matrices")
    """Training on pairs of views."""
    objective: Annotated[Objective, arg(name="")] = Objective()
    """Loss."""
    head: Annotated[MlpShape, arg(name="")] = MlpShape()
    """Widths of the MLP."""

    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on labelled and unlabelled images.

        Args:
            data: the model, which is not changed, and readable images, some labelled; the other
                classes are discovered.
            log: receives every loss term, and the metrics of `CollapseMonitor` for each epoch.
            scratch: folder of checkpoints, to resume a killed run; None: no checkpoints.
            seed: random seed.

        Raises:
            RequestError: no label, fewer than two classes, or more classes than images.
            TrainingError: the predictions collapse to few classes, or a loss term is not finite.
        """
        task = TwoViewTask.begin(data, self.tuning, log, seed)
        tuned = task.tuned
        part = task.part
        width = task.width(tuned.pooled)
        head = seeded(lambda: PrototypeHead(width, task.k, self.head), seed, HEAD)
        head.to(data.clip.device)
        stop_from = self.objective.stop_collapsed_from
        monitor = CollapseMonitor(task.k, task.known, stop_from=stop_from)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            monitor.begin(batch, log, "simgcd")
            h, cosines = head(batch.gathered(tuned.pooled(batch.hidden, part)))
            monitor.add((cosines / self.objective.student_temperature).softmax(1))
            tau = self.objective.teacher(batch.step // task.batches.per_epoch, self.tuning.epochs)
            return branch_loss(h, cosines, task.y[batch.index], tau, self.objective)

        checkpoint = Checkpoint.at(scratch and scratch / "training.safetensors", monitor.state)
        parameters = task.parameters(head=head)
        scaler = tuned.loss_scaler()
        optimise(loss, parameters, task.batches, task.schedule, log, checkpoint, scaler)
        with torch.no_grad():
            weights = normalize(head.prototypes, dim=-1)
            predicted = (pooled_features(tuned, task.test, part) @ weights.T).argmax(1)
        record = FitRecord(
            trained_on=data.dataset.labelled.files,
            metrics=monitor.metrics() | {STEPS: len(task.batches)},
            predictions={"predicted": predicted.tolist()},
        )
        representation = Representation((tuned,), saved_part(part), "pooled")
        cosines = CosineHead(weights, 1 / self.objective.student_temperature)
        classes = data.dataset.classes.discovered(task.known)
        return Classifier(representation, cosines, classes, "simgcd", asdict(self), record)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        return workload_of_pairs(self.tuning, "prototypes")


class PrototypeHead(nn.Module):
    """h of a feature, and its cosines with the prototypes."""

    def __init__(self, width: int, classes: int, shape: MlpShape) -> None:
        """Initialise for features of `width` dimensions and K classes."""
        super().__init__()
        self.mlp = perceptron(width, shape)
        self.prototypes = nn.Linear(width, classes, bias=False).weight
        """c (K, F); only the direction of its rows matters."""

    def forward(self, f: Float[Tensor, "N F"]) -> tuple[Float[Tensor, "N E"], Float[Tensor, "N K"]]:
        """Unit h, and l, the cosines."""
        cosines = normalize(f, dim=-1) @ normalize(self.prototypes, dim=-1).T
        return normalize(self.mlp(f), dim=-1), cosines


def branch_loss(
    h: Float[Tensor, "N E"],
    cosines: Float[Tensor, "N K"],
    labels: Int[Tensor, " N"],
    tau: float,
    objective: Objective,
) -> dict[str, Float[Tensor, ""]]:
    """Weighted terms of L; views i and i + N / 2 are of the same image, label -1: unlabelled."""
    supervised = objective.sup_weight  # lambda
    unsupervised = 1 - supervised
    log_p = (cosines / objective.student_temperature).log_softmax(dim=1)
    between_views = unsupervised_contrast(h, objective.unsup_temperature)  # L_con^u(h)
    between_labels = supervised_contrast(h, labels, objective.sup_temperature)  # L_con^s(h)
    return {
        "cluster_loss": unsupervised * cluster_loss(log_p, cosines, tau),
        "entropy_loss": unsupervised * objective.entropy_weight * entropy_gap(log_p),  # eps R
        "label_loss": supervised * label_loss(log_p, labels),  # H(y, p)
        "views_loss": unsupervised * between_views,
        "classes_loss": supervised * between_labels,
    }


def cluster_loss(
    log_p: Float[Tensor, "N K"], cosines: Float[Tensor, "N K"], tau: float
) -> Float[Tensor, ""]:
    """L_cluster: cross-entropy of each view with its image's other view as detached teacher."""
    q = (cosines.detach() / tau).softmax(dim=1).roll(len(log_p) // 2, dims=0)  # q_i'
    return -torch.einsum("nk,nk->n", q, log_p).mean()  # L_cluster


def entropy_gap(log_p: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
    """R = log K - H(mean_i p_i)."""
    mean = log_p.exp().mean(0)
    return log_of(len(mean)) + torch.xlogy(mean, mean).sum()


def label_loss(log_p: Float[Tensor, "N K"], labels: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of the labelled views; 0 if there are none."""
    total = nll_loss(log_p, labels, ignore_index=NONE, reduction="sum")
    return total / (labels != NONE).sum().clamp_min(1)
