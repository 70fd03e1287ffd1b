"""Tip-Adapter: remember the labelled images, and let new ones ask the nearest of them.

Zhang et al., ECCV 2022, arXiv 2207.09519.   Needs: labels for some classes, a name for every class.

    logits = f W^T / tau + alpha exp( -beta (1 - f F^T) ) Y
    L      = cross-entropy of the logits           F learns (Tip-Adapter-F), alpha and beta stay

Letters: C classes, D dimensions, k keys, f (D,) unit features of an image, W (C, D) texts of the
classes, F (k, D) keys, one for each labelled image, Y (k, C) their labels, one-hot. alpha weighs
the memory, beta says how fast a key's say falls with distance.
"""

from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot
from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CacheModel
from anyclass.data import Classes, ImageDataset
from anyclass.features.text import PLAIN, Template, class_features
from anyclass.log import Log
from anyclass.methods.few_shot import (
    FewShot,
    LabelledFeatures,
    Over,
    SyntheticFeatures,
    TrainingSet,
    refuse_one_class,
)
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.optim import AdamW, LearningRate

LEAST, BETAS, ALPHAS = 0.1, 200, 20
"""Where the grid of the search begins, and its size (released code)."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class TipAdapter:
    """Remembers labelled images beside the class texts, and may train that memory."""

    kind: Suppress[Literal["tip-adapter"]] = "tip-adapter"
    """Tells it apart from other methods in a file."""
    data: Annotated[FewShot, arg(name="")] = FewShot()
    """Labelled images that are learned from, and their views."""
    template: Template = PLAIN
    """Class text; `{}` is the class."""
    train: bool = True
    """Whether keys are trained (Tip-Adapter-F) or stay what they are."""
    alpha: Annotated[float, Field(ge=0)] = 1.17
    """Weight of the memory (released code: 1.17 for ImageNet, 1.17 to 10 elsewhere)."""
    beta: Annotated[float, Field(ge=0)] = 1.0
    """How fast a key's say falls with distance (released code: 1)."""
    lr: Annotated[float, Field(ge=0)] = 1e-3
    """AdamW's highest learning rate, half a cosine follows (paper)."""
    eps: Annotated[float, Field(gt=0)] = 1e-4
    """AdamW's floor (released code)."""
    epochs: Annotated[int, Field(ge=0)] = 20
    """Passes over the labelled images (paper; EuroSAT: 100)."""
    batch_size: Annotated[int, Field(gt=0)] = 256
    """Images of a step, all where there are fewer (paper)."""
    balanced: bool = False
    """Whether keys of a class with many weigh less, so that all classes have an equal say."""
    named_keys: Annotated[int, Field(gt=0)] | None = None
    """Keys of a class that features are made for; None: the median of images per class."""
    draws: Annotated[int, Field(gt=0)] = 1
    """Made features whose mean is one key."""
    search: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the labelled images that is held out and chooses alpha and beta; 0: none."""
    beta_max: Annotated[float, Field(gt=0)] = 7.0
    """End of the search for beta (released code: 7 for ImageNet, 7 to 50 elsewhere)."""
    alpha_max: Annotated[float, Field(gt=0)] = 3.0
    """End of the search for alpha (released code: 3 for ImageNet, 3 to 50 elsewhere)."""

    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from labelled images; other classes have their text alone.

        Args:
            clip: the model; it is left as it is.
            dataset: images, all readable; those without a label are not looked at.
            log: gets the loss.
            scratch: folder for what a run after a kill goes on from; None keeps nothing.

        Raises:
            RequestError: fewer than two classes, or no image with a label.
        """
        refuse_one_class(dataset.classes, "Tip-Adapter")
        labelled = self.data.show(clip, dataset, log, self.epochs)
        keep = scratch / "training.safetensors" if scratch else None
        return self.learn(clip, labelled, dataset.classes, log, keep=keep)

    def learn(
        self,
        clip: Backbone,
        labelled: LabelledFeatures,
        classes: Classes,
        log: Log,
        synthetic: SyntheticFeatures | None = None,
        over: Over = "labelled",
        keep: Path | None = None,
    ) -> Classifier:
        """Learn from features.

        Args:
            clip: the model; it is left as it is.
            labelled: labelled images.
            classes: all classes.
            log: gets the loss.
            synthetic: features of named classes; they become keys and count in the loss.
            over: classes that the loss tells apart.
            keep: file for what a run after a kill goes on from; None keeps nothing.
        """
        with torch.no_grad():
            w = class_features(clip, classes.prompts, [self.template])
        learned, held = labelled.split(self.search, torch.initial_seed())
        head = self._memory(learned, synthetic, len(classes))
        if self.train:
            training_set = TrainingSet.of(learned, classes, synthetic, over, log)
            head = replace(head, keys=self._trained(clip, head, w, training_set, log, keep))
        if self.search and len(held.c):
            most = _Most(self.beta_max, self.alpha_max)
            head = search(head, clip, w, held, learned.classes, most)
        elif self.search:
            log(warning="no class has images enough to hold one out: alpha and beta stay")
        facts = {"keys": len(head.keys), "alpha": head.alpha, "beta": head.beta}
        record = {"facts": facts, "learned_from": labelled.files}
        about = ("tip-adapter", asdict(self), record)
        return Classifier(clip, None, classes, w, *about, head=head)

    def _memory(
        self, labelled: LabelledFeatures, synthetic: SyntheticFeatures | None, classes: int
    ) -> CacheModel:
        """Keys of labelled images, then those that are made."""
        keys, c = labelled.means, labelled.c
        if synthetic is not None:
            usual = round(median(labelled.c.bincount()[labelled.classes].tolist()))
            x, c_synthetic = synthetic.each((self.named_keys or usual) * self.draws)
            x = normalize(x.unflatten(0, (-1, self.draws)).mean(1), dim=-1)
            keys, c = (
                torch.cat([keys, x.to(keys)]),
                torch.cat([c, c_synthetic[:: self.draws].to(c)]),
            )
        values = labels_of(c, classes, self.balanced).to(keys)
        return CacheModel(keys, values, self.alpha, self.beta)

    def _trained(
        self,
        clip: Backbone,
        head: CacheModel,
        w: Float[Tensor, "C D"],
        training_set: TrainingSet,
        log: Log,
        keep: Path | None,
    ) -> Float[Tensor, "k D"]:
        """F, the keys, trained (Tip-Adapter-F)."""
        keys, columns = nn.Parameter(head.keys.clone()), training_set.columns
        training = replace(head, keys=keys, values=head.values[:, columns])

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            f, y = training_set.step(batch)
            logits = training.logits(clip, (), w[columns], f)
            return {"tip_adapter_loss": cross_entropy(logits, y)}

        batches = training_set.labelled.batches(self.batch_size, self.epochs, torch.initial_seed())
        schedule = AdamW(LearningRate(self.lr), eps=self.eps)
        optimise(loss, {"keys": keys}, batches, schedule, log, Checkpoint.at(keep))
        return keys.detach()


