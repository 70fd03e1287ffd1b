"""ReCLIP: two copies of a CLIP model, self-trained on pseudo-labels by label propagation.

Hu et al., WACV 2024, arXiv 2308.03793.   Needs: a name for every class, no label.

    A    = U S V^T,  Pi = U_2..r U_2..r^T         projection: removes the common direction
    a_ij = (cos(Pi h_i, Pi h_j) + 1) / 2          the k largest of each node
    W    = (a + a^T) / 2,  S = Delta^-1/2 W Delta^-1/2        Delta: row sums of W
    (I - alpha S) z_c = e_c,  y_i = argmax_c z_c[i]           label propagation
    q_c  = norm( mean of V's features with label c )          centroids of V
    L    = CE( X_T W^T / tau, y ) + CE( X_V Q^T / tau, y )    where the labels of T and V agree
    logits = ( x_T . w_c + x_V . q_c ) / 2 tau

Letters: N images, C classes, D dimensions, B batch, M = C + N nodes h: text features of the
classes and image features. T trains the normalisation layers of its text tower and W (C, D) are its
text features; V trains the normalisation layers of its image tower.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation, concat_towers
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.features.cache import Features
from anyclass.features.openai_templates import OPENAI_TEMPLATES
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, FilledTemplates, Template
from anyclass.log import Log
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.reclip_equations import graph, labelled_loss, projection, propagate
from anyclass.methods.reclip_labels import PseudoLabels
from anyclass.methods.workload import Workload, refuse_one_class
from anyclass.training.batches import Batch, TrainingBatches
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.optim import LearningRate, Sgd

MANY_CLASSES = 500
"""Number of classes above which the paper limits r."""

MANY_CLASSES_DIRECTIONS = 250
"""r above that number of classes."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Reclip:
    """Trains the normalisation layers of both encoders on unlabelled images, given class names."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="ReCLIP",
        situations=(Situation.NAMES,),
        uses_labels=False,
        shares={"agreement_of_towers": "images that both encoders label alike"},
        metrics={
            "residual": "largest remaining error of label propagation",
            "image_loss": "loss of the image encoder",
            "text_loss": "loss of the text encoder",
        },
    )
    """Facts for lists, planning and the report."""
    template: Template = PLAIN
    """Class prompt of T; `{}` is the class name (paper: the first template of the data set)."""
    ensemble: bool = True
    """Use OpenAI's 80 templates for the graph and the first centroids (paper: those of the data
    set), or only `template`."""
    tune: Literal["all", "tail"] = "all"
    """Train the normalisation layers of the whole image encoder from pixels (paper), or of its last
    stage on cached features (the project's own; faster)."""
    epochs: Annotated[int, Field(ge=0)] | None = None
    """Epochs over the images; None: min(100, floor(N / 5000) + 2) (paper)."""
    batch_size: Annotated[int, Field(gt=0)] = 64
    """B (paper: 64); B = N for smaller folders."""
    lr: Annotated[float, Field(ge=0)] = 1e-3
    """Learning rate of SGD (paper: 1e-3)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD (paper: 0.9)."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Weight decay of SGD (paper: 1e-4)."""
    scale: Annotated[float, Field(gt=0)] = 100.0
    """1 / tau, factor on the cosines in the loss (paper: 100)."""
    directions: Annotated[int, Field(gt=1)] | None = None
    """r, singular vectors of the text features; None: all, or 250 above 500 classes (paper)."""
    neighbours: Annotated[int, Field(gt=0)] = 20
    """k, neighbours of a node in the graph (paper: 20)."""
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Weight of the neighbours in label propagation (paper: 0.99)."""
    iterations: Annotated[int, Field(gt=0)] = 20
    """Maximum number of conjugate gradient steps per class (paper: 20)."""
    tolerance: Annotated[float, Field(gt=0)] = 1e-6
    """Relative residual at which conjugate gradients stop (paper: 1e-6)."""

    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on the images without reading any label.

        Args:
            data: the model, which is not changed, readable images and two class names or more.
            log: receives both losses, and the agreement of labels.
            scratch: folder of checkpoints, to resume a killed run; None: no checkpoints.
            seed: random seed.

        Raises:
            RequestError: fewer than two classes, or an encoder without normalisation layers.
        """
        clip = data.clip
        classes = data.dataset.classes
        refuse_one_class(classes, "ReCLIP")
        class_texts = FilledTemplates.of(classes.all_prompts, [self.template])
        t = clip.copy()
        v = clip.copy()
        parameters = t.norms("text") | self._image_norms(v)
        labels = PseudoLabels(self, data, class_texts, log)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            if batch.starts_epoch:
                labels.propagate(t, v)
                log(stage="reclip", step=batch.step, **labels.metrics)
            q = labels.q  # Q (C, D)
            y = labels.y[batch.index].to(q.device)
            x_t = labels.x_t[batch.index]  # X_T (B, D)
            x_v = v.tail(batch.hidden, self.tune)  # X_V (B, D)
            w = class_texts.mean(t.texts(class_texts.texts))  # W (C, D)
            return {
                "text_loss": labelled_loss(self.scale * x_t @ w.T, y),
                "image_loss": labelled_loss(self.scale * x_v @ q.T, y),
            }

        checkpoint = Checkpoint.at(scratch and scratch / "training.safetensors", labels.state)
        rate = LearningRate(self.lr, min_lr=None)
        sgd = Sgd(rate, self.momentum, self.weight_decay)  # the paper has two, with equal settings
        batches = self._batches(v, data.dataset, labels.test_views, seed)
        optimise(loss, parameters, batches, sgd, log, checkpoint, clip.loss_scaler())
        with torch.no_grad():
            weights = concat_towers([labels.q, class_texts.mean(t.texts(class_texts.texts))])
        representation = Representation((v, clip), self.tune)
        head = CosineHead(weights, v.logit_scale.detach())
        record = FitRecord(metrics=labels.metrics, zero_shot_labels=labels.c_zs.tolist())
        return Classifier(representation, head, classes, "reclip", asdict(self), record)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        return Workload(self.tune, least_names=2)

    def epochs_of(self, images: int) -> int:
        """Epochs over a set of `images`."""
        return min(100, images // 5000 + 2) if self.epochs is None else self.epochs

    @property
    def templates(self) -> Sequence[str]:
        """Templates of the text features in the graph."""
        return OPENAI_TEMPLATES if self.ensemble else [self.template]

    def _image_norms(self, v: Backbone) -> dict[str, nn.Parameter]:
        """Trainable normalisation layers of V."""
        part = v.parameters(self.tune)
        norms = {name: norm for name, norm in v.norms("image").items() if name in part}
        if not norms:
            raise RequestError(
                f"{v.model_id}: this part of the image encoder has no normalisation layer; use "
                "--tune all"
            )
        return norms

    def _batches(
        self, v: Backbone, dataset: ImageDataset, features: Features, seed: int
    ) -> TrainingBatches:
        """Batches of test views, shuffled in each epoch."""
        n = len(dataset)
        return TrainingBatches(
            dataset=dataset,
            clip=v,
            cached=None if self.tune == "all" else features,
            augmentation=None,
            batch_size=self.batch_size,
            steps=self.epochs_of(n) * (n // min(n, self.batch_size)),
            seed=seed,
        )

    def label_nodes(
        self, anchors: Float[Tensor, "C D"], x: Float[Tensor, "N D"]
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, ""]]:
        """Labels of all nodes, and the residual of label propagation."""
        r = self.directions
        if r is None and len(anchors) > MANY_CLASSES:
            r = MANY_CLASSES_DIRECTIONS
        h = normalize(torch.cat([anchors, x]) @ projection(anchors, r), dim=-1)  # (M, D)
        s = graph(h, self.neighbours)
        return propagate(s, len(anchors), self.alpha, self.iterations, self.tolerance)
