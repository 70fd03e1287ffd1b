"""SHIP without a label: CoOp's context is trained on synthetic features of all classes alone.

    t_c = g( v_1 ... v_L {name of c} )                  v trained, from a source run or from words
    L   = cross-entropy of softmax_c( cos(x^, t_c) / tau )

x^ are features by the generator of the source run. Letters: C classes, D dimensions, L context
vectors of width W.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from anyclass.backbone import Backbone
from anyclass.backbone.checkpointing import checkpointed
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.data import Classes
from anyclass.log import Log
from anyclass.methods.synthetic_features import SyntheticFeatures
from anyclass.training.batches import Batch, Steps
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.optim import AdamW, LearningRate


@dataclass(frozen=True)
class Transfer:
    """Training of CoOp's context on synthetic features."""

    clip: Backbone
    """The model."""
    classes: Classes
    """The C classes."""
    start: Float[Tensor, "L W"]
    """Initial context."""
    steps: int
    """Training steps."""
    size: int
    """Synthetic features per step."""
    lr: float
    """Peak learning rate of AdamW."""
    at_once: int | None
    """Texts per forward pass; None: all."""

    def learn(
        self, synthetic: SyntheticFeatures | None, log: Log, checkpoint: Path | None = None
    ) -> Classifier:
        """Fit on synthetic features of all classes; None: the initial context stays.

        Args:
            synthetic: the features.
            log: receives the loss.
            checkpoint: checkpoint file, to resume a killed run; None: no checkpoint.
        """
        learner = PromptLearner(self.clip, self.classes.prompts, len(self.start))
        all_classes = torch.arange(len(self.classes))
        scale = self.clip.logit_scale.detach()
        v = nn.Parameter(self.start.clone())
        if synthetic is not None:

            def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
                x, c = synthetic.batch(batch.step, self.size)
                t = checkpointed(lambda c: learner.features(v, c), all_classes, self.at_once)
                logits = scale * x @ t.T
                return {"transfer_loss": cross_entropy(logits, c.to(logits.device))}

            adam = AdamW(LearningRate(self.lr), eps=1e-4)
            optimise(loss, {"context": v}, Steps(self.steps), adam, log, Checkpoint.at(checkpoint))
        head = CosineHead(learner.all_features(v.detach()), scale)
        record = FitRecord(context=v.detach(), metrics={"transfer_steps": self.steps})
        return Classifier(Representation((self.clip,)), head, self.classes, "ship", record=record)
