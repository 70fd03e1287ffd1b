"""ReCLIP: two copies of a CLIP model teach each other what the images look like among themselves.

Hu et al., WACV 2024, arXiv 2308.03793.   Needs: a name for every class, and no label at all.

    A    = U S V^T,  Pi = U_2..r U_2..r^T         projection: drops what all class texts share
    a_ij = (cos(Pi h_i, Pi h_j) + 1) / 2          the k largest of each node are kept
    W    = (a + a^T) / 2,  S = Delta^-1/2 W Delta^-1/2        Delta: row sums of W
    (I - alpha S) z_c = e_c,  y_i = argmax_c z_c[i]           label propagation
    q_c  = norm( mean of V's features with label c )          centroids of V
    L    = CE( X_T W^T / tau, y ) + CE( X_V Q^T / tau, y )    where labels of T and V agree
    logits = ( x_T . w_c + x_V . q_c ) / 2 tau

Letters: N images, C classes, D dimensions, B batch, M = C + N nodes h: class texts and images.
T trains the norms of its text tower, W (C, D) are its class texts; V those of its image tower.
"""

from collections.abc import Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Annotated, Literal

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
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.features.extract import (
    Embedding,
    Features,
    cached_part,
    current_features,
    embed,
    image_features,
    side_by_side,
)
from anyclass.features.text import PLAIN, Template, class_features, fill, openai_templates
from anyclass.log import Log
from anyclass.training.batches import Batch, TrainingBatches
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.optim import LearningRate, Sgd

NONE = -1
"""Label of an image that has none: T and V do not agree, or nothing reaches it."""

BLOCK = 512
"""Rows of similarities that are held at once."""

MANY, FEWER = 500, 250
"""Beyond so many classes the paper keeps so many singular vectors."""

