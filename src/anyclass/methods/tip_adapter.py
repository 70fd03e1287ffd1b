"""Tip-Adapter: a key-value cache model of the labelled images, added to zero-shot logits.

Zhang et al., ECCV 2022, arXiv 2207.09519.   Needs: labels for some classes, a name for every class.

    logits = ( f W^T + alpha / 100 exp( -beta (1 - f F^T) ) Y ) / tau
    L      = cross-entropy of the logits           F is trained (Tip-Adapter-F)

Letters: C classes, D dimensions, k keys, f (D,) unit features of an image, W (C, D) text
features of the classes, F (k, D) keys, one for each labelled image, Y (k, C) their one-hot labels,
alpha the weight of the cache model, beta the sharpness of the affinity. The logits are
the paper's where 1 / tau = 100, as in OpenAI's models.
"""

from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from tyro.conf import Suppress, arg

from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CacheModel
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, Template, class_features
from anyclass.log import Log
from anyclass.methods.few_shot import (
    PUBLISHED_SCALE,
    FewShot,
    FewShotTask,
    fit_few_shot,
)
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.labelled_features import LabelledFeatures
from anyclass.methods.synthetic_features import SyntheticFeatures
from anyclass.methods.workload import Workload, refuse_one_class
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.optim import AdamW, LearningRate

GRID_START = 0.1
"""Smallest alpha and beta of the grid search (released code)."""

BETAS = 200
"""Values of beta in the grid (released code)."""

ALPHAS = 20
"""Values of alpha in the grid (released code)."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class TipAdapter:
    """Adds a cache model of labelled images to the zero-shot logits, with keys trained or not."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="Tip-Adapter",
        situations=(Situation.NAMES_AND_LABELS,),
        metrics={
            "beta": "sharpness of the comparison with labelled images (beta)",
            "keys": "keys of the cache model",
            "tip_adapter_loss": "loss of the cache model",
        },
        settings={
            "beta": "sharpness beta",
            "beta_max": "largest beta of the search",
        },
    )
    """Facts for lists, planning and the report."""
    kind: Suppress[Literal["tip-adapter"]] = "tip-adapter"
    """Type of the method in saved files."""
    data: Annotated[FewShot, arg(name="")] = FewShot()
    """Labelled images and their augmented views."""
    template: Template = PLAIN
    """Class prompt; `{}` is the class name."""
    train: bool = True
    """Train the keys (Tip-Adapter-F); without it nothing is trained (Tip-Adapter)."""
    alpha: Annotated[float, Field(ge=0)] = 1.17
    """Weight of the cache model beside text logits of scale 100; at another scale it has the same
    effect (alpha in the paper; released code: 1.17 for ImageNet, 1.17 to 10 on other data sets)."""
    beta: Annotated[float, Field(ge=0)] = 1.0
    """Sharpness of the affinity (beta in the paper; released code: 1)."""
    lr: Annotated[float, Field(ge=0)] = 1e-3
    """Peak learning rate of AdamW, with cosine decay (paper: 1e-3)."""
    eps: Annotated[float, Field(gt=0)] = 1e-4
    """Epsilon of AdamW (released code: 1e-4)."""
    epochs: Annotated[int, Field(ge=0)] = 20
    """Epochs over the labelled images (paper: 20; EuroSAT: 100)."""
    batch_size: Annotated[int, Field(gt=0)] = 256
    """Batch size; all images if there are fewer (paper: 256)."""
    balanced: bool = False
    """Weight the keys inversely to the number of keys of their class, for unbalanced labels."""
    named_keys: Annotated[int, Field(gt=0)] | None = None
    """Synthetic keys per named class (with SHIP only); None: the median of images per class."""
    draws: Annotated[int, Field(gt=0)] = 1
    """Synthetic features averaged into one key."""
    search: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the labelled images held out to select alpha and beta; 0: no search."""
    beta_max: Annotated[float, Field(gt=0)] = 7.0
    """Upper bound of the search for beta (released code: 7 for ImageNet, 7 to 50 on others)."""
    alpha_max: Annotated[float, Field(gt=0)] = 3.0
    """Upper bound of the search for alpha (released code: 3 for ImageNet, 3 to 50 on others)."""

    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on labelled images; classes without any are recognised by their prompt.

        Args:
            data: the model, which is not changed, and readable images; only the labelled ones
                are used.
            log: receives the loss.
            scratch: folder of checkpoints, to resume a killed run; None: no checkpoints.
            seed: random seed.

        Raises:
            RequestError: fewer than two classes, or no image with a label.
        """
        refuse_one_class(data.dataset.classes, "Tip-Adapter")
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
        with torch.no_grad():
            w = class_features(clip, task.classes.all_prompts, [self.template])
        training, held_out = task.labelled.split(self.search, task.seed)
        head = self._cache_model(training, task.synthetic, w, clip.logit_scale.detach())
        if self.train:
            keys = nn.Parameter(head.keys.clone())  # F
            training_set = replace(task, labelled=training).training_set(log)
            trained = replace(_restricted(head, training_set.columns), keys=keys)

            def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
                f, y = training_set.step(batch)
                return {"tip_adapter_loss": cross_entropy(trained.logits(f), y)}

            batches = training.batches(self.batch_size, self.epochs, task.seed)
            schedule = AdamW(LearningRate(self.lr), eps=self.eps)
            optimise(loss, {"keys": keys}, batches, schedule, log, Checkpoint.at(checkpoint))
            head = replace(head, keys=keys.detach())
        if self.search and len(held_out.c):
            bounds = GridBounds(self.beta_max, self.alpha_max)
            head = grid_search(head, held_out, training.classes, bounds)
        elif self.search:
            log(warning="too few images per class to hold any out: alpha and beta are not searched")
        alpha = head.alpha * PUBLISHED_SCALE / float(head.scale)
        metrics = {"keys": len(head.keys), "alpha": alpha, "beta": head.beta}
        record = FitRecord(trained_on=task.labelled.files, metrics=metrics)
        representation = Representation((clip,))
        return Classifier(representation, head, task.classes, "tip-adapter", asdict(self), record)

    def _cache_model(
        self,
        labelled: LabelledFeatures,
        synthetic: SyntheticFeatures | None,
        texts: Float[Tensor, "C D"],
        scale: Float[Tensor, ""],
    ) -> CacheModel:
        """Cache model of labelled images, then synthetic features."""
        keys = labelled.means
        c = labelled.c
        if synthetic is not None:
            images_per_class = round(median(labelled.c.bincount()[labelled.classes].tolist()))
            keys_per_class = self.named_keys or images_per_class
            x, c_synthetic = synthetic.per_class(keys_per_class * self.draws)
            x = normalize(x.unflatten(0, (-1, self.draws)).mean(1), dim=-1)
            keys = torch.cat([keys, x.to(keys)])
            c = torch.cat([c, c_synthetic[:: self.draws].to(c)])
        c = c.to(keys.device)
        weights = key_weights(c, self.balanced).to(keys)
        alpha = self.alpha * float(scale) / PUBLISHED_SCALE
        return CacheModel(keys, c, weights, alpha, self.beta, texts, scale)


