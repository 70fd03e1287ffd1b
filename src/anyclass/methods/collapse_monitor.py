"""`CollapseMonitor`: whether predictions in training collapse to few classes (SimGCD, GET).

Letters: N views of a step, K classes, p (N, K) predicted probabilities.
"""

from collections.abc import Sequence
from math import log as log_of

import torch
from jaxtyping import Float
from torch import Tensor

from anyclass.errors import TrainingError
from anyclass.log import Log
from anyclass.training.batches import Batch

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


class CollapseMonitor:
    """Statistics of the predictions of each epoch, to detect a collapse to few classes."""

    METRICS = ("entropy", "confidence", "new")
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
            more: names of further metrics of a step.
            stop_from: step from which a collapse is an error; None: never.
        """
        self._stop_from = stop_from
        self._known = torch.zeros(classes, dtype=torch.bool)
        self._known[list(known)] = True
        self._names = (*self.METRICS, *more)
        sums = torch.zeros(len(self._names) + 1, dtype=torch.float64)
        used = torch.zeros(classes, dtype=torch.long)
        collapsed = torch.zeros((), dtype=torch.long)
        self.state = {"used": used, "sums": sums, "collapsed": collapsed}
        """Predictions per class; sums of the metrics and the number of steps; number of consecutive
        collapsed epochs."""

    @torch.no_grad()
    def add(self, p: Float[Tensor, "N K"], *more: Float[Tensor, ""]) -> None:
        """Add the probabilities and the further metrics of one step."""
        predicted = p.argmax(1).cpu()
        mean = p.mean(0)
        entropy = -torch.xlogy(mean, mean).sum()
        confidence = p.max(1).values.mean()
        new = (~self._known)[predicted].float().mean()
        metrics = [entropy, confidence, new, *more, torch.ones(())]
        self.state["sums"] += torch.stack([metric.detach().cpu().double() for metric in metrics])
        self.state["used"] += predicted.bincount(minlength=len(self._known))

    def metrics(self) -> dict[str, float]:
        """Metrics of the epoch so far; empty before its first step."""
        *sums, steps = self.state["sums"].tolist()
        if not steps:
            return {}
        means = {name: value / steps for name, value in zip(self._names, sums, strict=True)}
        return means | {"used": int((self.state["used"] > 0).sum())}

    def begin(self, batch: Batch, log: Log, stage: str) -> None:
        """At the start of an epoch, log the metrics of the last one and reset them.

        Raises:
            TrainingError: the predictions have collapsed to few classes for several epochs.
        """
        metrics = self.metrics() if batch.starts_epoch else {}
        if not metrics:
            return
        log(stage=stage, step=batch.step, **metrics)
        max_entropy = log_of(len(self._known))
        gap = max_entropy - metrics["entropy"]  # R
        collapsed = gap > MAX_ENTROPY_GAP * max_entropy
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