FACTS = ("agreement_of_towers", "agreement_with_zero_shot", "residual")
"""Share of images that T and V label alike; of these, those still in their zero-shot class; the
largest error that is left in the equations of label propagation."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Reclip:
    """Adapts the norms of both towers to a folder of unlabelled images, class names known."""

    template: Template = PLAIN
    """Class text of T; `{}` is the class (paper: the first of the set's list)."""
    ensemble: bool = True
    """Class texts of graph and first centroids by 80 templates (paper: the set's), or by one."""
    tune: Literal["all", "tail"] = "all"
    """Norms of the whole image tower, from pixels (paper), or on cached features those of its last
    stage (the project's own)."""
    epochs: Annotated[int, Field(ge=0)] | None = None
    """Passes over the images; None: min(100, floor(N / 5000) + 2) (paper)."""
    batch_size: Annotated[int, Field(gt=0)] = 64
    """B (paper: 64); B = N for smaller folders."""
    lr: Annotated[float, Field(ge=0)] = 1e-3
    """Learning rate of SGD (paper: 1e-3)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD (paper: 0.9)."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Of SGD (paper: 1e-4)."""
    scale: Annotated[float, Field(gt=0)] = 100.0
    """1 / tau, factor on cosines in the loss (paper: 100)."""
    directions: Annotated[int, Field(gt=1)] | None = None
    """r, singular vectors of class texts; None: all, or 250 beyond 500 classes (paper)."""
    neighbours: Annotated[int, Field(gt=0)] = 20
    """k, links of a node (paper: 20)."""
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Share of a node's label that comes from its neighbours (paper: 0.99)."""
    iterations: Annotated[int, Field(gt=0)] = 20
    """Most steps of conjugate gradients per class (paper: 20)."""
    tolerance: Annotated[float, Field(gt=0)] = 1e-6
    """Residual at which they stop (paper: 1e-6)."""

    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from the images; their labels are never read.

        Args:
            clip: the model; it is left as it is.
            dataset: images, all readable, and the names of two classes or more.
            log: gets both losses, and how far labels agree.
            scratch: folder for what a run after a kill goes on from; None keeps nothing.

        Raises:
            RequestError: fewer than two classes, or a tower without a norm to train.
        """
        if len(dataset.classes) < 2:
            raise RequestError("ReCLIP tells classes apart: it needs the names of two or more")
        part, prompts = cached_part(self.tune), dataset.classes.prompts
        class_texts = [fill(self.template, prompt) for prompt in prompts]
        t, v = clip.copy(), clip.copy()
        trained = t.norms("text") | self._image_norms(v)
        features = embed(clip, dataset, Embedding(part), log)
        x_t = image_features(clip, features, part)  # X_T (N, D)
        with torch.no_grad():
            anchors = class_features(clip, prompts, self._templates)  # V's, always
            c_zs = (x_t @ clip.texts(class_texts).T).argmax(1).cpu()
        y, q = torch.full((len(dataset),), NONE), anchors.clone()  # y (N,), Q (C, D)
        facts = torch.full((len(FACTS),), torch.nan)

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            if batch.starts_epoch:
                label()
                log(stage="reclip", step=batch.step, **_named(facts))
            c, x_v = y[batch.index].to(q.device), v.tail(batch.hidden, self.tune)
            of_t = labelled_loss(self.scale * x_t[batch.index] @ t.texts(class_texts).T, c)
            of_v = labelled_loss(self.scale * x_v @ q.T, c)
            return {"text_loss": of_t, "image_loss": of_v}

        @torch.no_grad()
        def label() -> None:
            """The labels on which T and V agree, and V's centroids."""
            x_v = current_features(v, dataset, self.tune, features).to(q)
            c_t, error_t = self._labels(class_features(t, prompts, self._templates), x_t)
            c_v, error_v = self._labels(anchors, x_v)
            q.copy_(centroids(torch.cat([anchors, x_v]), c_v, q))
            c_t, c_v = c_t[len(q) :], c_v[len(q) :]
            y.copy_(torch.where(c_t == c_v, c_v, NONE))
            alike = (c_zs == y)[y != NONE].float().mean()
            facts.copy_(torch.stack([(y != NONE).float().mean(), alike, error_t.maximum(error_v)]))

        state = {"y": y, "q": q, "facts": facts}
        keep = Checkpoint(scratch / "training.safetensors", state) if scratch else None
        rate = LearningRate(self.lr, min_lr=None)
        sgd = Sgd(rate, self.momentum, self.weight_decay)  # two SGDs alike are one
        optimise(loss, trained, self._batches(v, dataset, features), sgd, log, keep)
        with torch.no_grad():
            weights = side_by_side([q, t.texts(class_texts)])
        record = {"facts": _named(facts), "zero_shot_labels": c_zs.tolist()}
        about = ("reclip", asdict(self), record)
        return Classifier(v, self.tune, dataset.classes, weights, *about, beside=clip)

    def epochs_of(self, images: int) -> int:
        """Passes over a set of `images`."""
        return min(100, images // 5000 + 2) if self.epochs is None else self.epochs

    @property
    def _templates(self) -> Sequence[str]:
        """Of the class texts in the graph."""
        return openai_templates() if self.ensemble else [self.template]

    def _image_norms(self, v: Backbone) -> dict[str, nn.Parameter]:
        """What V trains."""
        part = v.parameters(self.tune)
        norms = {name: norm for name, norm in v.norms("image").items() if name in part}
        if not norms:
            raise RequestError(f"{v.model_id}: the image tower has no norm there; use --tune all")
        return norms

    def _batches(self, v: Backbone, dataset: ImageDataset, features: Features) -> TrainingBatches:
        """Test views, shuffled in each epoch."""
        n, cached = len(dataset), None if self.tune == "all" else features
        steps = self.epochs_of(n) * (n // min(n, self.batch_size))
        return TrainingBatches(
            dataset, v, cached, None, self.batch_size, steps, torch.initial_seed()
        )

    def _labels(
        self, anchors: Float[Tensor, "C D"], x: Float[Tensor, "N D"]
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, ""]]:
        """Labels of class texts and images, and the error of the equations."""
        r = FEWER if self.directions is None and len(anchors) > MANY else self.directions
        h = normalize(torch.cat([anchors, x]) @ projection(anchors, r), dim=-1)  # (M, D)
        s = graph(h, self.neighbours)
        return propagate(s, len(anchors), self.alpha, self.iterations, self.tolerance)


def projection(a: Float[Tensor, "C D"], directions: int | None = None) -> Float[Tensor, "D D"]:
    """Pi, onto singular vectors 2 to r of the class texts; None: all of them."""
    u = torch.linalg.svd(a.T, full_matrices=False).U[:, 1:directions]
    return torch.einsum("dr,er->de", u, u)


def graph(h: Float[Tensor, "M D"], neighbours: int) -> csr_array:
    """S (M, M), the normalised graph of the nearest neighbours of unit nodes."""
    nodes, k = torch.arange(len(h), device=h.device), min(neighbours, len(h) - 1)
    nearest = []
    for rows in nodes.split(BLOCK):
        a = (h[rows] @ h.T + 1) / 2
        a[rows - rows[0], rows] = 0  # no node is its own neighbour
        nearest.append([part.cpu() for part in a.topk(k)])
    values, columns = (torch.cat(parts).flatten().numpy() for parts in zip(*nearest, strict=True))
    starts = np.arange(0, len(values) + 1, k)
    a = csr_array((values.astype(float), columns, starts), (len(h), len(h)))
    w = (a + a.T) / 2
    delta = diags_array(w.sum(axis=1).clip(np.finfo(float).tiny) ** -0.5)  # all zero stays zero
    return csr_array(delta @ w @ delta)


def propagate(
    s: csr_array, classes: int, alpha: float, iterations: int, tolerance: float
) -> tuple[Int[Tensor, " M"], Float[Tensor, ""]]:
    """argmax_c z_c of (I - alpha S) z_c = e_c, and the largest residual |e_c - (I - alpha S) z_c|.

    Where no class reaches a node it has no label.
    """
    system, error = eye_array(s.shape[0], format="csr") - alpha * s, 0.0
    best, y = np.zeros(s.shape[0]), np.full(s.shape[0], NONE)
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
    """Unit mean of the nodes of each class; that of before where a class has none."""
    h, y = h[(y != NONE).to(h.device)], y[y != NONE]
    total = torch.zeros_like(before).index_add(0, y.to(h.device), h)
    count = y.bincount(minlength=len(before)).to(h.device)
    return torch.where((count > 0)[:, None], normalize(total, dim=-1), before)


def labelled_loss(logits: Float[Tensor, "B C"], y: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of the samples that have a label; 0 where none has."""
    total = cross_entropy(logits, y, ignore_index=NONE, reduction="sum")
    return total / (y != NONE).sum().clamp_min(1)


def _named(facts: Float[Tensor, "3"]) -> dict[str, float]:
    """Figures under their names; none before the first epoch."""
    named = zip(FACTS, facts.tolist(), strict=True)
    return {name: value for name, value in named if not isnan(value)}
