"""GET's stage 1, the text embedding synthesizer: an image becomes pseudo-words, and these a text.

    z^ = T([SOT] W z [EOT])                                         T: CLIP's frozen text tower
    L  = L_align(z, z^) + L_distill(z^, T("a photo of a {y}"))

Letters as in `get.py`: N views, K classes, C of them labelled, D dimensions, z (N, D) image
features, T_c (C, D) text features of the labelled classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.features.cache import Features
from anyclass.features.extract import BATCH, map_rows, map_views
from anyclass.features.text import class_features
from anyclass.log import Log
from anyclass.methods.gcd_common import TwoViewTask, seeded
from anyclass.methods.get_equations import Length, align, distance_loss, name_loss, text_scale
from anyclass.methods.simgcd import NONE
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise

if TYPE_CHECKING:
    import anyclass.methods.get

STAGE_1 = 2
"""Seed key of the batches of stage 1."""

WORDS = 3
"""Seed key of the initial W."""


class Synthesizer(nn.Module):
    """z^ of an image: M pseudo-words, encoded by the frozen text tower."""

    def __init__(self, clip: Backbone, width: int, settings: "anyclass.methods.get.Get") -> None:
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
        words = self.w(normalize(z, dim=-1) if self._unit else z)  # W z
        return self._clip.sentences(words.unflatten(1, (self._words, -1)))  # z^


@dataclass(frozen=True)
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

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        synthesizer: Synthesizer,
        project: Callable[[Tensor], Tensor],
        z_views: Features | None,
        z_test: Float[Tensor, "n D"],
        length: Length,
    ) -> "PseudoTexts":
        """Compute z^ of the cached views and of the test views."""
        device = synthesizer.w.weight.device
        views = map_views(synthesizer, device, z_views) if z_views else None
        z_hat = torch.cat([synthesizer(part) for part in z_test.split(BATCH)])
        scale = text_scale(z_test, z_hat, length)
        return cls(synthesizer, project, views, z_hat, scale, device)

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


def synthesise(
    task: TwoViewTask, settings: "anyclass.methods.get.Get", log: Log, scratch: Path | None
) -> PseudoTexts:
    """Stage 1: train the synthesizer, then compute z^ of the cached views and test views."""
    clip = task.data.clip
    project = partial(clip.projected, part=task.part)
    z_views = map_views(project, clip.device, task.views) if task.views else None
    anchors = labelled_anchors(task, settings.template)  # T_c (C, D)
    y = anchor_labels(task)
    scale = clip.logit_scale.detach() if settings.align_scale is None else settings.align_scale
    ignore = settings.align_other_view == "ignore"
    tau = settings.distill_temperature
    width = anchors.shape[1]
    synthesizer = seeded(lambda: Synthesizer(clip, width, settings), task.seed, WORDS)
    synthesizer.to(clip.device)

    def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
        with torch.no_grad():
            own = batch.hidden if z_views else project(batch.hidden)
        z = batch.gathered(own)  # z (N, D)
        z_hat = batch.gathered(synthesizer(own))  # z^ (N, D)
        labels = y[batch.index]
        alignment = align(z, z_hat, float(scale), ignore)  # L_align
        names = name_loss(z_hat, anchors, labels, tau)  # L_distill, first part
        distance = distance_loss(z_hat, anchors, labels)  # L_distill, second part
        return {
            "align_loss": settings.align_weight * alignment,
            "name_loss": settings.distill_weight * names,
            "distance_loss": settings.distill_weight * distance,
        }

    def log_stage(**row: Any) -> None:
        log(**{**row, "stage": "synthesize"})

    tuning = replace(settings.tuning, epochs=settings.tes_epochs)
    seed = seeded_rng(task.seed, STAGE_1).initial_seed()
    batches = tuning.pairs(clip, task.data.dataset, z_views, seed)
    checkpoint = Checkpoint.at(scratch and scratch / "synthesizer.safetensors")
    parameters = dict(synthesizer.named_parameters())
    scaler = clip.loss_scaler()
    optimise(loss, parameters, batches, task.schedule, log_stage, checkpoint, scaler)
    z_test = map_rows(project, clip.device, task.test)
    return PseudoTexts.of(synthesizer, project, z_views, z_test, settings.text_length)


def anchor_labels(task: TwoViewTask) -> Int[Tensor, " N"]:
    """Row of T_c of each image; -1 without a label."""
    row_of = torch.full((task.k,), NONE, device=task.y.device)
    row_of[task.known] = torch.arange(len(task.known), device=task.y.device)
    return torch.where(task.y >= 0, row_of[task.y], NONE)


@torch.no_grad()
def labelled_anchors(task: TwoViewTask, template: str) -> Float[Tensor, "C D"]:
    """T_c, text features of the labelled classes."""
    all_prompts = task.data.dataset.classes.all_prompts
    prompts = [all_prompts[c] for c in task.known]
    return class_features(task.data.clip, prompts, [template])
