"""LatteCLIP's training: pseudo-labels, prototypes, and the loss of a step in the paper's order.

Letters as in `latteclip.py`: N images, C classes, D dimensions, B batch, F image features, P
prototypes; K kinds of text. An axis of 2 is that of the branches, zs and ft.
"""

from functools import partial
from math import isnan
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone.checkpointing import checkpointed
from anyclass.captioning import CaptionContext
from anyclass.captioning.captions import NONE, Answers, Text
from anyclass.distributed.gradients import divided
from anyclass.distributed.processes import broadcast
from anyclass.features.cache import Embedding, cached_part
from anyclass.features.store import FeatureStore
from anyclass.features.stream import current_features
from anyclass.log import Log
from anyclass.methods.latteclip_equations import (
    margin_weights,
    mix,
    mix_as_released,
    move,
    nearest_prototype,
    prototype_loss,
)
from anyclass.methods.latteclip_texts import TrainingTexts
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.losses import contrastive

if TYPE_CHECKING:
    import anyclass.methods.latteclip

Branch = Literal["zs", "ft"]
BRANCHES: tuple[Branch, ...] = get_args(Branch)
KINDS: tuple[Text, ...] = get_args(Text)

METRICS = ("agreement_with_zero_shot", "rows_at_floor", "prototype_drift")
"""Names of the first values of `step_metrics`."""


