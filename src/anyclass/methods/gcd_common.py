"""Common parts of GCD, SimGCD and GET: start of training, MLP, monitor of class collapse.

Letters: N views or images, K classes, F features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from functools import cached_property
from math import log as log_of
from typing import Annotated, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from anyclass.backbone import Backbone, Part
from anyclass.data import ImageDataset
from anyclass.errors import RequestError, TrainingError
from anyclass.features.cache import Embedding, Features
from anyclass.features.store import FeatureStore
from anyclass.log import Log
from anyclass.methods.workload import Workload
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.optim import Sgd
from anyclass.training.two_views import TwoViewBatches, TwoViewTuning

SIGMA = 0.02
"""Standard deviation of initial weights of the MLP (the official codes)."""

MAX_ENTROPY_GAP = 0.5
"""Collapse: log K - H(mean p) of an epoch above this share of log K."""

MIN_SHARE = 0.1
"""A class counts as used from this share of N / K predictions on. Fewer used classes than two, or
than half of the known ones, are a collapse too: half of all views are of known classes."""

PATIENCE = 3
"""Consecutive collapsed epochs that are an error: a narrow tower may collapse at first."""

STOP_COLLAPSED_FROM = 100
"""Step from which a collapse is an error. An epoch of a small folder is one step or two: SimGCD on
250 groceries in 43 classes had collapsed for five epochs up to step 7, and recovered."""

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class MlpShape:
    """Widths of the MLP before the contrastive losses."""

    mlp_width: Annotated[int, Field(gt=0)] = 2048
    """Width of the two hidden layers of the MLP (official codes: 2048)."""
    h_width: Annotated[int, Field(gt=0)] = 256
    """E, width of h, the output of the MLP (official codes: 256)."""


@plain_dataclass(frozen=True)
class TwoViewTask:
    """Data and model of a method that trains on pairs of views."""

    data: FeatureStore
    """The model before training, and N images."""
    tuning: TwoViewTuning
    """Training on pairs of views."""
    seed: int
    """Random seed of initial parameters, sampling and views."""
    known: list[int]
    """Sorted labelled classes."""
    tuned: Backbone
    """The copy of the model to train; the model itself if no part of it is trained."""
    views: Features | None
    """Trunk outputs of the cached views; None: new views are computed in each epoch."""
    test: Features
    """Trunk outputs of the test views."""

    @classmethod
    def begin(cls, data: FeatureStore, tuning: TwoViewTuning, log: Log, seed: int) -> "TwoViewTask":
        """Check the labels, embed the images and copy the model if it is trained.

        Raises:
            RequestError: no label, no unlabelled image, or a number of classes that is impossible.
        """
        known = labelled_classes(data.dataset)
        views = tuning.cached_views(data, log, seed)
        test = data.embed(Embedding(tuning.tune), log)
        tuned = data.clip.copy() if tuning.tune == "tail" else data.clip
        return cls(data, tuning, seed, known, tuned, views, test)

    @property
    def part(self) -> Literal["tail", "head"]:
        """Trained part of the image tower."""
        return self.tuning.tune

    @property
    def k(self) -> int:
        """K, number of all classes."""
        return self.data.dataset.classes.total

    @cached_property
    def y(self) -> Int[Tensor, " N"]:
        """Class of each image, -1 for unlabelled."""
        return torch.from_numpy(self.data.dataset.labels.copy()).to(self.data.clip.device)

    @cached_property
    def batches(self) -> TwoViewBatches:
        """Pairs of views in training order."""
        return self.tuning.pairs(self.tuned, self.data.dataset, self.views, self.seed)

    def width(self, feature: Callable[[Tensor, Part], Tensor]) -> int:
        """Dimensions of the output of `feature` for a trunk output."""
        return feature(self.test[[0]][:, 0].to(self.data.clip.device), self.part).shape[1]

    def parameters(self, head: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Parameters to train: those of the trained part of the image tower, and of `head`."""
        stage = self.tuned.last_stage() if self.part == "tail" else {}
        return stage | dict(head)

    @property
    def schedule(self) -> Sgd:
        """Optimiser and learning rate."""
        return self.tuning.schedule(self.data.clip, len(self.data))


def labelled_classes(dataset: ImageDataset) -> list[int]:
    """Sorted indices of the classes with a labelled image.

    Raises:
        RequestError: no label, no unlabelled image, or a number of classes that is impossible.
    """
    known = sorted(set(dataset.labels[dataset.labels >= 0].tolist()))
    if not known:
        raise RequestError(
            "no image has a label: label some images (--labels), or use kmeans, which needs no "
            "labels"
        )
    Workload(clusters="prototypes").check_clusters(dataset)
    return known


