"""Common parts of GCD, SimGCD and GET: data and model of the training, labelled classes, MLP.

Letters: N views or images, K classes, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from functools import cached_property
from typing import Annotated, Literal, TypeVar

import torch
from jaxtyping import Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from anyclass.backbone import Backbone, Part
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.features.cache import Embedding, Features
from anyclass.features.store import FeatureStore
from anyclass.log import Log
from anyclass.methods.workload import Workload
from anyclass.rng import seeded_rng
from anyclass.training.optim import Sgd
from anyclass.training.two_views import TwoViewBatches, TwoViewTuning

SIGMA = 0.02
"""Standard deviation of initial weights of the MLP (the official codes)."""

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

    def parameters(self, **new_layers: nn.Module) -> dict[str, nn.Parameter]:
        """Parameters to train, by name: the last stage of the image tower, and the new layers."""
        stage = self.tuned.last_stage() if self.part == "tail" else {}
        return stage | dict(nn.ModuleDict(new_layers).named_parameters())

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
