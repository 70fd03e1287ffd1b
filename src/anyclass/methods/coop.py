"""CoOp: learn the context vectors before the class name; both towers are frozen.

Zhou et al., IJCV 2022, arXiv 2109.01134.   Needs: labels for some classes, a name for every class.

    t_c = g( [SOS] v_1 ... v_L {name of c}. [EOS] )     v trained, shared by all classes
    L   = cross-entropy of softmax_c( cos(f, t_c) / tau )
    argmax_c cos( f, t_c )                              also for classes without labels

Letters: C classes, M of them in the cross-entropy, D dimensions, L context vectors of width W, f
(D,) unit features of an image, g the text tower.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tyro.conf import Suppress, arg

from anyclass.backbone.checkpointing import checkpointed
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.data import Augmentation
from anyclass.data.classes import plural
from anyclass.features.store import FeatureStore
from anyclass.log import Log
from anyclass.methods.few_shot import START, FewShot, FewShotTask, fit_few_shot
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.workload import TextTraining, Workload, refuse_one_class
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.optim import AdamW, LearningRate, Schedule, Sgd

WIDE_CROPS = Augmentation(
    (0.08, 1.0), jitter_probability=0.0, grey_probability=0.0, flip_probability=0.5
)
"""Augmentation of CoOp and CoCoOp: crops of 8 % to 100 % of the area, horizontal flips."""


class Recipe(NamedTuple):
    """Batches and optimiser of CoOp."""

    batch_size: int
    """S, real images per step."""
    momentum: float = 0.0
    """Momentum."""
    weight_decay: float = 0.0
    """Weight decay."""
    by_epoch: bool = False
    """Whether the learning rate changes per epoch and the last incomplete batch is dropped."""
    first: float | None = None
    """Learning rate of the first epoch; None: that of the schedule."""
    adam_eps: float | None = None
    """Epsilon of AdamW, with torch's weight decay; None: SGD."""

    def schedule(self, lr: float, per_epoch: int) -> Schedule:
        """Optimiser and learning rate, for `per_epoch` steps per epoch."""
        rate = LearningRate(lr, epoch=per_epoch if self.by_epoch else 1, first=self.first)
        if self.adam_eps is not None:
            return AdamW(rate, eps=self.adam_eps)
        return Sgd(rate, self.momentum, self.weight_decay)


