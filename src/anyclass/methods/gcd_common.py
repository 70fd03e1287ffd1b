"""What methods share that discover classes: what they are given, how they begin, what they watch.

Letters: N views, K classes, F features.
"""

from collections.abc import Callable, Sequence
from math import log as log_of
from typing import Annotated, TypeVar

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from anyclass.backbone import Backbone, Part
from anyclass.data import ImageDataset
from anyclass.errors import RequestError, TrainingError
from anyclass.log import Log
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch

SIGMA = 0.02
"""Deviation of an MLP's first weights (the official codes)."""

COLLAPSED = 0.5
"""Share of log K that uses of classes may lack; more, over an epoch, means few take all."""

LEAST = 0.1
"""Of an even share of predictions, what a class needs to count as used; one class alone, or fewer
than half as many as are known, mean collapse whatever the confidence: half of all views are of
known classes."""

PATIENCE = 3
"""Epochs in a row after which that is an error: a narrow tower may begin so."""

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class HeadShape:
    """Widths of the layers that lead to h, what contrasts compare."""

    mlp_width: Annotated[int, Field(gt=0)] = 2048
    """Of the MLP's two hidden layers."""
    h_width: Annotated[int, Field(gt=0)] = 256
    """E, of h."""


def labelled_classes(dataset: ImageDataset) -> list[int]:
    """Indices of the classes that some image carries as its label: the old ones.

    Raises:
        RequestError: there is nothing to learn from, or nothing to tell apart.
    """
    known, total = sorted(set(dataset.labels[dataset.labels >= 0].tolist())), dataset.classes.total
    if not known:
        raise RequestError(
            "no image has a label, so there is no known class to learn from; label some "
            "(--labels), or use kmeans, which needs none"
        )
    if total < 2:
        raise RequestError("a single class cannot be told from others; say --unknown 1 or more")
    if total > len(dataset):
        raise RequestError(f"{total} classes cannot be found in {len(dataset)} images")
    if total > len(known) and bool((dataset.labels >= 0).all()):
        raise RequestError("every image has a label, so there is none to discover a class in")
    return known


def seeded(make: Callable[[], AnyModule], *key: int) -> AnyModule:
    """A module whose first weights hang on the key alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seeded_rng(*key).initial_seed())
        return make()


def perceptron(width: int, shape: HeadShape) -> nn.Sequential:
    """Three layers with GELU between them, as all codes of category discovery begin them."""
    hidden = shape.mlp_width
    layers = [nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, shape.h_width)]
    for layer in layers:
        nn.init.trunc_normal_(layer.weight, std=SIGMA)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])


def last_stage(tuned: Backbone, part: Part) -> dict[str, nn.Parameter]:
    """What is trained of the image tower."""
    return tuned.last_stage() if part == "tail" else {}


def kept_part(part: Part) -> Part | None:
    """What a classifier keeps of the tower; the head's projection is not trained here."""
    return part if part == "tail" else None


def prefixed(**modules: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of some modules under the modules' names."""
    return {f"{m}.{n}": p for m, module in modules.items() for n, p in module.named_parameters()}


class CollapseMonitor:
    """How the K classes are used in each epoch, from the predictions of its batches."""

    FIGURES = ("entropy", "confidence", "new")
    """Mean over the steps of H(mean_i p_i), of max p, of the share of views in new classes."""

    def __init__(self, classes: int, known: Sequence[int], more: Sequence[str] = ()) -> None:
        """`more` names further figures of a step."""
        self._known = torch.zeros(classes, dtype=torch.bool)
        self._known[list(known)] = True
        self._names = (*self.FIGURES, *more)
        sums = torch.zeros(len(self._names) + 1, dtype=torch.float64)
        used, collapsed = torch.zeros(classes, dtype=torch.long), torch.zeros((), dtype=torch.long)
        self.state = {"used": used, "sums": sums, "collapsed": collapsed}
        """Counts of predictions; sums of the figures and the number of steps; epochs in a row in
        which few classes took all."""

    @torch.no_grad()
    def add(self, p: Float[Tensor, "N K"], *more: Float[Tensor, ""]) -> None:
        """Take in the probabilities of one batch."""
        guess, mean = p.argmax(1).cpu(), p.mean(0)
        figures = [-torch.xlogy(mean, mean).sum(), p.max(1).values.mean()]
        figures += [(~self._known)[guess].float().mean(), *more, torch.ones(())]
        self.state["sums"] += torch.stack([figure.detach().cpu().double() for figure in figures])
        self.state["used"] += guess.bincount(minlength=len(self._known))

    def facts(self) -> dict[str, float]:
        """Figures of the epoch so far; none before its first step."""
        *sums, steps = self.state["sums"].tolist()
        if not steps:
            return {}
        means = {name: value / steps for name, value in zip(self._names, sums, strict=True)}
        return means | {"used": int((self.state["used"] > 0).sum())}

    def begin(self, batch: Batch, log: Log, stage: str) -> None:
        """Log the epoch that is over, where one is, and begin anew.

        Raises:
            TrainingError: nearly all views were in a few classes for some epochs.
        """
        if not batch.starts_epoch or not (facts := self.facts()):
            return
        log(stage=stage, step=batch.step, **facts)
        most, used = log_of(len(self._known)), self.state["used"]
        collapsed = most - facts["entropy"] > COLLAPSED * most  # R > log K / 2
        spread = int((used * len(used) >= LEAST * used.sum()).sum())
        collapsed |= spread < max(2, int(self._known.sum()) / 2)
        self.state["collapsed"] += 1 if collapsed else -self.state["collapsed"]
        if int(self.state["collapsed"]) >= PATIENCE:
            raise TrainingError(
                f"by step {batch.step} nearly all images fell into {spread} of {len(used)} "
                "classes; try a tenth of --lr, or of --backbone-lr, which is for the tower alone"
            )
        self.state["sums"].zero_()
        self.state["used"].zero_()
