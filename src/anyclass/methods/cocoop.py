"""CoCoOp: learn context vectors that a meta-net shifts for each image; both towers are frozen.

Zhou et al., CVPR 2022, arXiv 2203.05557.   Needs: labels for some classes, a name for every class.

    pi(f)  = U2 relu( U1 f + c1 ) + c2                       meta-net: one shift for all vectors
    t_c(f) = g( [v_1 + pi(f), ..., v_L + pi(f), name of c] )
    L      = cross-entropy of softmax_c( cos(f, t_c(f)) / tau )

Letters: C classes, D dimensions, L context vectors of width W, f (D,) unit features of an
image, g the text tower. Every image needs C text features of its own, in training and inference: it
is slow.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, ClassVar

from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tyro.conf import arg

from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import MetaNet, init_linear
from anyclass.classifier.prompt_learner import AT_ONCE, PromptLearner
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.features.store import FeatureStore
from anyclass.log import Log
from anyclass.methods.coop import RECIPES, WIDE_CROPS, context, warn_of_long_names
from anyclass.methods.few_shot import START, FewShot, FewShotTask, fit_few_shot
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.workload import TextTraining, Workload, refuse_one_class
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class CoCoOp:
    """Trains context vectors before the class name, and a meta-net that shifts them per image."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="CoCoOp",
        situations=(Situation.NAMES_AND_LABELS,),
        metrics={"cocoop_loss": "loss of the prompt"},
    )
    """Facts for lists, planning and the report."""
    data: Annotated[FewShot, arg(name="")] = FewShot(augmentation=WIDE_CROPS)
    """Labelled images and their augmented views."""
    words: str | None = "a photo of a"
    """Initial context, of `length` words (paper: "a photo of a"); None: random vectors."""
    length: Annotated[int, Field(gt=0)] = 4
    """L, context vectors before the class name (paper: 4)."""
    deviation: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of random initial vectors (CoOp's paper: 0.02)."""
    reduction: Annotated[int, Field(gt=0)] = 16
    """D divided by the hidden units of pi (paper: 16)."""
    lr: Annotated[float, Field(ge=0)] = 2e-3
    """Peak learning rate of CoOp's SGD: momentum 0.9, weight decay 5e-4, cosine decay per epoch
    after a first epoch at 1e-5 (paper: 2e-3)."""
    epochs: Annotated[int, Field(ge=0)] = 10
    """Epochs over the labelled images (paper: 10)."""
    batch_size: Annotated[int, Field(gt=0)] = 1
    """Batch size (paper: 1); the last incomplete batch is dropped."""
    at_once: Annotated[int, Field(gt=0)] = 256
    """Texts per forward pass in training; lower it if memory is short: the result is the same."""

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
        refuse_one_class(data.dataset.classes, "CoCoOp")
        learner = PromptLearner(data.clip, data.dataset.classes.prompts, self.length)
        context(learner, self.words, self.deviation, seed=0)  # fails before images are embedded
        warn_of_long_names(learner, log)
        return fit_few_shot(self, data, log, scratch, seed)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        return self.data.workload(
            self.epochs, TextTraining(self.epochs, self.batch_size, per="image")
        )

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
        training_set = task.training_set(log)
        all_classes = PromptLearner(clip, task.classes.prompts, self.length)
        prompts = [task.classes.prompts[c] for c in training_set.columns.tolist()]
        learner = PromptLearner(clip, prompts, self.length)
        start = context(all_classes, self.words, self.deviation, task.seed)
        parameters = self._initial(start, task.labelled.x, task.seed)
        scale = clip.logit_scale.detach()
        head = MetaNet(**parameters, learner=learner, scale=scale, at_once=self.at_once)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            f, y = training_set.step(batch)
            return {"cocoop_loss": cross_entropy(head.logits(f), y)}

        recipe = RECIPES["coop"]
        batches = task.labelled.batches(
            self.batch_size, self.epochs, task.seed, drop_last=recipe.by_epoch
        )
        schedule = recipe.schedule(self.lr, batches.per_epoch)
        optimise(loss, parameters, batches, schedule, log, Checkpoint.at(checkpoint))
        trained = {name: parameter.detach() for name, parameter in parameters.items()}
        metrics = {"labelled_images": len(task.labelled.c)}
        record = FitRecord(trained_on=task.labelled.files, metrics=metrics)
        head = MetaNet(**trained, learner=all_classes, scale=scale, at_once=AT_ONCE)
        representation = Representation((clip,))
        return Classifier(representation, head, task.classes, "cocoop", asdict(self), record)

    def _initial(
        self, v: Float[Tensor, "L W"], x: Float[Tensor, "n K D"], seed: int
    ) -> dict[str, nn.Parameter]:
        """Initialise the context by v, and pi as `nn.Linear` does."""
        d = x.shape[2]
        w = v.shape[1]
        h = max(1, d // self.reduction)
        rng = seeded_rng(seed, START)
        u1 = init_linear(h, d, rng)
        u2 = init_linear(w, h, rng)
        c1 = init_linear(h, d, rng)[:, 0].clone()
        c2 = init_linear(w, h, rng)[:, 0].clone()
        tensors = {"context": v, "u1": u1, "c1": c1, "u2": u2, "c2": c2}
        return {name: nn.Parameter(tensor.to(v)) for name, tensor in tensors.items()}
