"""GET: discover classes by images and by the texts that they would have.

Wang et al., CVPR 2025, arXiv 2403.09974.   Needs: labels for some classes, and how many others.

Stage 1, Text Embedding Synthesizer: a linear layer W turns an image into M words.
    z^   = T([SOT] W z [EOT])                                     T: CLIP's own frozen text tower
    L    = L_align(z, z^) + L_distill(z^, T("a photo of a {y}"))
Stage 2: an image v and its text t = ln_t(z^) pass through one head, and must agree.
    a_c  = norm(mean of sg v over the labelled views of class c)   likewise of t
    s    = softmax_c(cos(v, a_c) / 0.4)
    L_CICO = mean_i H(sg s_i^t, s_i^v) + H(sg s_i^v, s_i^t)
    L    = L_SimGCD(v) + L_SimGCD(t) + lambda_c L_CICO

Letters: N views of B images, K classes, C of them labelled, D dimensions shared by images and
texts, z (N, D) image features, M words, v (N, F) features before the projection. The last stage of
the tower (one block of a ViT), ln_t, the head's MLP and its prototypes are trained; z^ is not.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from dataclasses import dataclass as plain_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from tyro.conf import arg

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.features.extract import BATCH, Embedding, Features, embed, every_view, through
from anyclass.features.text import Template, class_features
from anyclass.log import Log
from anyclass.methods.gcd_common import (
    CollapseMonitor,
    HeadShape,
    kept_part,
    labelled_classes,
    last_stage,
    seeded,
)
from anyclass.methods.simgcd import HEAD, NONE, Objective, PrototypeHead, branch_loss, label_loss
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.two_views import TwoViewTuning

STAGE_1, WORDS, TRANSLATOR, TEXT_HEAD = 2, 3, 4, 5
"""Name the random numbers of the first stage's batches and of first weights."""

LONG = 3.0
"""Length from which texts are taken as they are. To ln_t its bias is an input that is always 1."""

Direction = Literal["both", "text_to_image", "image_to_text"]
"""Who teaches whom."""

