"""LatteCLIP: learn class prototypes from machine-written texts.

Cao et al., WACV 2025, arXiv 2410.08211.   Needs: a name for every class, and no label at all.

    w_k  = top1(s) - top2(s),  s_c = v_k . p_c        Eq. 1   weight of a text with feature v_k
    m    = sum_k w_k v_k / sum_k w_k                  Eq. 2   k: class, image and group text
    t    = alpha p + (1 - alpha) m                            p: prototype of the assigned class
    L    = L_zs + L_ft,  each contrastive(F, t)       Eq. 3   one for each way of assigning
    p_c <- norm(mean t over the images of c)                a moving average of m

Letters: N images, C classes, D dimensions, B batch, F (B, D) image features, P (C, D) prototypes.
An image is assigned c_zs, its class before training, and c_ft, its class by the current model and
prototypes.
"""

from dataclasses import asdict
from functools import partial
from math import isnan
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone
from anyclass.backbone.checkpointing import checkpointed
from anyclass.captioning import AnyCaptioner, CaptionContext, CaptionRequest, Vocabulary
from anyclass.captioning.captions import (
    NONE,
    Answers,
    Asked,
    Captions,
    Text,
    TextFeatures,
    draw_groups,
)
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.features.extract import (
    Embedding,
    cached_part,
    current_features,
    embed,
    image_features,
)
from anyclass.features.text import PLAIN, Template, class_features, domain, fill
from anyclass.log import Log
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.losses import Collisions, contrastive
from anyclass.training.tuning import Tuning

Branch = Literal["zs", "ft"]
BRANCHES: tuple[Branch, ...] = get_args(Branch)
KINDS: tuple[Text, ...] = get_args(Text)