class _Most(NamedTuple):
    """Ends of the grid."""

    beta: float
    alpha: float


def labels_of(c: Int[Tensor, " k"], classes: int, balanced: bool) -> Float[Tensor, "k C"]:
    """Y, one-hot; balanced: a class's rows over its count, times the mean count."""
    count = c.bincount(minlength=classes).float()
    weight = count[count > 0].mean() / count[c] if balanced else torch.ones(len(c))
    return torch.einsum("k,kc->kc", weight, one_hot(c, classes).float())


@torch.no_grad()
def search(
    head: CacheModel,
    clip: Backbone,
    w: Float[Tensor, "C D"],
    held: LabelledFeatures,
    columns: Int[Tensor, " M"],
    most: _Most,
) -> CacheModel:
    """The first alpha and beta of the grid that label most held-out images right.

    Args:
        head: the memory, in which none of them is.
        clip: the model, for its scale.
        w: class texts.
        held: labelled images, held out.
        columns: labelled classes, the only ones that are told apart here.
        most: ends of the grid.
    """
    f, y = held.means, torch.searchsorted(columns, held.c).to(held.x.device)
    texts, cosines = clip.logit_scale * f @ w[columns].T, f @ head.keys.T
    found, best = (head.alpha, head.beta), -1
    for beta in grid(most.beta, BETAS):
        memory = (-beta * (1 - cosines)).exp() @ head.values[:, columns]
        for alpha in grid(most.alpha, ALPHAS):
            right = int(((texts + alpha * memory).argmax(1) == y).sum())
            if right > best:
                found, best = (alpha, beta), right
    return replace(head, alpha=found[0], beta=found[1])


def grid(most: float, count: int) -> list[float]:
    """`count` values from 0.1 on; `most` would be the next."""
    return [LEAST + i * (most - LEAST) / count for i in range(count)]