class LatteClipTraining:
    """Model, texts, pseudo-labels and prototypes in training, and the loss of a step."""

    def __init__(
        self,
        settings: "anyclass.methods.latteclip.LatteClip",
        data: FeatureStore,
        log: Log,
        seed: int,
    ) -> None:
        """Classify the images by zero-shot, start the prototypes there and ask for the captions."""
        self.settings = settings
        self.dataset = data.dataset
        self.log = log
        self.seed = seed
        tuning = settings.tuning
        part = cached_part(tuning.tune)
        self.test_views = data.embed(Embedding(part), log)
        f0 = data.image_features(part, log)  # F0 (N, D)
        self.p0 = data.class_features([settings.template], log)  # W0 (C, D)
        self.c_zs = nearest_prototype(f0, self.p0)
        self.p = self.p0.clone()
        self.p_epoch = self.p0.clone()  # prototypes at the start of the epoch
        self.c_epoch = self.c_zs.clone()  # c_ft at the start of the epoch
        self.pool = self.c_zs.clone()  # class of the group texts of an image
        self.tuned = data.clip.copy()
        context = CaptionContext(data.dataset, data.clip, f0.cpu())
        self.answers = Answers(settings.captioner, context, log)
        self.batches = tuning.batches(self.tuned, data, log, seed)
        self.texts = self._ask_for_texts()
        self._metrics = torch.full((len(METRICS) + len(set(settings.texts)),), float("nan"))

    @property
    def state(self) -> dict[str, Tensor]:
        """What a step changes beside the parameters."""
        names = ("p", "p_epoch", "c_epoch", "pool")
        return {name: getattr(self, name) for name in names} | {"facts": self._metrics}

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Loss of each branch; afterwards the prototypes are moved."""
        settings = self.settings
        self._redraw_groups(batch)
        self._begin_epoch(batch)
        f = self._image_features(batch)  # F (B, D)
        c = torch.stack([self.c_zs[batch.index], self._relabel(batch, f)])  # zs, ft: (2, B)
        rng = seeded_rng(self.seed, batch.step)
        indices = self.texts.draw(settings, batch.index, c, rng)  # (2, K, B)
        v = self.texts.encode(indices)
        present = (indices != NONE).to(f.device)
        p = self.p.clone()
        p_weight = p if settings.weight_prototypes == "current" else self.p_epoch
        w = margin_weights(v, p_weight, c, present, settings.margin, settings.floor)  # Eq. 1
        m = mixed_texts(v, w, p[c], settings)  # Eq. 2: (2, B, D)
        t = settings.alpha * p[c] + (1 - settings.alpha) * m
        t = normalize(t, dim=-1) if settings.normalise_mix else t
        terms = branch_losses(f, t, c.to(f.device), p, self.tuned.logit_scale, settings)
        self.p.copy_(moved_prototypes(p, m.detach(), c, settings))
        broadcast(self.p)  # sums of two GPUs may differ in their last bits
        self._metrics.copy_(step_metrics(self.p, self.p0, c, w, present, settings.floor))
        self.log(stage="latteclip", step=batch.step, **self.metrics)
        return terms

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the last step; empty before the first one."""
        kinds = [kind for kind in KINDS if kind in self.settings.texts]
        names = [*METRICS, *(f"weight_{kind}" for kind in kinds)]
        values = dict(zip(names, self._metrics.tolist(), strict=True))
        return {name: value for name, value in values.items() if not isnan(value)}

    def _ask_for_texts(self) -> TrainingTexts:
        """All texts, with groups drawn by `pool`; only new captions are requested."""
        return TrainingTexts.ask(
            self.settings,
            self.tuned,
            self.answers,
            self.dataset,
            self.c_zs,
            self.pool,
            self.seed,
        )

    @torch.no_grad()
    def _redraw_groups(self, batch: Batch) -> None:
        """Draw the groups by c_ft once, after the warm-up; a resumed training repeats its draw."""
        warm_up = self.settings.tuning.warm_up_of(len(self.dataset))
        if self.settings.regroup == "once" and batch.step == warm_up:
            self.pool.copy_(self._classify(torch.arange(len(self.dataset))))
        if not torch.equal(self.pool, self.texts.pool):
            self.texts = self._ask_for_texts()

    @torch.no_grad()
    def _begin_epoch(self, batch: Batch) -> None:
        """Keep prototypes and c_ft of the start of an epoch."""
        if not batch.starts_epoch:
            return
        self.p_epoch.copy_(self.p)
        by_epoch = self.settings.relabel == "epoch"
        everything = torch.arange(len(self.dataset))
        self.c_epoch.copy_(self._classify(everything) if by_epoch else self.c_zs)

    def _image_features(self, batch: Batch) -> Float[Tensor, "B D"]:
        """F of the augmented views."""
        tuning = self.settings.tuning
        encode = partial(self.tuned.tail, part=tuning.tune)
        return batch.gathered(checkpointed(encode, batch.hidden, tuning.micro_batch))

    @torch.no_grad()
    def _relabel(self, batch: Batch, f: Float[Tensor, "B D"]) -> Int[Tensor, " B"]:
        """c_ft of a batch."""
        if self.settings.relabel != "batch":
            return self.c_epoch[batch.index]
        if self.settings.relabel_view == "train":
            return nearest_prototype(f, self.p)
        return self._classify(batch.index)

    def _classify(self, index: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Classes by the current model and prototypes, on the test views of some images."""
        tune = self.settings.tuning.tune
        encode = partial(current_features, self.tuned, self.dataset, tune, self.test_views)
        return nearest_prototype(divided(encode, index), self.p)


def mixed_texts(
    v: Float[Tensor, "2 K B D"],
    w: Float[Tensor, "2 K B"],
    otherwise: Float[Tensor, "2 B D"],
    settings: "anyclass.methods.latteclip.LatteClip",
) -> Float[Tensor, "2 B D"]:
    """Eq. 2, also as released; the class prompt, if it is used, is the first text."""
    if settings.released_mix and "class" in settings.texts:
        return mix_as_released(v, w, otherwise)
    return mix(v, w, otherwise)


def branch_losses(
    f: Float[Tensor, "B D"],
    t: Float[Tensor, "2 B D"],
    c: Int[Tensor, "2 B"],
    p: Float[Tensor, "C D"],
    scale: Float[Tensor, ""],
    settings: "anyclass.methods.latteclip.LatteClip",
) -> dict[str, Float[Tensor, ""]]:
    """Loss of each branch in `branches`, from its texts t."""
    terms = {}
    for i, branch in enumerate(BRANCHES):
        if branch not in settings.branches:
            continue
        if settings.loss == "infonce":
            term = contrastive(f, t[i], scale, c[i], settings.collisions)  # Eq. 3
        else:
            term = prototype_loss(f, t[i], c[i], p, scale)
        terms[f"{branch}_loss"] = term
    return terms


@torch.no_grad()
def moved_prototypes(
    p: Float[Tensor, "C D"],
    m: Float[Tensor, "2 B D"],
    c: Int[Tensor, "2 B"],
    settings: "anyclass.methods.latteclip.LatteClip",
) -> Float[Tensor, "C D"]:
    """Prototypes after a step, moved by the branches together or by one after the other."""
    updating = BRANCHES if settings.update_branches == "all" else settings.branches
    rows = [i for i, branch in enumerate(BRANCHES) if branch in updating]
    step = partial(move, mu=settings.mu, momentum=settings.momentum, alpha=settings.alpha)
    if settings.update == "pooled":
        return step(p, m[rows].flatten(0, 1), c[rows].flatten())
    for i in rows:
        p = step(p, m[i], c[i])
    return p


def step_metrics(
    p: Float[Tensor, "C D"],
    p0: Float[Tensor, "C D"],
    c: Int[Tensor, "2 B"],
    w: Float[Tensor, "2 K B"],
    present: Bool[Tensor, "2 K B"],
    floor: float,
) -> Float[Tensor, " F"]:
    """Agreement of c_ft with c_zs, share of samples with generic texts only, prototype drift.

    Followed by the mean weight of each kind of text.
    """
    agreement = (c[0] == c[1]).float().mean().to(w.device)
    at_floor = (w <= 2 * floor).all(1).float().mean()
    drift = 1 - torch.einsum("cd,cd->c", p, p0).mean()
    weights = w.sum((0, 2)) / present.sum((0, 2)).clamp_min(1)
    return torch.cat([torch.stack([agreement, at_floor, drift]), weights]).cpu()