def seeded(make: Callable[[], AnyModule], *key: int) -> AnyModule:
    """Initialise a module from a dedicated seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seeded_rng(*key).initial_seed())
        return make()


def perceptron(width: int, shape: MlpShape) -> nn.Sequential:
    """MLP of three layers with GELU, initialised as in the official codes."""
    hidden = shape.mlp_width
    layers = [nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, shape.h_width)]
    for layer in layers:
        nn.init.trunc_normal_(layer.weight, std=SIGMA)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])


def saved_part(part: Part) -> Part | None:
    """Part of the image tower saved with the classifier; the projection is not trained."""
    return part if part == "tail" else None


def prefixed(**modules: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of several modules, with the name of the module as prefix."""
    parameters: dict[str, nn.Parameter] = {}
    for prefix, module in modules.items():
        parameters |= {f"{prefix}.{name}": p for name, p in module.named_parameters()}
    return parameters


class CollapseMonitor:
    """Statistics of the predictions of each epoch, to detect a collapse to few classes."""

    FIGURES = ("entropy", "confidence", "new")
    """Means over the steps of H(mean_i p_i), of max p, and of the share of views in new classes."""

    def __init__(
        self,
        classes: int,
        known: Sequence[int],
        more: Sequence[str] = (),
        stop_from: int | None = 0,
    ) -> None:
        """Initialise.

        Args:
            classes: K, number of classes.
            known: the labelled ones.
            more: names of further figures of a step.
            stop_from: step from which a collapse is an error; None: never.
        """
        self._stop_from = stop_from
        self._known = torch.zeros(classes, dtype=torch.bool)
        self._known[list(known)] = True
        self._names = (*self.FIGURES, *more)
        sums = torch.zeros(len(self._names) + 1, dtype=torch.float64)
        used = torch.zeros(classes, dtype=torch.long)
        collapsed = torch.zeros((), dtype=torch.long)
        self.state = {"used": used, "sums": sums, "collapsed": collapsed}
        """Predictions per class; sums of the figures and the number of steps; number of consecutive
        collapsed epochs."""

    @torch.no_grad()
    def add(self, p: Float[Tensor, "N K"], *more: Float[Tensor, ""]) -> None:
        """Add the probabilities and the further figures of one step."""
        predicted = p.argmax(1).cpu()
        mean = p.mean(0)
        entropy = -torch.xlogy(mean, mean).sum()
        confidence = p.max(1).values.mean()
        new = (~self._known)[predicted].float().mean()
        figures = [entropy, confidence, new, *more, torch.ones(())]
        self.state["sums"] += torch.stack([figure.detach().cpu().double() for figure in figures])
        self.state["used"] += predicted.bincount(minlength=len(self._known))

    def facts(self) -> dict[str, float]:
        """Figures of the epoch so far; empty before its first step."""
        *sums, steps = self.state["sums"].tolist()
        if not steps:
            return {}
        means = {name: value / steps for name, value in zip(self._names, sums, strict=True)}
        return means | {"used": int((self.state["used"] > 0).sum())}

    def begin(self, batch: Batch, log: Log, stage: str) -> None:
        """At the start of an epoch, log the figures of the last one and reset them.

        Raises:
            TrainingError: the predictions have collapsed to few classes for several epochs.
        """
        facts = self.facts() if batch.starts_epoch else {}
        if not facts:
            return
        log(stage=stage, step=batch.step, **facts)
        max_entropy = log_of(len(self._known))
        collapsed = max_entropy - facts["entropy"] > MAX_ENTROPY_GAP * max_entropy  # R > log K / 2
        counts = self.state["used"]
        used = int((counts * len(counts) >= MIN_SHARE * counts.sum()).sum())
        collapsed |= used < max(2, int(self._known.sum()) / 2)
        self.state["collapsed"] += 1 if collapsed else -self.state["collapsed"]
        late = self._stop_from is not None and batch.step >= self._stop_from
        if late and int(self.state["collapsed"]) >= PATIENCE:
            raise TrainingError(
                f"by step {batch.step} nearly all images fell into {used} of {len(counts)} "
                "classes; try a tenth of --lr, or of --backbone-lr, which is for the image "
                "encoder only (--stop-collapsed-from None lets such a training go on)"
            )
        self.state["sums"].zero_()
        self.state["used"].zero_()


def workload_of_pairs(
    tuning: TwoViewTuning, clusters: Literal["further", "prototypes"], text_epochs: int = 0
) -> Workload:
    """Needs and cost of training on pairs of views.

    Args:
        tuning: trained part and views; with the head alone there is no encoder to share.
        clusters: what is divided into classes, as in `Workload`.
        text_epochs: epochs of GET's first stage, as in `Workload`.
    """
    return Workload(
        tuning.tune,
        tuning.tune != "head",
        tuning.views,
        tuning,
        text_epochs=text_epochs,
        needs_labels=True,
        clusters=clusters,
    )
