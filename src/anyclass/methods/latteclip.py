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
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from jaxtyping import Int
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs
from torch import Tensor
from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone
from anyclass.captioning import AnyCaptioner, Vocabulary
from anyclass.captioning.captions import CaptionRequests, Text, draw_groups
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.features.domains import DOMAINS, PRESET, DomainName, domain, domain_name
from anyclass.features.precomputed import AnyFeatures
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, Template
from anyclass.log import Log
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.latteclip_texts import caption_requests
from anyclass.methods.latteclip_training import BRANCHES, KINDS, Branch, LatteClipTraining
from anyclass.methods.workload import Workload, refuse_one_class
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.losses import Collisions
from anyclass.training.tuning import Tuning

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
        metrics={
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
    """Plural of --domain, if irregular."""
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
        about = DOMAINS.get(domain_name(str(values.get("domain", "object"))))
        preset = {name: getattr(about, name) for name in PRESET} if about else {}
        if about and values.get("plural"):
            raise RequestError(
                "--plural belongs to a noun in --domain, not to a data set of the paper"
            )
        return ArgsKwargs(given.args, preset | values)

    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on the images without reading any label.

        Args:
            data: the model, which is not changed, readable images and two class names or more.
            log: receives the loss terms, and metrics on labels, weights and prototypes.
            scratch: folder of checkpoints, to resume a killed run; None: no checkpoints.
            seed: random seed.

        Raises:
            RequestError: fewer than two classes, or settings that are impossible.
        """
        self._check(data.dataset, data.clip)
        training = LatteClipTraining(self, data, log, seed)
        tuned = training.tuned
        tune = self.tuning.tune
        parameters = tuned.parameters(tune, not self.freeze_text)
        about = domain(self.domain)
        schedule = self.tuning.schedule(len(data), about.lr, about.weight_decay)
        checkpoint = Checkpoint.at(scratch and scratch / "training.safetensors", training.state)
        scaler = tuned.loss_scaler()
        optimise(training.loss, parameters, training.batches, schedule, log, checkpoint, scaler)
        agreement = training.metrics.get("agreement_with_zero_shot", 1.0)
        if agreement < MIN_AGREEMENT:
            log(warning=f"{1 - agreement:.0%} of the last images have left their zero-shot class")
        texts = training.texts
        weights = texts.weights(training.p, self.floor) if self.margin == "unsigned" else None
        author = self.captioner.answered_by if {"image", "group"} & set(self.texts) else ""
        record = FitRecord(
            metrics=training.metrics,
            descriptions=texts.captions.rows(data.dataset, weights, author),
            captioned_by=author,
            zero_shot_labels=training.c_zs.tolist(),
        )
        representation = Representation((tuned,), tune)
        head = CosineHead(training.p, tuned.logit_scale.detach())
        classes = data.dataset.classes
        return Classifier(representation, head, classes, "latteclip", asdict(self), record)

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

    def caption_requests(self, data: AnyFeatures, log: Log, seed: int = 0) -> CaptionRequests:
        """What a fit asks about images and groups; without class names, about images alone.

        Args:
            data: the model and readable images.
            log: receives the progress of embedding.
            seed: random seed of the groups.
        """
        return caption_requests(self, data, log, seed)

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
        refuse_one_class(dataset.classes, "LatteCLIP")
        batch = min(self.tuning.batch_size, len(dataset))
        width = clip.texts([""]).shape[1] if self.released_mix else batch
        if batch != width:
            raise RequestError(
                f"--released-mix needs batches as large as the features are wide: {width} instead "
                f"of {batch} (--batch-size {width} and as many images), or leave it out"
            )
