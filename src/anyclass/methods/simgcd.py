"""SimGCD: one parametric classifier for known and new classes, taught by itself.

Wen, Zhao, Qi, ICCV 2023, arXiv 2211.11727.   Needs: labels for some classes, and how many others.

    l_k  = cos(f, c_k),   h = norm(MLP(f))
    p    = softmax(l / 0.1),   q = sg softmax(l / tau),  tau from 0.07 to 0.04
    L_cluster = mean_i H(q_i', p_i)                  i' is the other view of the image of view i
    R    = log K - H(mean_i p_i)                     0 where all classes are used alike
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

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.features.extract import Embedding, embed, pooled_features
from anyclass.log import Log
from anyclass.methods.gcd_common import (
    CollapseMonitor,
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

NONE = -1
"""Label of an unlabelled view."""

HEAD = 1
"""Names the random numbers that a head begins with."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Objective:
    """What one branch minimises."""

    sup_weight: Annotated[float, Field(ge=0, le=1)] = 0.35
    """lambda, share of the losses that read labels."""
    entropy_weight: Annotated[float, Field(ge=0)] = 1.0
    """eps, of using all classes alike; 2 for CUB, 4 for CIFAR-100, less for unbalanced sets."""
    student_temperature: Annotated[float, Field(gt=0)] = 0.1
    """Of p, and of the fitted classifier."""
    teacher_temperatures: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (
        0.07,
        0.04,
    )
    """tau, of q: in the first epoch, and after the warm-up."""
    teacher_warmup_epochs: Annotated[int, Field(gt=0)] = 30
    """Epochs on the line between them; all epochs where there are fewer."""
    unsup_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the contrast between views."""
    sup_temperature: Annotated[float, Field(gt=0)] = 0.07
    """Of the contrast between classes."""

    def teacher(self, epoch: int, epochs: int) -> float:
        """The tau of an epoch."""
        first, last = self.teacher_temperatures
        warm_up = min(self.teacher_warmup_epochs, epochs)
        return first + (last - first) * min(1.0, epoch / max(1, warm_up - 1))


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class SimGcd:
    """Discovers classes: a classifier of K prototypes that its own other view teaches."""

    discovers: ClassVar[bool] = True
    """It finds classes that have no name."""

    tuning: Annotated[TwoViewTuning, arg(name="")] = TwoViewTuning(decay="matrices")
    """What is trained, and how."""
    objective: Annotated[Objective, arg(name="")] = Objective()
    """What is minimised."""
    head: Annotated[HeadShape, arg(name="")] = HeadShape()
    """Widths of the MLP."""

    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from labelled and unlabelled images.

        Args:
            clip: the model; it is left as it is.
            dataset: images, all readable, some labelled; classes beyond those are discovered.
            log: gets every term, and how classes are used, for each epoch.
            scratch: folder for what a run after a kill goes on from; None keeps nothing.

        Raises:
            RequestError: no label, fewer than two classes or more than images.
            TrainingError: nearly all images fall into a few classes, or a term is not finite.
        """
        known, k = labelled_classes(dataset), dataset.classes.total
        seed, tuned, part = torch.initial_seed(), clip.copy(), self.tuning.tune
        views = self.tuning.embed(clip, dataset, log, seed)
        features = embed(clip, dataset, Embedding(part), log)
        batches = self.tuning.pairs(tuned, dataset, views, seed)
        width = tuned.pooled(features[[0]][:, 0].to(clip.device), part).shape[1]
        head = seeded(lambda: PrototypeHead(width, k, self.head), seed, HEAD).to(clip.device)
        y, monitor = (
            torch.from_numpy(dataset.labels.copy()).to(clip.device),
            CollapseMonitor(k, known),
        )

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            monitor.begin(batch, log, "simgcd")
            h, cosines = head(tuned.pooled(batch.hidden, part))
            monitor.add((cosines / self.objective.student_temperature).softmax(1))
            tau = self.objective.teacher(batch.step // batches.per_epoch, self.tuning.epochs)
            return branch_loss(h, cosines, y[batch.index], tau, self.objective)

        trained = last_stage(tuned, part) | prefixed(head=head)
        keep = Checkpoint(scratch / "training.safetensors", monitor.state) if scratch else None
        optimise(loss, trained, batches, self.tuning.schedule(clip, len(dataset)), log, keep)
        with torch.no_grad():
            weights = normalize(head.prototypes, dim=-1)
            guess = (pooled_features(tuned, features, part) @ weights.T).argmax(1)
        record = {
            "facts": monitor.facts(),
            "predicted": guess.tolist(),
            "learned_from": dataset.labelled.files,
        }
        about = (dataset.classes.discovered(known), weights, "simgcd", asdict(self), record)
        scale = 1 / self.objective.student_temperature
        return Classifier(tuned, kept_part(part), *about, pooled=True, scale=scale)


class PrototypeHead(nn.Module):
    """What both losses read of a feature: h, and its cosines with the prototypes."""

    def __init__(self, width: int, classes: int, shape: HeadShape) -> None:
        """For features of `width` dimensions and K classes."""
        super().__init__()
        self.mlp = perceptron(width, shape)
        self.prototypes = nn.Linear(width, classes, bias=False).weight
        """c (K, F); only their direction matters."""

    def forward(self, f: Float[Tensor, "N F"]) -> tuple[Float[Tensor, "N E"], Float[Tensor, "N K"]]:
        """Unit h, of the feature as it is, and l."""
        cosines = normalize(f, dim=-1) @ normalize(self.prototypes, dim=-1).T
        return normalize(self.mlp(f), dim=-1), cosines


def branch_loss(
    h: Float[Tensor, "N E"],
    cosines: Float[Tensor, "N K"],
    labels: Int[Tensor, " N"],
    tau: float,
    how: Objective,
) -> dict[str, Float[Tensor, ""]]:
    """The terms of L, weighted; view i and view i + N / 2 are of one image, label -1: none."""
    supervised, alone = how.sup_weight, 1 - how.sup_weight  # lambda
    log_p = (cosines / how.student_temperature).log_softmax(dim=1)
    return {
        "cluster_loss": alone * cluster_loss(log_p, cosines, tau),
        "entropy_loss": alone * how.entropy_weight * unevenness(log_p),
        "label_loss": supervised * label_loss(log_p, labels),
        "views_loss": alone * unsupervised_contrast(h, how.unsup_temperature),
        "classes_loss": supervised * supervised_contrast(h, labels, how.sup_temperature),
    }


def cluster_loss(
    log_p: Float[Tensor, "N K"], cosines: Float[Tensor, "N K"], tau: float
) -> Float[Tensor, ""]:
    """L_cluster: what a view says teaches the other view of its image; teachers are detached."""
    q = (cosines.detach() / tau).softmax(dim=1).roll(len(log_p) // 2, dims=0)  # q_i'
    return -torch.einsum("nk,nk->n", q, log_p).mean()


def unevenness(log_p: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
    """R = log K - H(mean_i p_i)."""
    mean = log_p.exp().mean(0)
    return log_of(len(mean)) + torch.xlogy(mean, mean).sum()


def label_loss(log_p: Float[Tensor, "N K"], labels: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of the labelled views; 0 where none is."""
    total = nll_loss(log_p, labels, ignore_index=NONE, reduction="sum")
    return total / (labels != NONE).sum().clamp_min(1)
