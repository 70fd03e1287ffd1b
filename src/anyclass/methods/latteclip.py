"""LatteCLIP: unsupervised fine-tuning with captions and class prototypes.

Cao et al., WACV 2025, arXiv 2410.08211.   Needs: a name for every class, no label.

    w_k  = top1(s) - top2(s),  s_c = v_k . p_c        Eq. 1   weight of a text with feature v_k
    m    = sum_k w_k v_k / sum_k w_k                  Eq. 2   k: class, image and group text
    t    = alpha p + (1 - alpha) m                            p: prototype of the assigned class
    L    = L_zs + L_ft,  each contrastive(F, t)       Eq. 3   one for each branch
    p_c <- norm(mu p_c + (1 - mu) mean m)                     mean over the images of c

Letters: N images, C classes, D dimensions, B batch, F (B, D) image features, P (C, D) prototypes.
The branches zs and ft assign an image to c_zs, its class before training, and to c_ft, its class by
the current model and prototypes.
"""

from dataclasses import asdict
from functools import partial
from math import isnan
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs
from torch import Tensor
from torch.nn.functional import normalize
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
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.data import ImageDataset
from anyclass.distributed.gradients import divided
from anyclass.distributed.processes import broadcast
from anyclass.errors import RequestError
from anyclass.features.cache import Embedding, cached_part
from anyclass.features.domains import DOMAINS, PRESET, DomainName, domain, domain_name
from anyclass.features.extract import current_features
from anyclass.features.precomputed import AnyFeatures
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, Template, fill
from anyclass.log import Log
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.latteclip_equations import (
    margin_weights,
    mix,
    mix_as_released,
    move,
    nearest,
    prototype_loss,
)
from anyclass.methods.workload import Workload
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.losses import Collisions, contrastive
from anyclass.training.tuning import Tuning

Branch = Literal["zs", "ft"]
BRANCHES: tuple[Branch, ...] = get_args(Branch)
KINDS: tuple[Text, ...] = get_args(Text)

TEXTS_AT_ONCE = 1024
"""Texts that are encoded together for their weights after training."""

NO_LANGUAGE_MODEL = (
    "the captions are words of the model itself; --captioner endpoint asks a language model, as "
    "the paper does"
)
"""Remark where no language model is used."""