ADRIFT = 0.5
"""Share of images still in their zero-shot class below which the user is warned."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class LatteClip:
    """Adapts the model to a folder of unlabelled images whose class names are known."""

    tuning: Annotated[Tuning, arg(name="")] = Tuning()
    """What of the towers is trained, and how."""
    template: Template = PLAIN
    """Class text; `{}` is the class."""
    domain: str = "object"
    """What the images show, for the captioner: a noun, or one of the paper's sets."""
    plural: str = ""
    """Of a noun in `domain` that does not take an s."""
    class_in_prompt: bool = False
    """Name the zero-shot class when asking about an image (the paper's flowers and food)."""
    captioner: Suppress[AnyCaptioner] = Vocabulary()
    """Who writes image and group texts."""
    texts: Annotated[tuple[Text, ...], Field(min_length=1)] = KINDS
    """Which kinds of text are used."""
    image_captions: Annotated[int, Field(gt=0)] = 1
    """Texts per image; one of them is drawn at each visit."""
    group_size: Annotated[int, Field(gt=0)] = 4
    """n, images of a group."""
    groups: Annotated[int, Field(gt=0)] = 32
    """Most groups per class, K."""

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Share of the prototype in a mixed text, and so the momentum of the prototypes."""
    momentum: Literal["single", "double", "none"] = "single"
    """Prototype update: the code's moving average, the paper's words literally, or no memory."""
    update: Literal["pooled", "sequential"] = "pooled"
    """Both branches at once, or zs first and then ft with the new prototypes."""
    margin: Literal["unsigned", "signed", "equal"] = "unsigned"
    """Weight of a text: top1 - top2; that of the assigned class over the best other; or 1."""
    floor: Annotated[float, Field(ge=0)] = 1e-6
    """Least weight of a text that is there."""
    weight_prototypes: Literal["current", "epoch"] = "current"
    """Prototypes that weigh the texts: those of now, or of the start of the epoch."""
    normalise_mix: bool = False
    """Make mixed texts unit vectors before the loss."""
    relabel: Literal["batch", "epoch", "never"] = "batch"
    """When c_ft is computed; never: it stays c_zs."""
    relabel_view: Literal["train", "weak"] = "train"
    """c_ft of a batch from its augmented views, or from the test views (always for an epoch)."""
    collisions: Collisions = "ignore"
    """What two images of one class in a batch are to each other."""
    loss: Literal["infonce", "classes"] = "infonce"
    """Contrast with the texts of the batch, or with the C prototypes (the project's own form)."""
    branches: Annotated[tuple[Branch, ...], Field(min_length=1)] = BRANCHES
    """Whose loss is minimised."""
    update_branches: Literal["all", "same"] = "all"
    """Whose texts move the prototypes: both branches', or those of `branches`."""
    group_label: Branch = "zs"
    """Pool of the ft branch's group text; an empty ft pool falls back to zs."""
    regroup: Literal["never", "once"] = "never"
    """Draw the groups anew by c_ft after the warm-up."""
    freeze_text: bool = False
    """Leave the text tower as it is."""

    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from the images; their labels are never read.

        Args:
            clip: the model; it is left as it is.
            dataset: images, all readable, and the names of two classes or more.
            log: gets every loss term and how labels, weights and prototypes move.
            scratch: folder for what a run after a kill goes on from; None keeps nothing.

        Raises:
            RequestError: fewer than two classes, or a setting that cannot be met.
        """
        self._check(dataset)
        seed, tune, micro = torch.initial_seed(), self.tuning.tune, self.tuning.micro_batch
        part = cached_part(tune)
        features = embed(clip, dataset, Embedding(part), log)
        f0 = image_features(clip, features, part)  # F0 (N, D)
        with torch.no_grad():
            p0 = class_features(clip, dataset.classes.prompts, [self.template])  # W0 (C, D)
        c_zs = nearest(f0, p0)
        p, p_epoch, c_epoch, pool = p0.clone(), p0.clone(), c_zs.clone(), c_zs.clone()
        tuned, answers = (
            clip.copy(),
            Answers(self.captioner, CaptionContext(dataset, clip, f0.cpu()), log),
        )
        batches = self.tuning.batches(tuned, dataset, log, seed)
        texts = self._texts(tuned, dataset, answers, c_zs, pool)
        facts = torch.full((len(FACTS) + len(set(self.texts)),), float("nan"))

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            begin(batch)
            f = checkpointed(partial(tuned.tail, part=tune), batch.hidden, micro)  # F (B, D)
            c = torch.stack([c_zs[batch.index], relabel(batch, f)])  # zs, ft: (2, B)
            numbers = self._drawn(texts, batch, c, seeded_rng(seed, batch.step))  # (2, K, B)
            v, present = texts.encode(numbers), (numbers != NONE).to(f.device)
            now, weigh = p.clone(), p if self.weight_prototypes == "current" else p_epoch
            w = margin_weights(v, weigh, c, present, self.margin, self.floor)  # (2, K, B)
            m = mix(v, w, now[c])  # (2, B, D)
            t = self.alpha * now[c] + (1 - self.alpha) * m
            t = normalize(t, dim=-1) if self.normalise_mix else t
            terms = self._losses(f, t, c.to(f.device), now, tuned.logit_scale)
            p.copy_(self._updated(now, m.detach(), c))
            facts.copy_(_facts(p, p0, c, w, present, self.floor))
            log(stage="latteclip", step=batch.step, **self._named(facts))
            return terms

        @torch.no_grad()
        def begin(batch: Batch) -> None:
            """What changes only now and then."""
            nonlocal texts
            if self.regroup == "once" and batch.step == self.tuning.warm_up_of(len(dataset)):
                pool.copy_(labels())
            if not torch.equal(pool, texts.pool):
                texts = self._texts(tuned, dataset, answers, c_zs, pool)
            if batch.starts_epoch:
                p_epoch.copy_(p)
                c_epoch.copy_(labels() if self.relabel == "epoch" else c_zs)

        @torch.no_grad()
        def relabel(batch: Batch, f: Float[Tensor, "B D"]) -> Int[Tensor, " B"]:
            """c_ft of the batch."""
            if self.relabel != "batch":
                return c_epoch[batch.index]
            return nearest(f, p) if self.relabel_view == "train" else labels(batch.index)

        def labels(index: Int[Tensor, " n"] | None = None) -> Int[Tensor, " n"]:
            """Classes by the model of now, on test views: of all images or of some."""
            return nearest(current_features(tuned, dataset, tune, features, index), p)

        state = {"p": p, "p_epoch": p_epoch, "c_epoch": c_epoch, "pool": pool, "facts": facts}
        keep = Checkpoint(scratch / "training.safetensors", state) if scratch else None
        trained = tuned.parameters(tune, not self.freeze_text)
        optimise(loss, trained, batches, self.tuning.schedule(len(dataset)), log, keep)
        if facts[0] < ADRIFT:
            log(warning=f"{1 - facts[0]:.0%} of the last images have left their zero-shot class")
        record = {
            "facts": self._named(facts),
            "descriptions": texts.captions.rows(dataset),
            "zero_shot_labels": c_zs.tolist(),
        }
        return Classifier(tuned, tune, dataset.classes, p, "latteclip", asdict(self), record)

    def questions(self, images: int, classes: int) -> int:
        """How many texts the captioner is asked for at most: of each image and each group."""
        alone = images * self.image_captions if "image" in self.texts else 0
        groups = min(images, classes * self.groups) if "group" in self.texts else 0
        return alone + groups

    def _check(self, dataset: ImageDataset) -> None:
        if len(dataset.classes) < 2:
            raise RequestError(
                "LatteCLIP tells classes apart: it needs the names of two or more (--classes FILE)"
            )

    def _texts(
        self, tuned: Backbone, dataset: ImageDataset, answers: Answers, c_zs: Tensor, pool: Tensor
    ) -> "_Texts":
        """All texts, with the groups of `pool`; only what is new is asked for."""
        how = self.tuning
        class_texts = [fill(self.template, prompt) for prompt in dataset.classes.prompts]
        captions = Captions.of(class_texts, self._asked(dataset, c_zs, pool), answers)
        encode = TextFeatures(tuned, captions.strings, how.tune, self.freeze_text, how.micro_batch)
        return _Texts(captions, encode, pool.clone())

    def _asked(self, dataset: ImageDataset, c_zs: Tensor, pool: Tensor) -> Asked:
        """The questions about each image and about the groups of each class."""
        about, prompts = domain(self.domain, self.plural), dataset.classes.prompts
        images: list[list[CaptionRequest]] = [[] for _ in range(len(dataset))]
        groups: list[list[CaptionRequest]] = [[] for _ in prompts]
        if "image" in self.texts:
            for i, c in enumerate(c_zs.tolist()):
                question = about.ask_image(prompts[c] if self.class_in_prompt else "")
                variants = range(self.image_captions)
                images[i] = [CaptionRequest((i,), question, about.noun, r) for r in variants]
        if "group" in self.texts:
            n, most, seed = self.group_size, self.groups, torch.initial_seed()
            for c, drawn in enumerate(draw_groups(pool, len(prompts), n, most, seed)):
                groups[c] = [CaptionRequest(rows, about.ask_group(), about.noun) for rows in drawn]
        return Asked(images, groups)

    def _drawn(
        self, texts: "_Texts", batch: Batch, c: Int[Tensor, "2 B"], draw: torch.Generator
    ) -> Int[Tensor, "2 K B"]:
        """Which texts the samples of both branches get."""
        pools = texts.pool[batch.index][None]
        if self.group_label == "ft":
            pools = torch.cat([pools, c[1:]])
        return texts.captions.draw(batch.index, c, pools, self.texts, draw)

    def _losses(
        self, f: Tensor, t: Tensor, c: Int[Tensor, "2 B"], p: Tensor, scale: Tensor
    ) -> dict[str, Float[Tensor, ""]]:
        """The loss of each branch that counts, from its mixed texts t (2, B, D)."""
        terms = {}
        for i, branch in enumerate(BRANCHES):
            if branch not in self.branches:
                continue
            if self.loss == "infonce":
                term = contrastive(f, t[i], scale, c[i], self.collisions)  # Eq. 3
            else:
                term = prototype_loss(f, t[i], c[i], p, scale)
            terms[f"{branch}_loss"] = term
        return terms

    @torch.no_grad()
    def _updated(
        self, p: Float[Tensor, "C D"], m: Float[Tensor, "2 B D"], c: Int[Tensor, "2 B"]
    ) -> Float[Tensor, "C D"]:
        """Prototypes after a step."""
        moving = BRANCHES if self.update_branches == "all" else self.branches
        rows = [i for i, b in enumerate(BRANCHES) if b in moving]
        if self.update == "sequential":
            for i in rows:
                p = move(p, m[i], c[i], self.alpha, self.momentum)
            return p
        return move(p, m[rows].flatten(0, 1), c[rows].flatten(), self.alpha, self.momentum)

    def _named(self, facts: Float[Tensor, " F"]) -> dict[str, float]:
        """Figures of `_facts` under their names; none before the first step."""
        names = [*FACTS, *(f"weight_{kind}" for kind in KINDS if kind in self.texts)]
        named = zip(names, facts.tolist(), strict=True)
        return {name: value for name, value in named if not isnan(value)}


class _Texts(NamedTuple):
    """The texts of now."""

    captions: Captions
    encode: TextFeatures
    pool: Int[Tensor, " N"]
    """Class whose pool holds the group texts of each image."""


def nearest(f: Float[Tensor, "n D"], p: Float[Tensor, "C D"]) -> Int[Tensor, " n"]:
    """argmax_c f . p_c, on the CPU."""
    return (f.to(p.device) @ p.T).argmax(1).cpu()


def margin_weights(
    v: Float[Tensor, "2 K B D"],
    p: Float[Tensor, "C D"],
    c: Int[Tensor, "2 B"],
    present: Bool[Tensor, "2 K B"],
    margin: Literal["unsigned", "signed", "equal"] = "unsigned",
    floor: float = 1e-6,
) -> Float[Tensor, "2 K B"]:
    """How sure the prototypes are of a text, w = top1(s) - top2(s) of s_c = v . p_c; no gradient.

    Args:
        v: unit text features: branch, kind of text, sample.
        p: unit prototypes.
        c: class that each branch assigns to each sample.
        present: which texts there are; the others weigh nothing.
        margin: `signed` counts from the assigned class, max(0, s_c - best other); `equal` weighs
            all alike.
        floor: added, so that texts that say nothing still weigh alike.
    """
    s = torch.einsum("nkbd,cd->nkbc", v.detach(), p)
    if margin == "equal":
        return present.to(s)
    top = s.topk(2, dim=-1).values
    w = top[..., 0] - top[..., 1]  # Eq. 1
    if margin == "signed":
        assigned = c.to(s.device)[:, None, :, None].expand(*s.shape[:3], 1)
        best_other = s.scatter(-1, assigned, float("-inf")).amax(-1)
        w = (s.gather(-1, assigned)[..., 0] - best_other).clamp_min(0)
    return torch.where(present, w + floor, 0.0)


def mix(
    v: Float[Tensor, "2 K B D"], w: Float[Tensor, "2 K B"], otherwise: Float[Tensor, "2 B D"]
) -> Float[Tensor, "2 B D"]:
    """Mean of a sample's texts, weighted; `otherwise` where it has none."""
    total = w.sum(1)
    share = torch.einsum("nkb,nb->nkb", w, 1 / total.clamp_min(1e-12))
    m = torch.einsum("nkb,nkbd->nbd", share, v)  # Eq. 2
    return torch.where((total > 0)[..., None], m, otherwise)


def move(
    p: Float[Tensor, "C D"],
    m: Float[Tensor, "M D"],
    c: Int[Tensor, " M"],
    alpha: float = 0.99,
    momentum: Literal["single", "double", "none"] = "single",
) -> Float[Tensor, "C D"]:
    """Prototypes moved towards the mixed texts of their class; classes without one stay.

    single: norm(alpha p + (1 - alpha) mean m), which is norm(mean t).
    double: the same with t again averaged with p.   none: norm(mean m).
    """
    c = c.to(p.device)
    count = torch.zeros(len(p), dtype=p.dtype, device=p.device).index_add(
        0, c, torch.ones_like(m[:, 0])
    )
    mean = torch.zeros_like(p).index_add(0, c, m) / count.clamp_min(1)[:, None]
    keep = {"single": alpha, "double": alpha + (1 - alpha) * alpha, "none": 0.0}[momentum]
    return torch.where((count > 0)[:, None], normalize(keep * p + (1 - keep) * mean, dim=-1), p)


def prototype_loss(
    f: Float[Tensor, "B D"],
    t: Float[Tensor, "B D"],
    c: Int[Tensor, " B"],
    p: Float[Tensor, "C D"],
    scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """C-way cross-entropy over F . P / tau, the right column f_i . t_i: the texts learn too."""
    c = c.to(f.device)
    own = torch.einsum("bd,bd->b", f, t)
    logits = scale * (f @ p.T).scatter(1, c[:, None], own[:, None])
    return cross_entropy(logits, c)


FACTS = ("agreement_with_zero_shot", "rows_at_floor", "prototype_drift")
"""Figures of a step that stand before the mean weight of each kind of text."""


def _facts(
    p: Float[Tensor, "C D"],
    p0: Float[Tensor, "C D"],
    c: Int[Tensor, "2 B"],
    w: Float[Tensor, "2 K B"],
    present: Bool[Tensor, "2 K B"],
    floor: float,
) -> Float[Tensor, " F"]:
    """How labels agree, how many samples have generic texts only, how far prototypes have moved.

    Then the mean weight of each kind of text, of those that are there.
    """
    agreement = (c[0] == c[1]).float().mean().to(w.device)
    at_floor = (w <= 2 * floor).all(1).float().mean()
    drift = 1 - torch.einsum("cd,cd->c", p, p0).mean()
    weights = w.sum((0, 2)) / present.sum((0, 2)).clamp_min(1)
    return torch.cat([torch.stack([agreement, at_floor, drift]), weights]).cpu()
