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
from math import isnan
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.sparse import csr_array, diags_array, eye_array
from scipy.sparse.linalg import cg
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation, concat_towers
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.features.cache import Embedding, Features, cached_part
from anyclass.features.extract import current_features
from anyclass.features.openai_templates import OPENAI_TEMPLATES
from anyclass.features.store import FeatureStore
from anyclass.features.text import (
    PLAIN,
    FilledTemplates,
    Template,
    class_features,
)
from anyclass.log import Log
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.workload import Workload
from anyclass.training.batches import Batch, TrainingBatches
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.optim import LearningRate, Sgd

NONE = -1
"""Label of an image without one: T and V disagree, or no class reaches it."""

BLOCK = 512
"""Rows of the similarity matrix in memory at once."""

MANY_CLASSES = 500
"""Number of classes above which the paper limits r."""

MANY_CLASSES_DIRECTIONS = 250
"""r above that number of classes."""

FACTS = ("agreement_of_towers", "agreement_with_zero_shot", "residual")
"""Share of images with the same label by T and V; share of these in their zero-shot class; largest
residual of label propagation."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Reclip:
    """Trains the normalisation layers of both encoders on unlabelled images, given class names."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="ReCLIP",
        situations=(Situation.NAMES,),
        uses_labels=False,
        shares={"agreement_of_towers": "images that both encoders label alike"},
        figures={
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
        dataset = data.dataset
        if len(dataset.classes) < 2:
            raise RequestError("ReCLIP needs two or more class names (--classes FILE)")
        part = cached_part(self.tune)
        prompts = dataset.classes.all_prompts
        class_texts = FilledTemplates.of(prompts, [self.template])
        t = clip.copy()
        v = clip.copy()
        parameters = t.norms("text") | self._image_norms(v)
        features = data.embed(Embedding(part), log)
        x_t = data.image_features(part, log)  # X_T (N, D)
        anchors = data.class_features(self._templates, log)  # constant for V
        with torch.no_grad():
            c_zs = (x_t @ class_texts.mean(clip.texts(class_texts.texts)).T).argmax(1).cpu()
        y = torch.full((len(dataset),), NONE)  # (N,)
        q = anchors.clone()  # Q (C, D)
        facts = torch.full((len(FACTS),), torch.nan)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            if batch.starts_epoch:
                update_labels()
                log(stage="reclip", step=batch.step, **_figures(facts))
            c = y[batch.index].to(q.device)
            x_v = v.tail(batch.hidden, self.tune)
            w = class_texts.mean(t.texts(class_texts.texts))
            text_loss = labelled_loss(self.scale * x_t[batch.index] @ w.T, c)
            image_loss = labelled_loss(self.scale * x_v @ q.T, c)
            return {"text_loss": text_loss, "image_loss": image_loss}

        @torch.no_grad()
        def update_labels() -> None:
            """Compute the labels on which T and V agree, and the centroids of V."""
            x_v = current_features(v, dataset, self.tune, features).to(q)
            c_t, error_t = self._labels(class_features(t, prompts, self._templates), x_t)
            c_v, error_v = self._labels(anchors, x_v)
            q.copy_(centroids(torch.cat([anchors, x_v]), c_v, q))
            y.copy_(torch.where(c_t[len(q) :] == c_v[len(q) :], c_v[len(q) :], NONE))
            agreement = (y != NONE).float().mean()
            with_zero_shot = (c_zs == y)[y != NONE].float().mean()
            facts.copy_(torch.stack([agreement, with_zero_shot, error_t.maximum(error_v)]))

        state = {"y": y, "q": q, "facts": facts}
        keep = Checkpoint(scratch / "training.safetensors", state) if scratch else None
        rate = LearningRate(self.lr, min_lr=None)
        sgd = Sgd(rate, self.momentum, self.weight_decay)  # the paper has two, with equal settings
        optimise(loss, parameters, self._batches(v, dataset, features, seed), sgd, log, keep)
        with torch.no_grad():
            weights = concat_towers([q, class_texts.mean(t.texts(class_texts.texts))])
        representation = Representation((v, clip), self.tune)
        head = CosineHead(weights, v.logit_scale.detach())
        record = FitRecord(facts=_figures(facts), zero_shot_labels=c_zs.tolist())
        return Classifier(representation, head, dataset.classes, "reclip", asdict(self), record)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        return Workload(self.tune, least_names=2)

    def epochs_of(self, images: int) -> int:
        """Epochs over a set of `images`."""
        return min(100, images // 5000 + 2) if self.epochs is None else self.epochs

    @property
    def _templates(self) -> Sequence[str]:
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

    def _labels(
        self, anchors: Float[Tensor, "C D"], x: Float[Tensor, "N D"]
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, ""]]:
        """Labels of all nodes, and the residual of label propagation."""
        r = self.directions
        if r is None and len(anchors) > MANY_CLASSES:
            r = MANY_CLASSES_DIRECTIONS
        h = normalize(torch.cat([anchors, x]) @ projection(anchors, r), dim=-1)  # (M, D)
        s = graph(h, self.neighbours)
        return propagate(s, len(anchors), self.alpha, self.iterations, self.tolerance)


def projection(a: Float[Tensor, "C D"], directions: int | None = None) -> Float[Tensor, "D D"]:
    """Pi, projection onto singular vectors 2 to r of the text features; None: all but the first."""
    u = torch.linalg.svd(a.T, full_matrices=False).U[:, 1:directions]
    return torch.einsum("dr,er->de", u, u)


def graph(h: Float[Tensor, "M D"], neighbours: int) -> csr_array:
    """S (M, M), the normalised graph of the nearest neighbours of unit nodes."""
    k = min(neighbours, len(h) - 1)
    blocks = []
    for rows in torch.arange(len(h), device=h.device).split(BLOCK):
        a = (h[rows] @ h.T + 1) / 2
        a[rows - rows[0], rows] = 0  # no node is its own neighbour
        blocks.append([part.cpu() for part in a.topk(k)])
    values, columns = (torch.cat(parts).flatten().numpy() for parts in zip(*blocks, strict=True))
    starts = np.arange(0, len(values) + 1, k)
    a = csr_array((values.astype(float), columns, starts), (len(h), len(h)))
    w = (a + a.T) / 2
    delta = diags_array(w.sum(axis=1).clip(np.finfo(float).tiny) ** -0.5)  # zero rows remain zero
    return csr_array(delta @ w @ delta)


def propagate(
    s: csr_array, classes: int, alpha: float, iterations: int, tolerance: float
) -> tuple[Int[Tensor, " M"], Float[Tensor, ""]]:
    """argmax_c z_c of (I - alpha S) z_c = e_c, and the largest residual |e_c - (I - alpha S) z_c|.

    A node that no class reaches has no label.
    """
    system = eye_array(s.shape[0], format="csr") - alpha * s
    error = 0.0
    best = np.zeros(s.shape[0])
    y = np.full(s.shape[0], NONE)
    for c in range(classes):
        e = np.zeros_like(best)
        e[c] = 1
        z, _ = cg(system, e, rtol=tolerance, atol=0.0, maxiter=iterations)
        error = max(error, float(np.linalg.norm(e - system @ z)))
        y[z > best] = c
        best = np.maximum(best, z)
    return torch.from_numpy(y), torch.tensor(error)


def centroids(
    h: Float[Tensor, "M D"], y: Int[Tensor, " M"], before: Float[Tensor, "C D"]
) -> Float[Tensor, "C D"]:
    """Unit mean of the nodes of each class; the previous one for a class without nodes."""
    h = h[(y != NONE).to(h.device)]
    y = y[y != NONE]
    total = torch.zeros_like(before).index_add(0, y.to(h.device), h)
    count = y.bincount(minlength=len(before)).to(h.device)
    return torch.where((count > 0)[:, None], normalize(total, dim=-1), before)


def labelled_loss(logits: Float[Tensor, "B C"], y: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of the labelled samples; 0 if there are none."""
    total = cross_entropy(logits, y, ignore_index=NONE, reduction="sum")
    return total / (y != NONE).sum().clamp_min(1)


def _figures(facts: Float[Tensor, "3"]) -> dict[str, float]:
    """Names and values of `FACTS`; empty before the first epoch."""
    figures = zip(FACTS, facts.tolist(), strict=True)
    return {name: value for name, value in figures if not isnan(value)}
