"""CLIP-Adapter: a two-layer residual adapter of image features, trained on few images.

Gao et al., IJCV 2023, arXiv 2110.04544.   Needs: labels for some classes, a name for every class.

    A(f) = relu( W2 relu( W1 f ) )                      no biases
    f'   = norm( rho A(f) + (1 - rho) f )
    L    = cross-entropy of softmax_c( cos(f', t_c) / tau )

Letters: C classes, D dimensions, H = D / 4 hidden units, f (D,) unit features of an image, t_c
(D,) text feature of class c, W1 (H, D), W2 (D, H). W1 and W2 are trained, the towers are frozen.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tyro.conf import Suppress, arg

from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import Adapter, init_linear
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, Template, class_features
from anyclass.log import Log
from anyclass.methods.few_shot import START, FewShot, FewShotTask, fit_few_shot
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.workload import Workload, refuse_one_class
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.optim import AdamW, LearningRate


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class ClipAdapter:
    """Trains a residual adapter of the image features on labelled images."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="CLIP-Adapter",
        situations=(Situation.NAMES_AND_LABELS,),
        metrics={"clip_adapter_loss": "loss of the adapter"},
    )
    """Facts for lists, planning and the report."""
    kind: Suppress[Literal["clip-adapter"]] = "clip-adapter"
    """Type of the method in saved files."""
    data: Annotated[FewShot, arg(name="")] = FewShot()
    """Labelled images and their augmented views."""
    template: Template = PLAIN
    """Class prompt; `{}` is the class name."""
    ratio: Annotated[float, Field(ge=0, le=1)] = 0.2
    """rho, weight of the adapted feature; 0: zero-shot (released code: 0.2; paper: 0.2 to 0.6,
    chosen for each data set)."""
    reduction: Annotated[int, Field(gt=0)] = 4
    """D divided by the number of hidden units (released code: 4)."""
    lr: Annotated[float, Field(ge=0)] = 1e-3
    """Peak learning rate of AdamW, with cosine decay (the project's own; paper: 1e-5)."""
    eps: Annotated[float, Field(gt=0)] = 1e-4
    """Epsilon of AdamW (the project's own, as Tip-Adapter's)."""
    epochs: Annotated[int, Field(ge=0)] = 200
    """Epochs over the labelled images (the project's own)."""
    batch_size: Annotated[int, Field(gt=0)] = 256
    """Batch size; all images if there are fewer (the project's own; paper: 32)."""

    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on labelled images; the adapter applies to the other classes as well.

        Args:
            data: the model, which is not changed, and readable images; only the labelled ones
                are used.
            log: receives the loss.
            scratch: folder of checkpoints, to resume a killed run; None: no checkpoints.
            seed: random seed.

        Raises:
            RequestError: fewer than two classes, or no image with a label.
        """
        refuse_one_class(data.dataset.classes, "CLIP-Adapter")
        return fit_few_shot(self, data, log, scratch, seed)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        return self.data.workload(self.epochs)

    def learn(self, task: FewShotTask, log: Log, checkpoint: Path | None = None) -> Classifier:
        """Fit on features.

        Args:
            task: features of labelled images, and the classes.
            log: receives the loss.
            checkpoint: checkpoint file, to resume a killed run; None: no checkpoint.
        """
        clip = task.clip
        prompts = task.classes.all_prompts
        training_set = task.training_set(log)
        with torch.no_grad():
            t = class_features(clip, prompts, [self.template])
        parameters = self._initial(t, task.seed)
        scale = clip.logit_scale.detach()
        columns = training_set.columns
        head = Adapter(**parameters, ratio=self.ratio, texts=t[columns], scale=scale)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            f, y = training_set.step(batch)
            return {"clip_adapter_loss": cross_entropy(head.logits(f), y)}

        batches = task.labelled.batches(self.batch_size, self.epochs, task.seed)
        schedule = AdamW(LearningRate(self.lr), eps=self.eps)
        optimise(loss, parameters, batches, schedule, log, Checkpoint.at(checkpoint))
        trained = {name: parameter.detach() for name, parameter in parameters.items()}
        metrics = {"labelled_images": len(task.labelled.c)}
        record = FitRecord(trained_on=task.labelled.files, metrics=metrics)
        head = Adapter(**trained, ratio=self.ratio, texts=t, scale=scale)
        representation = Representation((clip,))
        return Classifier(representation, head, task.classes, "clip-adapter", asdict(self), record)

    def _initial(self, t: Float[Tensor, "C D"], seed: int) -> dict[str, nn.Parameter]:
        """Initialise W1 and W2 as `nn.Linear` does."""
        d = t.shape[1]
        h = max(1, d // self.reduction)
        rng = seeded_rng(seed, START)
        w1 = init_linear(h, d, rng)
        w2 = init_linear(d, h, rng)
        return {"w1": nn.Parameter(w1.to(t)), "w2": nn.Parameter(w2.to(t))}
