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
from dataclasses import asdict, replace
from dataclasses import dataclass as plain_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import normalize
from tyro.conf import arg

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.record import STEPS, FitRecord
from anyclass.classifier.representation import Representation, Space
from anyclass.features.cache import Features
from anyclass.features.extract import BATCH, map_rows, map_views
from anyclass.features.store import FeatureStore
from anyclass.features.text import Template, class_features
from anyclass.log import Log
from anyclass.methods.gcd_common import (
    CollapseMonitor,
    MlpShape,
    TwoViewTask,
    saved_part,
    seeded,
    workload_of_pairs,
)
from anyclass.methods.get_equations import (
    Direction,
    Length,
    align,
    anchor_log_probs,
    consistency,
    distance_loss,
    divergence,
    name_loss,
    text_scale,
)
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.simgcd import HEAD, NONE, Objective, PrototypeHead, branch_loss
from anyclass.methods.workload import Workload
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.two_views import TwoViewTuning

STAGE_1 = 2
"""Seed key of the batches of stage 1."""

WORDS = 3
"""Seed key of the initial W."""

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
        figures={
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
            log: receives every loss term of both stages, and the figures of `CollapseMonitor` for
                each epoch.
            scratch: folder of checkpoints, to resume a killed run; None: no checkpoints.
            seed: random seed.

        Raises:
            RequestError: no label, fewer than two classes, or more classes than images.
            TrainingError: the predictions collapse to few classes, or a loss term is not finite.
        """
        task = TwoViewTask.begin(data, self.tuning, log, seed)
        part = task.part
        texts = self._synthesise(task, log, scratch) if self.text_branch else None
        feature = task.tuned.pooled if self.feature == "unprojected" else task.tuned.projected
        text_width = texts.width if texts else None
        net = Branches(task.width(feature), text_width, task.k, self, seed)
        net.to(data.clip.device)
        figures = ("agreement", "divergence") if texts else ()
        stop_from = self.objective.stop_collapsed_from
        monitor = CollapseMonitor(task.k, task.known, figures, stop_from)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            monitor.begin(batch, log, "get")
            labels = task.y[batch.index]
            epoch = batch.step // task.batches.per_epoch
            branch = partial(
                branch_loss,
                labels=labels,
                tau=self.objective.teacher(epoch, self.tuning.epochs),
                objective=self.objective,
            )
            v = batch.gathered(feature(batch.hidden, part))  # v (N, F)
            h, cosines = net.head(v)
            p = (cosines / self.objective.student_temperature).softmax(1)
            terms = _prefixed("image", branch(h, cosines))
            if texts is None:
                monitor.add(p)
                return terms
            t = net.ln_t(texts(batch))  # t (N, F)
            h_t, cosines_t = net.text_head(t)
            log_v = anchor_log_probs(v, labels, self.cico_temperature)
            log_t = anchor_log_probs(t, labels, self.cico_temperature)
            agreement = (cosines.argmax(1) == cosines_t.argmax(1)).float().mean()
            monitor.add(p, agreement, divergence(log_v, log_t))
            cico = self.cico_weight * consistency(log_v, log_t, self.cico_direction)
            return terms | _prefixed("text", branch(h_t, cosines_t)) | {"consistency_loss": cico}

        keep = Checkpoint(scratch / "training.safetensors", monitor.state) if scratch else None
        parameters = task.parameters(dict(net.named_parameters()))
        optimise(loss, parameters, task.batches, task.schedule, log, keep)
        weights = normalize(net.head.prototypes.detach(), dim=-1)
        with torch.no_grad():
            image = map_rows(lambda x: net.head(feature(x, part))[1], data.clip.device, task.test)
            text = net.text_head(net.ln_t(texts.scale * texts.features))[1] if texts else None
        text_facts = {"text_scale": texts.scale} if texts else {}
        record = FitRecord(
            trained_on=data.dataset.labelled.files,
            facts=monitor.facts() | {STEPS: len(task.batches)} | text_facts,
            predictions=self._predictions(image, text),
            pseudo_text=texts.features if texts else None,
        )
        space: Space = "pooled" if self.feature == "unprojected" else "projected"
        representation = Representation((task.tuned,), saved_part(part), space)
        head = CosineHead(weights, 1 / self.objective.student_temperature)
        classes = data.dataset.classes.discovered(task.known)
        return Classifier(representation, head, classes, "get", asdict(self), record)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        text_epochs = self.tes_epochs if self.text_branch else 0
        return workload_of_pairs(self.tuning, "prototypes", text_epochs)

    def _synthesise(self, task: TwoViewTask, log: Log, scratch: Path | None) -> "PseudoTexts":
        """Stage 1: train the synthesizer, then compute z^ of the cached views and test views."""
        clip = task.data.clip
        dataset = task.data.dataset
        seed = task.seed
        project = partial(clip.projected, part=task.part)
        z_views = map_views(project, clip.device, task.views) if task.views else None
        row = torch.full((task.k,), NONE)
        row[task.known] = torch.arange(len(task.known))  # class -> row of T_c; unlabelled: -1
        y = torch.from_numpy(dataset.labels.copy())
        y = torch.where(y >= 0, row[y], NONE).to(clip.device)
        with torch.no_grad():
            prompts = [dataset.classes.all_prompts[c] for c in task.known]
            anchors = class_features(clip, prompts, [self.template])  # T_c (C, D)
        synthesizer = seeded(lambda: Synthesizer(clip, anchors.shape[1], self), seed, WORDS)
        synthesizer.to(clip.device)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            with torch.no_grad():
                own = batch.hidden if z_views else project(batch.hidden)
            z = batch.gathered(own)  # z (N, D)
            z_hat = batch.gathered(synthesizer(own))  # z^ (N, D)
            scale = clip.logit_scale.detach() if self.align_scale is None else self.align_scale
            ignore = self.align_other_view == "ignore"
            labels = y[batch.index]
            tau = self.distill_temperature
            return {
                "align_loss": self.align_weight * align(z, z_hat, float(scale), ignore),
                "name_loss": self.distill_weight * name_loss(z_hat, anchors, labels, tau),
                "distance_loss": self.distill_weight * distance_loss(z_hat, anchors, labels),
            }

        def log_stage(**row: Any) -> None:
            log(**{**row, "stage": "synthesize"})

        tuning = replace(self.tuning, epochs=self.tes_epochs)
        batches = tuning.pairs(clip, dataset, z_views, seeded_rng(seed, STAGE_1).initial_seed())
        schedule = tuning.schedule(clip, len(dataset))
        keep = Checkpoint(scratch / "synthesizer.safetensors", {}) if scratch else None
        parameters = dict(synthesizer.named_parameters())
        optimise(loss, parameters, batches, schedule, log_stage, keep)
        text_views = map_views(synthesizer, clip.device, z_views) if z_views else None
        z = map_rows(project, clip.device, task.test)
        with torch.no_grad():
            z_hat = torch.cat([synthesizer(part) for part in z.split(BATCH)])
        scale = text_scale(z, z_hat, self.text_length)
        return PseudoTexts(synthesizer, project, text_views, z_hat, scale, clip.device)

    def _predictions(
        self, image: Float[Tensor, "n K"], text: Float[Tensor, "n K"] | None
    ) -> dict[str, list[int]]:
        """Predictions of the image branch, of the text branch and of their average."""
        found = {"predicted": image.argmax(1).tolist()}
        if text is None:
            return found
        mix = torch.stack([image, text]).div(self.mix_temperature).softmax(2).mean(0)
        return found | {
            "predicted_by_text": text.argmax(1).tolist(),
            "predicted_by_mix": mix.argmax(1).tolist(),
        }


class Synthesizer(nn.Module):
    """z^ of an image: M pseudo-words, encoded by the frozen text tower."""

    def __init__(self, clip: Backbone, width: int, settings: Get) -> None:
        """Initialise for image features of `width` dimensions."""
        super().__init__()
        self._clip = clip
        self._words = settings.words
        self._unit = settings.tes_input == "unit"
        with torch.no_grad():
            word_width = clip.words(["a"]).embeddings.shape[2]
        self.w = nn.Linear(width, settings.words * word_width)
        """W, with a bias."""

    def forward(self, z: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Text features from image features, neither normalised."""
        words = self.w(normalize(z, dim=-1) if self._unit else z)
        return self._clip.sentences(words.unflatten(1, (self._words, -1)))


@plain_dataclass(frozen=True)
class PseudoTexts:
    """z^ of any view after stage 1, constant for each cached view."""

    synthesizer: Synthesizer
    """The trained synthesizer."""
    project: Callable[[Tensor], Tensor]
    """Maps trunk outputs to z, by the frozen tower."""
    views: Features | None
    """z^ of the cached views; None: no cached views."""
    features: Float[Tensor, "n D"]
    """z^ of the test views, not scaled."""
    scale: float
    """Factor on z^ before ln_t."""
    device: torch.device
    """Device of the model."""

    @property
    def width(self) -> int:
        """D, dimensions of z^."""
        return self.synthesizer.w.in_features

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Float[Tensor, "N D"]:
        """Scaled z^ of the views of a batch."""
        if self.views is None or batch.view is None:
            z_hat = batch.gathered(self.synthesizer(self.project(batch.hidden)))
            return self.scale * z_hat
        return self.scale * self.views.views(batch.index, batch.view).to(self.device)


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


def _prefixed(branch: str, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Loss terms with the branch as prefix of their names."""
    return {f"{branch}_{name}": term for name, term in terms.items()}