Length = Literal["auto", "raw", "image"]
"""How long texts are made."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Get:
    """Discovers classes: images and the texts synthesised for them share one classifier."""

    discovers: ClassVar[bool] = True
    """It finds classes that have no name."""

    tuning: Annotated[TwoViewTuning, arg(name="")] = TwoViewTuning()
    """What is trained in stage 2, and how."""
    objective: Annotated[Objective, arg(name="")] = Objective()
    """What each branch minimises."""
    head: Annotated[HeadShape, arg(name="")] = HeadShape()
    """Widths of the MLP."""

    template: Template = "a photo of a {}"
    """Text of a labelled class; `{}` is the class."""
    words: Annotated[int, Field(gt=0)] = 7
    """M, pseudo words of an image."""
    tes_epochs: Annotated[int, Field(ge=0)] = 200
    """Epochs of stage 1; its optimiser is that of stage 2."""
    tes_input: Literal["raw", "unit"] = "raw"
    """z as the tower gives it, or as a unit vector."""
    align_weight: Annotated[float, Field(ge=0)] = 1.0
    """Of L_align."""
    align_scale: Annotated[float, Field(gt=0)] | None = None
    """Factor on cosines in L_align; None: the model's."""
    align_other_view: Literal["negative", "ignore"] = "negative"
    """What the text of the other view of an image is to it."""
    distill_weight: Annotated[float, Field(ge=0)] = 1.0
    """Of L_distill."""
    distill_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of its cross-entropy."""

    text_branch: bool = True
    """Without it this is SimGCD."""
    text_length: Length = "auto"
    """How long z^ is on entering ln_t: as the tower gives it (raw: the paper), or as long as z on
    average (image); auto: raw, but short texts, which the bias would drown, become longer."""
    shared_head: bool = True
    """One head for both branches, or one for each."""
    feature: Literal["unprojected", "projected"] = "unprojected"
    """v before the projection, or after it (their ImageNet-1k)."""
    cico_weight: Annotated[float, Field(ge=0)] = 1.0
    """lambda_c."""
    cico_temperature: Annotated[float, Field(gt=0)] = 0.4
    """Of s."""
    cico_direction: Direction = "both"
    """Who teaches whom."""
    mix_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of both branches where their mean is predicted, for the record."""

    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from labelled and unlabelled images.

        Args:
            clip: the model; it is left as it is.
            dataset: images, all readable, some labelled; classes beyond those are discovered,
                named or not: a name without a labelled image is not read.
            log: gets every term of both stages, and how classes are used, for each epoch.
            scratch: folder for what a run after a kill goes on from; None keeps nothing.

        Raises:
            RequestError: no label, fewer than two classes or more than images.
            TrainingError: nearly all images fall into a few classes, or a term is not finite.
        """
        known, k = labelled_classes(dataset), dataset.classes.total
        seed, tuned, part = torch.initial_seed(), clip.copy(), self.tuning.tune
        views = self.tuning.embed(clip, dataset, log, seed)
        features = embed(clip, dataset, Embedding(part), log)
        texts = (
            self._texts(clip, dataset, views, features, log, scratch) if self.text_branch else None
        )
        batches = self.tuning.pairs(tuned, dataset, views, seed)
        see = tuned.pooled if self.feature == "unprojected" else tuned.projected
        width = see(features[[0]][:, 0].to(clip.device), part).shape[1]
        net = Branches(width, texts.width if texts else None, k, self, seed).to(clip.device)
        y = torch.from_numpy(dataset.labels.copy()).to(clip.device)
        monitor = CollapseMonitor(k, known, ("agreement", "divergence") if texts else ())

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            monitor.begin(batch, log, "get")
            labels, epoch = y[batch.index], batch.step // batches.per_epoch
            branch = partial(
                branch_loss,
                labels=labels,
                tau=self.objective.teacher(epoch, self.tuning.epochs),
                how=self.objective,
            )
            v = see(batch.hidden, part)  # v (N, F)
            h, cosines = net.head(v)
            p = (cosines / self.objective.student_temperature).softmax(1)
            terms = _named("image", branch(h, cosines))
            if texts is None:
                monitor.add(p)
                return terms
            t = net.ln_t(texts(batch))  # t (N, F)
            h_t, cosines_t = net.text_head(t)
            log_v, log_t = (anchored(f, labels, self.cico_temperature) for f in (v, t))
            agreement = (cosines.argmax(1) == cosines_t.argmax(1)).float().mean()
            monitor.add(p, agreement, divergence(log_v, log_t))
            together = self.cico_weight * consistency(log_v, log_t, self.cico_direction)
            return terms | _named("text", branch(h_t, cosines_t)) | {"consistency_loss": together}

        trained = last_stage(tuned, part) | dict(net.named_parameters())
        keep = Checkpoint(scratch / "training.safetensors", monitor.state) if scratch else None
        optimise(loss, trained, batches, self.tuning.schedule(clip, len(dataset)), log, keep)
        weights = normalize(net.head.prototypes.detach(), dim=-1)
        with torch.no_grad():
            image = through(lambda x: net.head(see(x, part))[1], clip.device, features)
            text = net.text_head(net.ln_t(texts.scale * texts.features))[1] if texts else None
        record = {
            "facts": monitor.facts() | ({"text_scale": texts.scale} if texts else {}),
            "learned_from": dataset.labelled.files,
            **self._predictions(image, text),
        }
        if texts:
            record["pseudo_texts"] = texts.features
        about = (dataset.classes.discovered(known), weights, "get", asdict(self), record)
        pooled, scale = self.feature == "unprojected", 1 / self.objective.student_temperature
        return Classifier(tuned, kept_part(part), *about, pooled=pooled, scale=scale)

    def _texts(
        self,
        clip: Backbone,
        dataset: ImageDataset,
        views: Features | None,
        features: Features,
        log: Log,
        scratch: Path | None,
    ) -> "Texts":
        """Stage 1: the synthesizer, trained, and what it says of cached views and test views."""
        seed, part = torch.initial_seed(), self.tuning.tune
        project = partial(clip.projected, part=part)
        z_views = every_view(project, clip.device, views) if views else None
        known = labelled_classes(dataset)
        row = torch.full((dataset.classes.total,), NONE)
        row[known] = torch.arange(len(known))  # class -> its row of T_c; unlabelled stay -1
        y = torch.from_numpy(dataset.labels.copy())
        y = torch.where(y >= 0, row[y], NONE).to(clip.device)
        with torch.no_grad():
            prompts = [dataset.classes.prompts[c] for c in known]
            anchors = class_features(clip, prompts, [self.template])  # T_c (C, D)
        synthesizer = seeded(lambda: Synthesizer(clip, anchors.shape[1], self), seed, WORDS)
        synthesizer.to(clip.device)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            with torch.no_grad():
                z = batch.hidden if z_views else project(batch.hidden)  # z (N, D)
            z_hat = synthesizer(z)  # z^ (N, D)
            scale = clip.logit_scale.detach() if self.align_scale is None else self.align_scale
            ignore = self.align_other_view == "ignore"
            labels, tau = y[batch.index], self.distill_temperature
            return {
                "align_loss": self.align_weight * align(z, z_hat, float(scale), ignore),
                "name_loss": self.distill_weight * name_loss(z_hat, anchors, labels, tau),
                "distance_loss": self.distill_weight * distance_loss(z_hat, anchors, labels),
            }

        def say(**row: Any) -> None:
            log(**{**row, "stage": "synthesize"})

        how = replace(self.tuning, epochs=self.tes_epochs)
        own = seeded_rng(seed, STAGE_1).initial_seed()
        batches, schedule = how.pairs(clip, dataset, z_views, own), how.schedule(clip, len(dataset))
        keep = Checkpoint(scratch / "synthesizer.safetensors", {}) if scratch else None
        optimise(loss, dict(synthesizer.named_parameters()), batches, schedule, say, keep)
        spoken = every_view(synthesizer, clip.device, z_views) if z_views else None
        z = through(project, clip.device, features)
        with torch.no_grad():
            z_hat = torch.cat([synthesizer(some) for some in z.split(BATCH)])
        scale = text_scale(z, z_hat, self.text_length)
        return Texts(synthesizer, project, spoken, z_hat, scale, clip.device)

    def _predictions(
        self, image: Float[Tensor, "n K"], text: Float[Tensor, "n K"] | None
    ) -> dict[str, list[int]]:
        """Classes of the images by the image branch, the one that counts, by texts, by both."""
        found = {"predicted": image.argmax(1).tolist()}
        if text is None:
            return found
        mix = torch.stack([image, text]).div(self.mix_temperature).softmax(2).mean(0)
        return found | {
            "predicted_by_text": text.argmax(1).tolist(),
            "predicted_by_mix": mix.argmax(1).tolist(),
        }


class Synthesizer(nn.Module):
    """z^: an image as M pseudo words, read by the frozen text tower."""

    def __init__(self, clip: Backbone, width: int, how: Get) -> None:
        """For image features of `width` dimensions."""
        super().__init__()
        self._clip, self._words, self._unit = clip, how.words, how.tes_input == "unit"
        with torch.no_grad():
            word = clip.words(["a"]).embeddings.shape[2]
        self.w = nn.Linear(width, how.words * word)
        """W, with a bias."""

    def forward(self, z: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Text features, not normalised, of image features, not normalised."""
        words = self.w(normalize(z, dim=-1) if self._unit else z)
        return self._clip.sentences(words.unflatten(1, (self._words, -1)))


