"""CLIP-Adapter: two thin layers beside the image feature, trained on few images.

Gao et al., IJCV 2023, arXiv 2110.04544.   Needs: labels for some classes, a name for every class.

    A(f) = relu( W2 relu( W1 f ) )                      no biases
    f'   = norm( rho A(f) + (1 - rho) f )
    L    = cross-entropy of softmax_c( cos(f', t_c) / tau )

Letters: C classes, D dimensions, H = D / 4 hidden units, f (D,) unit features of an image, t_c
(D,) text of class c, W1 (H, D), W2 (D, H). W1 and W2 learn, the towers stay frozen.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import Adapter, fresh
from anyclass.data import Classes, ImageDataset
from anyclass.features.text import PLAIN, Template, class_features
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
from anyclass.training.optim import AdamW, LearningRate


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class ClipAdapter:
    """Learns a small change of image features from labelled images."""

    kind: Suppress[Literal["clip-adapter"]] = "clip-adapter"
    """Tells it apart from other methods in a file."""
    data: Annotated[FewShot, arg(name="")] = FewShot()
    """Labelled images that are learned from, and their views."""
    template: Template = PLAIN
    """Class text; `{}` is the class."""
    ratio: Annotated[float, Field(ge=0, le=1)] = 0.2
    """rho, share of the adapted feature (released code: 0.2; paper: per set, 0.2 to 0.6)."""
    reduction: Annotated[int, Field(gt=0)] = 4
    """D over the hidden units (released code: 4)."""
    lr: Annotated[float, Field(ge=0)] = 1e-3
    """AdamW's highest learning rate, half a cosine follows (the project's own; paper: 1e-5)."""
    eps: Annotated[float, Field(gt=0)] = 1e-4
    """AdamW's floor (the project's own, as Tip-Adapter's)."""
    epochs: Annotated[int, Field(ge=0)] = 200
    """Passes over the labelled images (the project's own)."""
    batch_size: Annotated[int, Field(gt=0)] = 256
    """Images of a step, all where there are fewer (the project's own; paper: 32)."""

    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from labelled images; other classes are told by their text and changed features.

        Args:
            clip: the model; it is left as it is.
            dataset: images, all readable; those without a label are not looked at.
            log: gets the loss.
            scratch: folder for what a run after a kill goes on from; None keeps nothing.

        Raises:
            RequestError: fewer than two classes, or no image with a label.
        """
        refuse_one_class(dataset.classes, "CLIP-Adapter")
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
        """
        training_set, seed = (
            TrainingSet.of(labelled, classes, synthetic, over, log),
            torch.initial_seed(),
        )
        with torch.no_grad():
            t = class_features(clip, classes.prompts, [self.template])
        learned = self._start(t, seed)
        head = Adapter(**learned, ratio=self.ratio)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            f, y = training_set.step(batch)
            logits = head.logits(clip, classes.prompts, t[training_set.columns], f)
            return {"clip_adapter_loss": cross_entropy(logits, y)}

        batches = labelled.batches(self.batch_size, self.epochs, seed)
        schedule = AdamW(LearningRate(self.lr), eps=self.eps)
        optimise(loss, learned, batches, schedule, log, Checkpoint.at(keep))
        found = {name: parameter.detach() for name, parameter in learned.items()}
        facts = {"labelled_images": len(labelled.c)}
        record = {"facts": facts, "learned_from": labelled.files}
        about, head = ("clip-adapter", asdict(self), record), Adapter(**found, ratio=self.ratio)
        return Classifier(clip, None, classes, t, *about, head=head)

    def _start(self, t: Float[Tensor, "C D"], seed: int) -> dict[str, nn.Parameter]:
        """W1 and W2 as torch's layers start."""
        d = t.shape[1]
        h, drawing = max(1, d // self.reduction), seeded_rng(seed, START)
        w1, w2 = fresh(h, d, drawing), fresh(d, h, drawing)
        return {"w1": nn.Parameter(w1.to(t)), "w2": nn.Parameter(w2.to(t))}