RECIPES = {
    "coop": Recipe(32, momentum=0.9, weight_decay=5e-4, by_epoch=True, first=1e-5),
    "ship": Recipe(256),
    "ship-imagenet": Recipe(256, adam_eps=1e-4),
}
"""Settings of CoOp's and of SHIP's released code, and of SHIP's for ImageNet."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class CoOp:
    """Trains context vectors before the class name on labelled images."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="CoOp",
        situations=(Situation.NAMES_AND_LABELS,),
        metrics={"coop_loss": "loss of the prompt"},
    )
    """Facts for lists, planning and the report."""
    kind: Suppress[Literal["coop"]] = "coop"
    """Type of the method in saved files."""
    data: Annotated[FewShot, arg(name="")] = FewShot(augmentation=WIDE_CROPS)
    """Labelled images and their augmented views (crops of 0.08 to 1; SHIP's code: 0.5 to 1)."""
    words: str | None = "a photo of a"
    """Initial context, of `length` words (paper, for classes without labels: "a photo of a"); None:
    random vectors."""
    length: Annotated[int, Field(gt=0)] = 4
    """L, context vectors before the class name (paper: 4 with `words`, 16 if random)."""
    deviation: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of random initial vectors (paper: 0.02)."""
    recipe: Literal["coop", "ship", "ship-imagenet"] = "coop"
    """SGD as in CoOp's code (momentum 0.9, weight decay 5e-4, batches of 32, cosine decay per epoch
    after a first epoch at 1e-5), or as in SHIP's (batches of 256, cosine decay per step); or as
    SHIP's for ImageNet: AdamW with epsilon 1e-4 (its code: with `lr` 1e-3 and 20 `epochs`)."""
    lr: Annotated[float, Field(ge=0)] = 2e-3
    """Peak learning rate (both codes: 2e-3)."""
    epochs: Annotated[int, Field(ge=0)] = 200
    """Epochs over the labelled images (both codes: 200; CoOp on ImageNet: 50)."""
    batch_size: Annotated[int, Field(gt=0)] | None = None
    """S, batch size; all images if there are fewer; None: that of the recipe."""
    at_once: Annotated[int, Field(gt=0)] | None = None
    """Texts per forward pass if memory is short: the same result by gradient checkpointing, at the
    cost of a second forward pass; None: all."""

    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on labelled images; the other classes use the context with their own name.

        Args:
            data: the model, which is not changed, and readable images; only the labelled ones
                are used.
            log: receives the loss.
            scratch: folder of checkpoints, to resume a killed run; None: no checkpoints.
            seed: random seed.

        Raises:
            RequestError: fewer than two classes, no image with a label, or `words` that are not
                `length` words of the model.
        """
        refuse_one_class(data.dataset.classes, "CoOp")
        learner = PromptLearner(data.clip, data.dataset.classes.prompts, self.length)
        context(learner, self.words, self.deviation, seed=0)  # fails before images are embedded
        warn_of_long_names(learner, log)
        return fit_few_shot(self, data, log, scratch, seed)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        return self.data.workload(self.epochs, self.text_training())

    def text_training(self) -> TextTraining:
        """Texts that are trained through: those of the classes, in each step."""
        size = self.batch_size or RECIPES[self.recipe].batch_size
        return TextTraining(self.epochs, size, per="step")

    def learn(self, task: FewShotTask, log: Log, checkpoint: Path | None = None) -> Classifier:
        """Fit on features.

        Args:
            task: features of labelled images, and the classes.
            log: receives the loss.
            checkpoint: checkpoint file, to resume a killed run; None: no checkpoint.

        Raises:
            RequestError: `words` are not `length` words of the model.
        """
        clip = task.clip
        learner = PromptLearner(clip, task.classes.prompts, self.length)
        v = nn.Parameter(context(learner, self.words, self.deviation, task.seed))
        training_set = task.training_set(log)
        scale = clip.logit_scale.detach()

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            f, y = training_set.step(batch)
            t = checkpointed(
                lambda c: learner.features(v, c), training_set.columns, self.at_once
            )  # (M, D)
            return {"coop_loss": cross_entropy(scale * f @ t.T, y)}

        recipe = RECIPES[self.recipe]
        size = self.batch_size or recipe.batch_size
        batches = task.labelled.batches(size, self.epochs, task.seed, drop_last=recipe.by_epoch)
        schedule = recipe.schedule(self.lr, batches.per_epoch)
        optimise(loss, {"context": v}, batches, schedule, log, Checkpoint.at(checkpoint))
        weights = learner.all_features(v)
        head = CosineHead(weights, scale)
        metrics = {"labelled_images": len(task.labelled.c)}
        record = FitRecord(trained_on=task.labelled.files, metrics=metrics, context=v.detach())
        representation = Representation((clip,))
        return Classifier(representation, head, task.classes, "coop", asdict(self), record)


def context(
    learner: PromptLearner, words: str | None, deviation: float, seed: int
) -> Float[Tensor, "L W"]:
    """Initial context vectors: embeddings of `words`, or random.

    Raises:
        RequestError: the number of words is not the length of the context.
    """
    if words is not None:
        return learner.embed_words(words)
    drawn = torch.randn(learner.length, learner.width, generator=seeded_rng(seed, START))
    return deviation * drawn.to(learner.device)


def warn_of_long_names(learner: PromptLearner, log: Log) -> None:
    """Log one warning about class names that may exceed the model's context length."""
    cut = learner.cut_short
    if not cut:
        return
    some = ", ".join(f"{prompt!r:.80}" for prompt in cut[:3])
    more = f" and {len(cut) - 3:,} more" if len(cut) > 3 else ""
    names = plural(len(cut), "class name")
    log(warning=f"the model may not read the end of {names}: {some}{more}")
