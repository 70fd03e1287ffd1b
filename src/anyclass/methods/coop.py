"""CoOp: learn the words before the class name, both towers stay frozen.

Zhou et al., IJCV 2022, arXiv 2109.01134.   Needs: labels for some classes, a name for every class.

    t_c = g( [SOS] v_1 ... v_L {name of c}. [EOS] )     v learned, the same for all classes
    L   = cross-entropy of softmax_c( cos(f, t_c) / tau )
    argmax_c cos( f, t_c )                              also for classes that were not learned

Letters: C classes, M of them in the cross-entropy, D dimensions, L words of width W, f (D,) unit
features of an image, g the text tower.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone
from anyclass.backbone.checkpointing import checkpointed
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.data import Augmentation, Classes, ImageDataset
from anyclass.log import Log
from anyclass.methods.few_shot import (
    START,
    FewShot,
    LabelledFeatures,
    Over,
    SyntheticFeatures,
    TrainingSet,
    refuse_one_class,
)
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.optim import LearningRate, Sgd

WIDE_CROPS = Augmentation(
    (0.08, 1.0), jitter_probability=0.0, grey_probability=0.0, flip_probability=0.5
)
"""Views of CoOp and CoCoOp: a twelfth of the image or more, mirrored or not."""


class Recipe(NamedTuple):
    """How CoOp steps: stochastic gradient descent."""

    batch_size: int
    """S, real images of a step."""
    momentum: float = 0.0
    """Share of the last step in the next."""
    weight_decay: float = 0.0
    """Pull to zero."""
    by_epoch: bool = False
    """Whether the rate changes between epochs only, and whole batches only are used."""
    first: float | None = None
    """Rate of the whole first epoch."""

    def schedule(self, lr: float, per_epoch: int) -> Sgd:
        """Optimiser and learning rates, for as many steps per epoch."""
        rate = LearningRate(lr, epoch=per_epoch if self.by_epoch else 1, first=self.first)
        return Sgd(rate, self.momentum, self.weight_decay)


RECIPES = {
    "coop": Recipe(32, momentum=0.9, weight_decay=5e-4, by_epoch=True, first=1e-5),
    "ship": Recipe(256),
}
"""CoOp's own code, and SHIP's."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class CoOp:
    """Learns the words before the class name from labelled images."""

    kind: Suppress[Literal["coop"]] = "coop"
    """Tells it apart from other methods in a file."""
    data: Annotated[FewShot, arg(name="")] = FewShot(augmentation=WIDE_CROPS)
    """Labelled images that are learned from, and their views (crops of 0.08 to 1; SHIP's code:
    0.5 to 1)."""
    words: str | None = "a photo of a"
    """Words that learning starts from (paper, for named classes: these); None: random vectors."""
    length: Annotated[int, Field(gt=0)] = 4
    """L, words before the name (paper: 4 beside `words`, 16 random ones)."""
    deviation: Annotated[float, Field(gt=0)] = 0.02
    """Of random vectors (paper)."""
    recipe: Literal["coop", "ship"] = "coop"
    """SGD as in CoOp's code: momentum 0.9, decay 5e-4, whole batches of 32, cosine per epoch after
    one at 1e-5; or as in SHIP's: batches of 256, the last one smaller, cosine per step."""
    lr: Annotated[float, Field(ge=0)] = 2e-3
    """Learning rate (both)."""
    epochs: Annotated[int, Field(ge=0)] = 200
    """Passes over the labelled images (both; CoOp on ImageNet: 50)."""
    batch_size: Annotated[int, Field(gt=0)] | None = None
    """S, all images where there are fewer; None: the recipe's."""
    at_once: Annotated[int, Field(gt=0)] | None = None
    """Texts that go through the tower at once where memory is short: the same numbers for a second
    forward pass; None: all."""

    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from labelled images; other classes get the words with their own name.

        Args:
            clip: the model; it is left as it is.
            dataset: images, all readable; those without a label are not looked at.
            log: gets the loss.
            scratch: folder for what a run after a kill goes on from; None keeps nothing.

        Raises:
            RequestError: fewer than two classes, no image with a label, or `words` that are not
                `length` words of the model.
        """
        refuse_one_class(dataset.classes, "CoOp")
        learner = PromptLearner(clip, dataset.classes.prompts, self.length)
        context(learner, self.words, self.deviation, seed=0)  # refuses before images are embedded
        warn_of_long_names(learner, log)
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
            synthetic: features of named classes; then the loss tells all classes apart.
            over: classes that the loss tells apart.
            keep: file for what a run after a kill goes on from; None keeps nothing.

        Raises:
            RequestError: `words` are not `length` words of the model.
        """
        learner, seed = PromptLearner(clip, classes.prompts, self.length), torch.initial_seed()
        v = nn.Parameter(context(learner, self.words, self.deviation, seed))
        training_set, scale = (
            TrainingSet.of(labelled, classes, synthetic, over, log),
            clip.logit_scale.detach(),
        )

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            f, y = training_set.step(batch)
            t = checkpointed(
                lambda c: learner.features(v, c), training_set.columns, self.at_once
            )  # (M, D)
            return {"coop_loss": cross_entropy(scale * f @ t.T, y)}

        how = RECIPES[self.recipe]
        size = self.batch_size or how.batch_size
        batches = labelled.batches(size, self.epochs, seed, whole=how.by_epoch)
        schedule = how.schedule(self.lr, batches.per_epoch)
        optimise(loss, {"context": v}, batches, schedule, log, Checkpoint.at(keep))
        weights = learner.all_features(v)
        facts = {"labelled_images": len(labelled.c)}
        record = {"facts": facts, "learned_from": labelled.files, "context": v.detach()}
        return Classifier(clip, None, classes, weights, "coop", asdict(self), record)


def context(
    learner: PromptLearner, words: str | None, deviation: float, seed: int
) -> Float[Tensor, "L W"]:
    """Vectors that learning starts from: those of words, or random ones.

    Raises:
        RequestError: the words are not as many as there are places.
    """
    if words is not None:
        return learner.spoken(words)
    drawn = torch.randn(learner.length, learner.width, generator=seeded_rng(seed, START))
    return deviation * drawn.to(learner.device)


def warn_of_long_names(learner: PromptLearner, log: Log) -> None:
    """Say which names are so long that the model may not read their end."""
    for prompt in learner.cut_short:
        log(warning=f"the model may not read the end of the class name {prompt!r:.80}")