@plain_dataclass(frozen=True)
class Texts:
    """z^ of any view, after stage 1: a constant of each cached view."""

    synthesizer: Synthesizer
    """Trained."""
    project: Callable[[Tensor], Tensor]
    """Trunk outputs to z, by the frozen tower."""
    views: Features | None
    """z^ of the cached views; None: there are none."""
    features: Float[Tensor, "n D"]
    """z^ of the test views, as the tower gives it."""
    scale: float
    """Factor of z^ on entering ln_t."""
    device: torch.device
    """Where the model lies."""

    @property
    def width(self) -> int:
        """D."""
        return self.synthesizer.w.in_features

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Float[Tensor, "N D"]:
        """z^ of the views of a batch, as long as ln_t is to have it."""
        if self.views is None or batch.view is None:
            z_hat: Tensor = self.synthesizer(self.project(batch.hidden))
            return self.scale * z_hat
        return self.scale * self.views.views(batch.index, batch.view).to(self.device)


class Branches(nn.Module):
    """The new layers of stage 2: a head, and the way of texts to it."""

    def __init__(
        self, width: int, text_width: int | None, classes: int, how: Get, seed: int
    ) -> None:
        """For F image and D text features (None: there is no text branch) and K classes."""
        super().__init__()

        def head(key: int) -> PrototypeHead:
            return seeded(lambda: PrototypeHead(width, classes, how.head), seed, key)

        self.head = head(HEAD)
        if text_width is not None:
            self.ln_t = seeded(lambda: nn.Linear(text_width, width), seed, TRANSLATOR)
            self.text_head = self.head if how.shared_head else head(TEXT_HEAD)


