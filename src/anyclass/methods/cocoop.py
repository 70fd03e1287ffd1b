"""CoCoOp: learn words before the class name that every image shifts; both towers stay frozen.

Zhou et al., CVPR 2022, arXiv 2203.05557.   Needs: labels for some classes, a name for every class.

    pi(f)  = U2 relu( U1 f + c1 ) + c2                       one shift for all words
    t_c(f) = g( [v_1 + pi(f), ..., v_L + pi(f), name of c] )
    L      = cross-entropy of softmax_c( cos(f, t_c(f)) / tau )

Letters: C classes, D dimensions, L words of width W, f (D,) unit features of an image, g the text
tower. Every image needs C texts of its own, in training and afterwards: it is slow.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tyro.conf import arg

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import MetaNet, fresh
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.data import Classes, ImageDataset
from anyclass.log import Log
from anyclass.methods.coop import RECIPES, WIDE_CROPS, context, warn_of_long_names
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


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class CoCoOp:
    """Learns words before the class name, and how an image shifts them."""

    data: Annotated[FewShot, arg(name="")] = FewShot(augmentation=WIDE_CROPS)
    """Labelled images that are learned from, and their views."""
    words: str | None = "a photo of a"
    """Words that learning starts from (paper: these); None: random vectors."""
    length: Annotated[int, Field(gt=0)] = 4
    """L, words before the name (paper: 4)."""
    deviation: Annotated[float, Field(gt=0)] = 0.02
    """Of random vectors (CoOp's paper)."""
    reduction: Annotated[int, Field(gt=0)] = 16
    """D over the hidden units of pi (paper: 16)."""
    lr: Annotated[float, Field(ge=0)] = 2e-3
    """Learning rate of CoOp's SGD: momentum 0.9, decay 5e-4, cosine per epoch after one at 1e-5."""
    epochs: Annotated[int, Field(ge=0)] = 10
    """Passes over the labelled images (paper: 10)."""
    batch_size: Annotated[int, Field(gt=0)] = 1
    """Images of a step (paper: 1); whole batches only."""
    at_once: Annotated[int, Field(gt=0)] = 256
    """Texts that go through the tower at once while training: the same numbers."""

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
        refuse_one_class(dataset.classes, "CoCoOp")
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
        training_set, seed = (
            TrainingSet.of(labelled, classes, synthetic, over, log),
            torch.initial_seed(),
        )
        everyone = PromptLearner(clip, classes.prompts, self.length)
        learner = PromptLearner(
            clip, [classes.prompts[c] for c in training_set.columns.tolist()], self.length
        )
        learned = self._start(context(everyone, self.words, self.deviation, seed), labelled.x, seed)
        head = MetaNet(**learned)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            f, y = training_set.step(batch)
            return {"cocoop_loss": cross_entropy(head.of(clip, learner, f, self.at_once), y)}

        how = RECIPES["coop"]
        batches = labelled.batches(self.batch_size, self.epochs, seed, whole=how.by_epoch)
        schedule = how.schedule(self.lr, batches.per_epoch)
        optimise(loss, learned, batches, schedule, log, Checkpoint.at(keep))
        found = {name: parameter.detach() for name, parameter in learned.items()}
        facts = {"labelled_images": len(labelled.c)}
        record = {"facts": facts, "learned_from": labelled.files}
        about = ("cocoop", asdict(self), record)
        weights, head = everyone.all_features(found["context"]), MetaNet(**found)
        return Classifier(clip, None, classes, weights, *about, head=head)

    def _start(
        self, v: Float[Tensor, "L W"], x: Float[Tensor, "n K D"], seed: int
    ) -> dict[str, nn.Parameter]:
        """The words, and pi as torch's layers start."""
        d, w = x.shape[2], v.shape[1]
        h, drawing = max(1, d // self.reduction), seeded_rng(seed, START)
        u1, u2 = fresh(h, d, drawing), fresh(w, h, drawing)
        c1, c2 = fresh(h, d, drawing)[:, 0].clone(), fresh(w, h, drawing)[:, 0].clone()
        tensors = {"context": v, "u1": u1, "c1": c1, "u2": u2, "c2": c2}
        return {name: nn.Parameter(tensor.to(v)) for name, tensor in tensors.items()}