MIN_AGREEMENT = 0.5
"""Share of images in their zero-shot class below which the user is warned."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class LatteClip:
    """Fine-tunes the model on unlabelled images with captions, given the class names."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="LatteCLIP",
        situations=(Situation.NAMES,),
        uses_labels=False,
        divisible=("tail", "all"),
        shares={"rows_at_floor": "images whose texts fit no class better than another"},
        figures={
            "prototype_drift": "mean drift of the prototypes (1 − cosine)",
            "weight_class": "mean weight of class prompts",
            "weight_image": "mean weight of texts on single images",
            "weight_group": "mean weight of texts on groups of images",
            "zs_loss": "loss with zero-shot classes",
            "ft_loss": "loss with the classes of the trained model",
        },
        settings={
            "class_in_prompt": "zero-shot class in the question",
            "mu": "momentum mu of the prototypes",
        },
    )
    """Facts for lists, planning and the report."""
    tuning: Annotated[Tuning, arg(name="")] = Tuning()
    """Fine-tuning of the encoders."""
    template: Template = PLAIN
    """Class prompt; `{}` is the class name. A data set in `domain` has its own."""
    domain: DomainName = "object"
    """Noun for what the images show, used in the questions to the captioner; or a data set of the
    paper, such as food101, for its questions, template, learning rate and weight decay."""
    plural: str = ""
    """Plural of `domain`, if irregular."""
    class_in_prompt: bool = False
    """Name the zero-shot class in the question about an image (the paper: for flowers102 and
    food101, where it is on unless you turn it off)."""
    captioner: Suppress[AnyCaptioner] = Vocabulary()
    """Captioner for image and group texts (paper: a language model that sees images)."""
    texts: Annotated[tuple[Text, ...], Field(min_length=1)] = KINDS
    """Kinds of text to use (paper: all)."""
    image_captions: Annotated[int, Field(gt=0)] = 1
    """Captions per image, one of which is drawn in each step (paper: 1)."""
    group_size: Annotated[int, Field(gt=0)] = 4
    """n, images per group (paper: 4)."""
    groups: Annotated[int, Field(gt=0)] = 32
    """K, maximum number of groups per class."""

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Weight of the prototype in t (paper: 0.99)."""
    mu: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Momentum of the prototypes (paper: 0.99, 0.999 or 0.9999; the released code has `alpha`)."""
    momentum: Literal["single", "double", "none"] = "single"
    """Prototype update: moving average of the texts m (released code), of t (the paper's text taken
    literally), or none."""
    update: Literal["pooled", "sequential"] = "pooled"
    """Update the prototypes by both branches together, or by zs first and then by ft."""
    margin: Literal["unsigned", "signed", "equal"] = "unsigned"
    """Weight of a text: top1 - top2 (paper), assigned class minus best other class, or 1."""
    floor: Annotated[float, Field(ge=0)] = 1e-6
    """Minimum weight of a text."""
    weight_prototypes: Literal["current", "epoch"] = "current"
    """Prototypes for the weights of texts: current, or of the start of the epoch."""
    normalise_mix: bool = False
    """Normalise t before the loss."""
    released_mix: bool = False
    """Repeat a slip of the released code in Eq. 2 (`mix_as_released`), for reproduction only; the
    batch must be as large as the model's features are wide."""
    relabel: Literal["batch", "epoch", "never"] = "batch"
    """When to compute c_ft; never: c_ft = c_zs."""
    relabel_view: Literal["train", "weak"] = "train"
    """Compute c_ft of a batch from its augmented views, or from the test views (always for
    `relabel` epoch)."""
    collisions: Collisions = "ignore"
    """Treatment of image-text pairs of the same class in a batch (paper: ignore)."""
    loss: Literal["infonce", "classes"] = "infonce"
    """Contrast with the texts of the batch (paper), or with all prototypes (the project's own)."""
    branches: Annotated[tuple[Branch, ...], Field(min_length=1)] = BRANCHES
    """Branches in the loss (paper: both)."""
    update_branches: Literal["all", "same"] = "all"
    """Branches that update the prototypes: all, or the same as in the loss."""
    group_label: Branch = "zs"
    """Class for the group text of the ft branch: c_zs or c_ft; if c_ft has no groups, c_zs."""
    regroup: Literal["never", "once"] = "never"
    """Redraw the groups by c_ft once, after the warm-up."""
    freeze_text: bool = False
    """Freeze the text encoder."""

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, given: ArgsKwargs) -> ArgsKwargs:
        """Add template and `class_in_prompt` of a data set in `domain`, unless given."""
        values = dict(given.kwargs or {})
        about = DOMAINS.get(domain_name(str(values.get("domain", ""))))
        preset = {name: getattr(about, name) for name in PRESET} if about else {}
        return ArgsKwargs(given.args, preset | values)

    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on the images without reading any label.

        Args:
            data: the model, which is not changed, readable images and two class names or more.
            log: receives the loss terms, and figures on labels, weights and prototypes.
            scratch: folder of checkpoints, to resume a killed run; None: no checkpoints.
            seed: random seed.

        Raises:
            RequestError: fewer than two classes, or settings that are impossible.
        """
        clip = data.clip
        dataset = data.dataset
        self._check(dataset, data.clip)
        tune = self.tuning.tune
        micro = self.tuning.micro_batch
        part = cached_part(tune)
        features = data.embed(Embedding(part), log)
        f0 = data.image_features(part, log)  # F0 (N, D)
        p0 = data.class_features([self.template], log)  # W0 (C, D)
        c_zs = nearest(f0, p0)
        p = p0.clone()
        p_epoch = p0.clone()  # prototypes at the start of the epoch
        c_epoch = c_zs.clone()  # c_ft at the start of the epoch
        pool = c_zs.clone()  # class of the group texts of an image
        tuned = clip.copy()
        answers = Answers(self.captioner, CaptionContext(dataset, clip, f0.cpu()), log)
        batches = self.tuning.batches(tuned, data, log, seed)
        texts = self._texts(tuned, dataset, answers, c_zs, pool, seed)
        facts = torch.full((len(FACTS) + len(set(self.texts)),), float("nan"))

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            update_state(batch)
            encode = partial(tuned.tail, part=tune)
            f = batch.gathered(checkpointed(encode, batch.hidden, micro))  # F (B, D)
            c = torch.stack([c_zs[batch.index], relabel(batch, f)])  # zs, ft: (2, B)
            indices = self._draw_texts(texts, batch, c, seeded_rng(seed, batch.step))  # (2, K, B)
            v = texts.encode(indices)
            present = (indices != NONE).to(f.device)
            p_now = p.clone()
            p_weight = p if self.weight_prototypes == "current" else p_epoch
            w = margin_weights(v, p_weight, c, present, self.margin, self.floor)  # (2, K, B)
            m = self._mix(v, w, p_now[c])  # (2, B, D)
            t = self.alpha * p_now[c] + (1 - self.alpha) * m
            t = normalize(t, dim=-1) if self.normalise_mix else t
            terms = self._losses(f, t, c.to(f.device), p_now, tuned.logit_scale)
            p.copy_(self._update(p_now, m.detach(), c))
            broadcast(p)  # sums of two GPUs may differ in their last bits
            facts.copy_(_facts(p, p0, c, w, present, self.floor))
            log(stage="latteclip", step=batch.step, **self._figures(facts))
            return terms

        @torch.no_grad()
        def update_state(batch: Batch) -> None:
            """Redraw the groups and copy prototypes and labels, in the steps that need it."""
            nonlocal texts
            if self.regroup == "once" and batch.step == self.tuning.warm_up_of(len(dataset)):
                pool.copy_(classify())
            if not torch.equal(pool, texts.pool):
                texts = self._texts(tuned, dataset, answers, c_zs, pool, seed)
            if batch.starts_epoch:
                p_epoch.copy_(p)
                c_epoch.copy_(classify() if self.relabel == "epoch" else c_zs)

        @torch.no_grad()
        def relabel(batch: Batch, f: Float[Tensor, "B D"]) -> Int[Tensor, " B"]:
            """c_ft of a batch."""
            if self.relabel != "batch":
                return c_epoch[batch.index]
            return nearest(f, p) if self.relabel_view == "train" else classify(batch.index)

        def classify(index: Int[Tensor, " n"] | None = None) -> Int[Tensor, " n"]:
            """Classes by the current model on test views, of all images or those of `index`."""
            rows = torch.arange(len(dataset)) if index is None else index
            encode = partial(current_features, tuned, dataset, tune, features)
            return nearest(divided(encode, rows), p)

        state = {"p": p, "p_epoch": p_epoch, "c_epoch": c_epoch, "pool": pool, "facts": facts}
        keep = Checkpoint(scratch / "training.safetensors", state) if scratch else None
        parameters = tuned.parameters(tune, not self.freeze_text)
        about = domain(self.domain)
        schedule = self.tuning.schedule(len(dataset), about.lr, about.weight_decay)
        optimise(loss, parameters, batches, schedule, log, keep)
        if facts[0] < MIN_AGREEMENT:
            log(warning=f"{1 - facts[0]:.0%} of the last images have left their zero-shot class")
        author = self.captioner.answered_by if {"image", "group"} & set(self.texts) else ""
        record = FitRecord(
            facts=self._figures(facts),
            descriptions=texts.captions.rows(dataset, self._final_weights(texts, p), author),
            captioned_by=author,
            zero_shot_labels=c_zs.tolist(),
        )
        representation = Representation((tuned,), tune)
        head = CosineHead(p, tuned.logit_scale.detach())
        return Classifier(representation, head, dataset.classes, "latteclip", asdict(self), record)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        captions = self.captioner.estimate(self.questions(images, classes))
        tuning = self.tuning
        return Workload(
            tuning.tune,
            tuning.tune != "head",
            tuning.cached_views,
            captions=captions,
            remarks=self._remarks,
            least_names=2,
        )

    def questions(self, images: int, classes: int) -> int:
        """Maximum number of captions to request, of images and groups."""
        image_texts = images * self.image_captions if "image" in self.texts else 0
        group_texts = min(images, classes * self.groups) if "group" in self.texts else 0
        return image_texts + group_texts

    def asked(self, data: AnyFeatures, log: Log, seed: int = 0) -> Asked:
        """What a fit asks about images and groups; without class names, about images alone.

        Args:
            data: the model and readable images.
            log: receives the progress of embedding.
            seed: random seed of the groups.
        """
        dataset = data.dataset
        if not len(dataset.classes):
            topic = domain(self.domain, self.plural)
            question = topic.ask_image()
            rows = range(len(dataset))
            return Asked([[CaptionRequest((i,), question, topic.noun)] for i in rows], [])
        p0 = data.class_features([self.template], log)
        c_zs = nearest(data.image_features("head", log), p0)
        return self.requests(dataset, c_zs, c_zs, seed)

    def requests(
        self, dataset: ImageDataset, c_zs: Int[Tensor, " N"], pool: Int[Tensor, " N"], seed: int
    ) -> Asked:
        """Caption requests for each image and for the groups of each class.

        Args:
            dataset: images and classes.
            c_zs: zero-shot class of each image.
            pool: class whose groups an image may be in.
            seed: random seed of the groups.
        """
        topic = domain(self.domain, self.plural)
        prompts = dataset.classes.prompts
        images: list[list[CaptionRequest]] = [[] for _ in range(len(dataset))]
        groups: list[list[CaptionRequest]] = [[] for _ in prompts]
        if "image" in self.texts:
            for i, c in enumerate(c_zs.tolist()):
                question = topic.ask_image(prompts[c] if self.class_in_prompt else "")
                variants = range(self.image_captions)
                images[i] = [CaptionRequest((i,), question, topic.noun, r) for r in variants]
        if "group" in self.texts:
            question = topic.ask_group()
            drawn = self.grouped(pool, len(prompts), seed)
            for c, members in enumerate(drawn):
                groups[c] = [CaptionRequest(rows, question, topic.noun) for rows in members]
        return Asked(images, groups)

    def grouped(
        self, pool: Int[Tensor, " N"], classes: int, seed: int
    ) -> list[list[tuple[int, ...]]]:
        """Rows of the groups of each class, drawn by the class `pool` that an image counts for."""
        return draw_groups(pool, classes, self.group_size, self.groups, seed)

    @property
    def _remarks(self) -> tuple[str, ...]:
        """What to know before a fit: captions without a language model, a data set's settings."""
        remarks = []
        if isinstance(self.captioner, Vocabulary) and {"image", "group"} & set(self.texts):
            remarks.append(NO_LANGUAGE_MODEL)
        if about := DOMAINS.get(self.domain):
            named = ", the class in the question about an image" if self.class_in_prompt else ""
            usual = self.tuning.schedule(1, about.lr, about.weight_decay)
            rate = f", learning rate {usual.rate.peak_lr:g}" if self.tuning.tune == "all" else ""
            remarks.append(
                f"--domain {self.domain} is a data set of the paper: template "
                f"'{self.template}'{named}{rate}, weight decay {usual.weight_decay:g}"
            )
        return tuple(remarks)

    def _check(self, dataset: ImageDataset, clip: Backbone) -> None:
        if len(dataset.classes) < 2:
            raise RequestError("LatteCLIP needs two or more class names (--classes FILE)")
        batch = min(self.tuning.batch_size, len(dataset))
        width = clip.texts([""]).shape[1] if self.released_mix else batch
        if batch != width:
            raise RequestError(
                f"--released-mix needs batches as large as the features are wide: {width} instead "
                f"of {batch} (--batch-size {width} and as many images), or leave it out"
            )

    def _mix(self, v: Tensor, w: Tensor, otherwise: Tensor) -> Float[Tensor, "2 B D"]:
        """Eq. 2; the class prompt, if it is used, is the first text."""
        if self.released_mix and "class" in self.texts:
            return mix_as_released(v, w, otherwise)
        return mix(v, w, otherwise)

    def _texts(
        self,
        tuned: Backbone,
        dataset: ImageDataset,
        answers: Answers,
        c_zs: Tensor,
        pool: Tensor,
        seed: int,
    ) -> "TrainingTexts":
        """All texts, with groups drawn by `pool`; only new captions are requested."""
        tuning = self.tuning
        class_texts = [fill(self.template, prompt) for prompt in dataset.classes.prompts]
        captions = Captions.of(class_texts, self.requests(dataset, c_zs, pool, seed), answers)
        encode = TextFeatures(
            tuned, captions.strings, tuning.tune, self.freeze_text, tuning.micro_batch
        )
        return TrainingTexts(captions, encode, pool.clone())

    def _draw_texts(
        self, texts: "TrainingTexts", batch: Batch, c: Int[Tensor, "2 B"], rng: torch.Generator
    ) -> Int[Tensor, "2 K B"]:
        """Draw one text of each kind per sample, for both branches."""
        pools = texts.pool[batch.index][None]
        if self.group_label == "ft":
            pools = torch.cat([pools, c[1:]])
        return texts.captions.draw(batch.index, c, pools, self.texts, rng)

    @torch.no_grad()
    def _final_weights(self, texts: "TrainingTexts", p: Float[Tensor, "C D"]) -> list[float] | None:
        """Weight of each text (Eq. 1) after training; None where weights are not of this kind."""
        if self.margin != "unsigned":
            return None
        weights = []
        for numbers in torch.arange(len(texts.captions.strings)).split(TEXTS_AT_ONCE):
            v = texts.encode(numbers).expand(2, 1, -1, -1)
            c = torch.zeros(2, len(numbers), dtype=torch.long)
            present = torch.ones(2, 1, len(numbers), dtype=torch.bool, device=v.device)
            weights += margin_weights(v, p, c, present, self.margin, self.floor)[0, 0].tolist()
        return weights

    def _losses(
        self, f: Tensor, t: Tensor, c: Int[Tensor, "2 B"], p: Tensor, scale: Tensor
    ) -> dict[str, Float[Tensor, ""]]:
        """Loss of each branch in `branches`, from its texts t (2, B, D)."""
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
    def _update(
        self, p: Float[Tensor, "C D"], m: Float[Tensor, "2 B D"], c: Int[Tensor, "2 B"]
    ) -> Float[Tensor, "C D"]:
        """Prototypes after a step."""
        updating = BRANCHES if self.update_branches == "all" else self.branches
        rows = [i for i, branch in enumerate(BRANCHES) if branch in updating]
        if self.update == "sequential":
            for i in rows:
                p = move(p, m[i], c[i], self.mu, self.momentum, self.alpha)
            return p
        m_all = m[rows].flatten(0, 1)
        return move(p, m_all, c[rows].flatten(), self.mu, self.momentum, self.alpha)

    def _figures(self, facts: Float[Tensor, " F"]) -> dict[str, float]:
        """Names and values of `_facts`; empty before the first step."""
        names = [*FACTS, *(f"weight_{kind}" for kind in KINDS if kind in self.texts)]
        figures = zip(names, facts.tolist(), strict=True)
        return {name: value for name, value in figures if not isnan(value)}


class TrainingTexts(NamedTuple):
    """Texts of all classes, images and groups, and their features by the current text tower."""

    captions: Captions
    encode: TextFeatures
    pool: Int[Tensor, " N"]
    """Class from whose groups each image gets its group text."""


FACTS = ("agreement_with_zero_shot", "rows_at_floor", "prototype_drift")
"""Names of the first figures of `_facts`."""


def _facts(
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