class GridBounds(NamedTuple):
    """Upper bounds of the grid search."""

    beta: float
    alpha: float


def key_weights(c: Int[Tensor, " k"], balanced: bool) -> Float[Tensor, " k"]:
    """1 for each key; balanced: the mean count of a class, divided by the count of its own."""
    if not balanced:
        return torch.ones(len(c))
    count = c.bincount().float()
    return count[count > 0].mean() / count[c]


@torch.no_grad()
def grid_search(
    head: CacheModel, held_out: LabelledFeatures, columns: Int[Tensor, " M"], bounds: GridBounds
) -> CacheModel:
    """Set alpha and beta to the first pair of the grid with the best held-out accuracy.

    Args:
        head: the cache model, without the held-out images.
        held_out: features of held-out labelled images.
        columns: labelled classes; only these are considered.
        bounds: upper bounds of the grid.
    """
    f = held_out.means
    y = torch.searchsorted(columns, held_out.c).to(held_out.x.device)
    restricted = _restricted(head, columns)
    text_logits = PUBLISHED_SCALE * f @ restricted.texts.T
    cosines = f @ restricted.keys.T
    unit = float(head.scale) / PUBLISHED_SCALE
    selected = (head.alpha / unit, head.beta)
    best = -1
    for beta in grid(bounds.beta, BETAS):
        cache_logits = replace(restricted, beta=beta).cache_logits(cosines)
        for alpha in grid(bounds.alpha, ALPHAS):
            correct = int(((text_logits + alpha * cache_logits).argmax(1) == y).sum())
            if correct > best:
                selected = (alpha, beta)
                best = correct
    return replace(head, alpha=selected[0] * unit, beta=selected[1])


def _restricted(head: CacheModel, columns: Int[Tensor, " M"]) -> CacheModel:
    """The cache model, restricted to some sorted classes and their keys."""
    columns = columns.to(head.labels.device)
    among = torch.isin(head.labels, columns)
    return replace(
        head,
        keys=head.keys[among],
        labels=torch.searchsorted(columns, head.labels[among]),
        weights=head.weights[among],
        texts=head.texts[columns],
    )


def grid(bound: float, count: int) -> list[float]:
    """`count` equidistant values from 0.1, `bound` excluded."""
    return [GRID_START + i * (bound - GRID_START) / count for i in range(count)]
