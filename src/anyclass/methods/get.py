"""GET: discover classes by image features and by text features synthesised for each image.

Wang et al., CVPR 2025, arXiv 2403.09974.   Needs: labels for some classes, number of others.

Stage 1, Text Embedding Synthesizer: a linear layer W maps an image to M pseudo-words.
    z^   = T([SOT] W z [EOT])                                     T: CLIP's frozen text tower
    L    = L_align(z, z^) + L_distill(z^, T("a photo of a {y}"))
Stage 2: an image v and its text t = ln_t(z^) share one head, with a consistency loss.
    a_c  = norm(mean of sg v over the labelled views of class c)   likewise for t
    s    = softmax_c(cos(v, a_c) / 0.4)
    L_CICO = mean_i H(sg s_i^t, s_i^v) + H(sg s_i^v, s_i^t)
    L    = L_SimGCD(v) + L_SimGCD(t) + lambda_c L_CICO

Letters: N views of B images, K classes, C of them labelled, D dimensions shared by images and
texts, z (N, D) image features, M pseudo-words, v (N, F) features before the projection. The last
stage of the tower (one block of a ViT), ln_t, the MLP and the prototypes of the head are trained;
z^ is constant.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import normalize
from tyro.conf import arg

from anyclass.backbone import Backbone, Part
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.metric_names import STEPS
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.classifier.settings import Space
from anyclass.features.extract import map_rows
from anyclass.features.store import FeatureStore
from anyclass.features.text import Template
from anyclass.log import Log
from anyclass.methods.collapse_monitor import CollapseMonitor
from anyclass.methods.gcd_common import (
    MlpShape,
    TwoViewTask,
    saved_part,
    seeded,
    workload_of_pairs,
)
from anyclass.methods.get_equations import (
    Direction,
    Length,
    anchor_log_probs,
    consistency,
    divergence,
)
from anyclass.methods.get_synthesizer import PseudoTexts, synthesise
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.simgcd import HEAD, Objective, PrototypeHead, branch_loss
from anyclass.methods.workload import Workload
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.two_views import TwoViewTuning

TRANSLATOR = 4
"""Seed key of the initial ln_t."""

TEXT_HEAD = 5
"""Seed key of a separate head of the text branch."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Get:
    """Discovers classes: image and synthesised text features share one classifier."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="GET",
        situations=(Situation.UNKNOWN,),
        discovers=True,
        divisible=("tail",),
        shares={
            "agreement": "images that the image and the text branch label alike in training",
        },
        metrics={
            "text_scale": "factor on the synthetic text features",
            "align_loss": "loss of synthetic texts against images",
            "name_loss": "loss of synthetic texts against class names",
            "distance_loss": "loss of the distance to the own class name",
            "consistency_loss": "loss of the difference between both branches",
            "divergence": "difference between the image and the text branch (KL)",
        },
        settings={
            "align_other_view": "alignment: text of the other view",
            "align_scale": "alignment: factor on the cosines",
            "align_weight": "alignment: weight of the loss",
            "cico_direction": "consistency of the branches: direction",
            "cico_temperature": "consistency of the branches: temperature",
            "cico_weight": "consistency of the branches: weight of the loss",
            "distill_temperature": "class names: temperature of the loss",
            "distill_weight": "class names: weight of the loss",
            "tes_epochs": "text synthesis: epochs",
            "tes_input": "text synthesis: input",
        },
    )
    """Facts for lists, planning and the report."""

    tuning: Annotated[TwoViewTuning, arg(name="")] = TwoViewTuning()
    """Training of stage 2 on pairs of views."""
    objective: Annotated[Objective, arg(name="")] = Objective()
    """Loss of each branch."""
    head: Annotated[MlpShape, arg(name="")] = MlpShape()
    """Widths of the MLP."""

    template: Template = "a photo of a {}"
    """Prompt of a labelled class; `{}` is the class name."""
    words: Annotated[int, Field(gt=0)] = 7
    """M, pseudo-words per image (paper: 7)."""
    tes_epochs: Annotated[int, Field(ge=0)] = 200
    """Epochs of stage 1, with the optimiser of stage 2 (paper: 200)."""
    tes_input: Literal["raw", "unit"] = "raw"
    """Input of W: z of the image encoder (raw), or as a unit vector."""
    align_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of L_align (paper: 1)."""
    align_scale: Annotated[float, Field(gt=0)] | None = None
    """Factor on the cosines in L_align; None: the model's logit scale."""
    align_other_view: Literal["negative", "ignore"] = "negative"
    """Text of the other view of the same image in L_align: a negative, or ignored."""
    distill_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of L_distill (paper: 1)."""
    distill_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the cross-entropy in L_distill."""

    text_branch: bool = True
    """Train the text branch; without it the method is SimGCD."""
    text_length: Length = "auto"
    """Scaling of z^ before ln_t: none (raw: the paper), or to the mean norm of z (image); auto: as
    image if the mean norm of z^ is below 3 and that of z, when the bias of ln_t would dominate,
    else raw."""
    shared_head: bool = True
    """Share one head between the branches (paper), or use one for each."""
    feature: Literal["unprojected", "projected"] = "unprojected"
    """v before the projection (paper), or after it (paper for ImageNet-1k)."""
    cico_weight: Annotated[float, Field(ge=0)] = 1.0
    """lambda_c, weight of the consistency loss L_CICO (paper: 1)."""
    cico_temperature: Annotated[float, Field(gt=0)] = 0.4
    """Temperature of s (paper: 0.4)."""
    cico_direction: Direction = "both"
    """Direction of L_CICO, from teacher to student (paper: both)."""
    mix_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of both branches in their averaged predictions, which are only recorded."""

    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on labelled and unlabelled images.

        Args:
            data: the model, which is not changed, and readable images, some labelled; the other
                classes are discovered, and the names of such classes are not used.
            log: receives every loss term of both stages, and the metrics of `CollapseMonitor` for
                each epoch.
            scratch: folder of checkpoints, to resume a killed run; None: no checkpoints.
            seed: random seed.

        Raises:
            RequestError: no label, fewer than two classes, or more classes than images.
            TrainingError: the predictions collapse to few classes, or a loss term is not finite.
        """
        task = TwoViewTask.begin(data, self.tuning, log, seed)
        texts = synthesise(task, self, log, scratch) if self.text_branch else None  # stage 1
        feature = self._feature(task.tuned)
        text_width = texts.width if texts else None
        net = Branches(task.width(feature), text_width, task.k, self, seed)
        net.to(data.clip.device)
        names = ("agreement", "divergence") if texts else ()
        stop_from = self.objective.stop_collapsed_from
        monitor = CollapseMonitor(task.k, task.known, names, stop_from)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            monitor.begin(batch, log, "get")
            labels = task.y[batch.index]
            tau = self.objective.teacher(batch.step // task.batches.per_epoch, self.tuning.epochs)
            v = batch.gathered(feature(batch.hidden, task.part))  # v (N, F)
            h, cosines = net.head(v)
            p = (cosines / self.objective.student_temperature).softmax(1)
            simgcd = branch_loss(h, cosines, labels, tau, self.objective)  # L_SimGCD(v)
            terms = _of_branch("image", simgcd)
            if texts is None:
                monitor.add(p)
                return terms
            t = net.ln_t(texts(batch))  # t (N, F)
            h_t, cosines_t = net.text_head(t)
            simgcd = branch_loss(h_t, cosines_t, labels, tau, self.objective)  # L_SimGCD(t)
            terms |= _of_branch("text", simgcd)
            log_v = anchor_log_probs(v, labels, self.cico_temperature)
            log_t = anchor_log_probs(t, labels, self.cico_temperature)
            agreement = (cosines.argmax(1) == cosines_t.argmax(1)).float().mean()
            monitor.add(p, agreement, divergence(log_v, log_t))
            cico = consistency(log_v, log_t, self.cico_direction)  # L_CICO
            return terms | {"consistency_loss": self.cico_weight * cico}

        checkpoint = Checkpoint.at(scratch and scratch / "training.safetensors", monitor.state)
        parameters = task.parameters(**dict(net.named_children()))
        scaler = task.tuned.loss_scaler()
        optimise(loss, parameters, task.batches, task.schedule, log, checkpoint, scaler)  # stage 2
        return self._classifier(task, net, texts, monitor.metrics())

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        text_epochs = self.tes_epochs if self.text_branch else 0
        return workload_of_pairs(self.tuning, "prototypes", text_epochs)

    def _feature(self, tuned: Backbone) -> Callable[[Tensor, Part], Tensor]:
        """v of trunk outputs."""
        return tuned.pooled if self.feature == "unprojected" else tuned.projected

    def _classifier(
        self,
        task: TwoViewTask,
        net: "Branches",
        texts: PseudoTexts | None,
        metrics: Mapping[str, float],
    ) -> Classifier:
        """Classifier of images alone, with what both branches predict for the images of the fit."""
        text_metrics = {"text_scale": texts.scale} if texts else {}
        record = FitRecord(
            trained_on=task.data.dataset.labelled.files,
            metrics={**metrics, STEPS: len(task.batches), **text_metrics},
            predictions=self._predictions(task, net, texts),
            pseudo_text=texts.features if texts else None,
        )
        space: Space = "pooled" if self.feature == "unprojected" else "projected"
        representation = Representation((task.tuned,), saved_part(task.part), space)
        weights = normalize(net.head.prototypes.detach(), dim=-1)
        head = CosineHead(weights, 1 / self.objective.student_temperature)
        classes = task.data.dataset.classes.discovered(task.known)
        return Classifier(representation, head, classes, "get", asdict(self), record)

    @torch.no_grad()
    def _predictions(
        self, task: TwoViewTask, net: "Branches", texts: PseudoTexts | None
    ) -> dict[str, list[int]]:
        """Predictions of the image branch, of the text branch and of their average."""
        feature = self._feature(task.tuned)
        device = task.data.clip.device
        image = map_rows(lambda x: net.head(feature(x, task.part))[1], device, task.test)
        found = {"predicted": image.argmax(1).tolist()}
        if texts is None:
            return found
        text = net.text_head(net.ln_t(texts.scale * texts.features))[1]
        mix = torch.stack([image, text]).div(self.mix_temperature).softmax(2).mean(0)
        return found | {
            "predicted_by_text": text.argmax(1).tolist(),
            "predicted_by_mix": mix.argmax(1).tolist(),
        }


class Branches(nn.Module):
    """New layers of stage 2: ln_t and the heads."""

    def __init__(
        self, width: int, text_width: int | None, classes: int, settings: Get, seed: int
    ) -> None:
        """Initialise for widths F of images and D of texts (None: no text branch), K classes."""
        super().__init__()

        def head(key: int) -> PrototypeHead:
            return seeded(lambda: PrototypeHead(width, classes, settings.head), seed, key)

        self.head = head(HEAD)
        if text_width is not None:
            self.ln_t = seeded(lambda: nn.Linear(text_width, width), seed, TRANSLATOR)
            self.text_head = self.head if settings.shared_head else head(TEXT_HEAD)


def _of_branch(branch: str, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Loss terms with the branch as prefix of their names."""
    return {f"{branch}_{name}": term for name, term in terms.items()}