def align(
    z: Float[Tensor, "N D"], z_hat: Float[Tensor, "N D"], scale: float, ignore: bool = False
) -> Float[Tensor, ""]:
    """L_align: each view finds its own text among all, and each text its view; their sum.

    With `ignore` the other view of an image, N / 2 further, is no rival.
    """
    s = scale * normalize(z, dim=-1) @ normalize(z_hat, dim=-1).T
    own = torch.arange(len(z), device=z.device)
    if ignore:
        s = s.index_put((own, own.roll(len(z) // 2)), s.new_tensor(float("-inf")))
    return cross_entropy(s, own) + cross_entropy(s.T, own)


def name_loss(
    z_hat: Float[Tensor, "N D"],
    anchors: Float[Tensor, "C D"],
    labels: Int[Tensor, " N"],
    tau: float = 1.0,
) -> Float[Tensor, ""]:
    """L_distill, first part: a synthesized text is nearest to its class text; 0 without labels."""
    logits = normalize(z_hat, dim=-1) @ anchors.T / tau
    return label_loss(logits.log_softmax(dim=1), labels)


def distance_loss(
    z_hat: Float[Tensor, "N D"], anchors: Float[Tensor, "C D"], labels: Int[Tensor, " N"]
) -> Float[Tensor, ""]:
    """L_distill, second part: squared distance of both as unit vectors; 0 without labels."""
    z_hat, labels = normalize(z_hat[labels != NONE], dim=-1), labels[labels != NONE]
    return (z_hat - anchors[labels]).square().sum() / max(1, len(labels))


def text_scale(z: Float[Tensor, "n D"], z_hat: Float[Tensor, "n D"], length: Length) -> float:
    """Factor of z^ before ln_t: 1, or what makes texts as long as images on average."""
    own, wanted = float(z_hat.norm(dim=1).mean()), float(z.norm(dim=1).mean())
    if length == "raw" or own == 0 or (length == "auto" and own >= min(LONG, wanted)):
        return 1.0
    return wanted / own


def anchored(
    f: Float[Tensor, "N F"], labels: Int[Tensor, " N"], temperature: float
) -> Float[Tensor, "N c"]:
    """The log of s, of all views over the c classes that have a labelled view among them."""
    present, place = labels[labels != NONE].unique(return_inverse=True)
    some = f.detach()[labels != NONE]
    a = normalize(f.new_zeros(len(present), f.shape[1]).index_add(0, place, some), dim=-1)  # a_c
    return (normalize(f, dim=-1) @ a.T / temperature).log_softmax(dim=1)


def consistency(
    log_v: Float[Tensor, "N c"], log_t: Float[Tensor, "N c"], direction: Direction = "both"
) -> Float[Tensor, ""]:
    """L_CICO: each branch teaches the other where the anchors are; 0 for fewer than two."""
    of_image = -torch.einsum("nc,nc->n", log_t.detach().exp(), log_v)
    of_text = -torch.einsum("nc,nc->n", log_v.detach().exp(), log_t)
    learning = {"text_to_image": [of_image], "image_to_text": [of_text]}
    return torch.stack(learning.get(direction, [of_image, of_text])).sum(0).mean()


@torch.no_grad()
def divergence(log_v: Float[Tensor, "N c"], log_t: Float[Tensor, "N c"]) -> Float[Tensor, ""]:
    """KL(s^t || s^v) + KL(s^v || s^t): what of L_CICO can become 0."""
    return torch.einsum("nc,nc->n", log_t.exp() - log_v.exp(), log_t - log_v).mean()


def _named(branch: str, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Terms of a branch under names of their own."""
    return {f"{branch}_{name}": term for name, term in terms.items()}
