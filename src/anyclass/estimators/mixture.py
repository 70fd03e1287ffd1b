"""EM of the experts and their weights; see `open_world.py` for the equations.

Every expert is fitted once without the labels of each fold, and once with all (`cross_fitting.py`).
Letters: R replicas without some of the labels, F folds; others as in `open_world.py`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from anyclass.estimators.cross_fitting import Replicas
from anyclass.estimators.gaussian_expert import Anchors, Statistics, gaussian_expert
from anyclass.estimators.linear import Linear
from anyclass.estimators.rows import Rows
from anyclass.estimators.stacking import best_weight, stack
from anyclass.log import Log

MAX_HELD_OUT = 5000
"""Maximum number of held-out images that choose the weights."""
START_LABELS = 0.02
"""Weight of the label expert without evidence."""
ONE_LABEL = 0.04
"""Weight of the label expert where each class has a single label."""
ONE_BESIDE_NAMES = 0.005
"""The same where every class has a name and there is no other image: nothing varies within
classes, so the names decide and the labels help."""
START_IMAGES = 0.04
"""Weight of the image expert without evidence."""
SPREAD_IMAGES = 2000
"""Images over which the spread of the logits is averaged."""
HALF_WEIGHT = 10
"""Images per class at which the image expert has half of its weight where there is no label."""
LABEL_SHRINKAGE = 0.02
"""Smallest shrinkage of the covariance of labelled images."""


@dataclass
class Weights:
    """Weights of the experts."""

    text: float = 1.0
    """a."""
    labels: float = 0.0
    """u."""
    images: float = 0.0
    """w."""
    labelled: float = 0.0
    """d, offset of the labelled classes where others have only a name."""
    named: float = 0.0
    """d', offset of the named classes where others have only labels."""


@dataclass(frozen=True)
class MixtureSettings:
    """Hyper-parameters of the fit; see `OpenWorldClassifier`."""

    rounds: int
    folds: int
    sharpness: float
    shrinkage: float


@dataclass
class Mixture:
    """The experts of all replicas, which are fitted in lockstep."""

    rows: Rows
    """Images."""
    labels: Int[Tensor, " N"]
    """Class of each image, -1 if it has no label."""
    text: Linear
    """l, of x; zero for a class without a name."""
    anchors: Anchors
    """Text anchors of the class means."""
    settings: MixtureSettings
    """Hyper-parameters."""
    member: Bool[Tensor, " N"]
    """Images that may be of one of the classes; others are left out."""

    def __post_init__(self) -> None:
        """Choose the labels that each replica does without; nothing is fitted yet."""
        named = self.anchors.named
        self.classes = len(named)
        self.width = self.anchors.texts.shape[1]
        self.replicas = Replicas.of(self.rows, self.labels, named, self.settings.folds)
        self.has_unlabelled = bool(((self.labels < 0) & self.member).any())
        self.weights = Weights(text=float(named.any()))
        self.label_experts: list[Linear] = []
        """g of each replica; none without labels."""
        self.image_experts: list[list[Linear]] = []
        """G of each replica, without each fold and of all images; none before the first round."""
        self.held_out = [
            self.replicas.held_out(r, MAX_HELD_OUT) for r in range(self.replicas.count)
        ]

    def fit(self, log: Log) -> None:
        """Fit the experts and their weights by EM; `log` gets the rounds."""
        if self.replicas.count:
            self.label_experts = self._fit_label_experts()
            self._stack()
        rounds = self.settings.rounds if self.has_unlabelled and self.classes else 0
        scatter = self._scatter() if rounds else torch.empty(0)
        for step in range(rounds):
            self.image_experts = self._fit_image_experts(scatter)
            if self.replicas.count:
                self._stack()
            else:
                self._weigh_by_text()
            log(stage="fit", done=step + 1, total=rounds)

    def logits(self, x: Tensor, h: Tensor, r: int, f: int) -> Float[Tensor, "n C"]:
        """Logits by replica r, with the image expert of the folds other than f (F: all)."""
        total = self.weights.text * self.text.logits(x) + self._offsets(r)
        for _, weight, expert in self._gaussians(r, f):
            total = total + weight * expert.logits(h)
        return total

    def _gaussians(self, r: int, f: int) -> list[tuple[str, float, Linear]]:
        """Name, weight and function of h of the fitted experts; arguments as of `logits`."""
        found = []
        if self.label_experts:
            found.append(("labels", self.weights.labels, self.label_experts[r]))
        if self.image_experts:
            found.append(("images", self.weights.images, self.image_experts[r][f]))
        return found

    def final_logits(self, x: Tensor, h: Tensor) -> Float[Tensor, "n C"]:
        """Logits by all labels and images."""
        return self.logits(x, h, self.replicas.count, self.settings.folds)

    def contributions(self) -> dict[str, float]:
        """Share of each expert in the mean spread of the logits over the classes."""
        if self.classes < 2:
            return {}
        x, h = self.rows.at(self.rows.evenly_spaced(SPREAD_IMAGES))
        spread = {name: float(part.std(1).mean()) for name, part in self.parts(x, h).items()}
        total = sum(spread.values()) or 1.0
        return {name: value / total for name, value in spread.items()}

    def parts(self, x: Tensor, h: Tensor) -> dict[str, Float[Tensor, "n C"]]:
        """Weighted logits of each expert, fitted on all images."""
        found = {}
        if self.anchors.named.any():
            found["text"] = self.weights.text * self.text.logits(x)
        for name, weight, expert in self._gaussians(-1, -1):
            found[name] = weight * expert.logits(h)
        return found

    def linear(self) -> tuple[Linear, Linear]:
        """The same logits as a linear function of x and one of h."""
        a = self.weights.text * self.text.scale
        offsets = self._offsets(self.replicas.count)
        on_x = Linear(a * self.text.weights, a * self.text.intercept + offsets)
        weights = torch.zeros(self.classes, self.width)
        bias = torch.zeros(self.classes)
        for _, weight, expert in self._gaussians(-1, -1):
            weights = weights + weight * expert.weights
            bias = bias + weight * expert.intercept
        return on_x, Linear(weights, bias)

    def _offsets(self, r: int) -> Float[Tensor, " C"]:
        """Offsets of the groups of classes in replica r."""
        named = self.anchors.named
        labelled = self.weights.labelled * self.replicas.known[r] * self.replicas.mixed
        return labelled + self.weights.named * named * (not named.all())

    def _fit_label_experts(self) -> list[Linear]:
        """g of every replica."""
        count = self.replicas.count + 1
        found = [Statistics.zero(self.classes, self.width) for _ in range(count)]
        for rows, _, h in self.rows.blocks():
            for r in range(count):
                seen = self.replicas.visible(r, rows)
                known = seen >= 0
                if known.any():
                    z = one_hot(seen[known], self.classes).float()
                    found[r] = found[r] + Statistics.of(h[known], z)
        return [gaussian_expert(s, self.anchors, LABEL_SHRINKAGE) for s in found]

    def _scatter(self) -> Float[Tensor, "F H H"]:
        """Sum of h h' over the members of each fold; their class probabilities sum to 1."""
        found = torch.zeros(self.settings.folds, self.width, self.width)
        for rows, _, h in self.rows.blocks():
            for f in range(self.settings.folds):
                chosen = (self.replicas.fold[rows] == f) & self.member[rows]
                found[f] += h[chosen].T @ h[chosen]
        return found

    def _fit_image_experts(self, scatter: Float[Tensor, "F H H"]) -> list[list[Linear]]:
        """G of every replica: without each fold, and of all images; `scatter` of the folds."""
        count = self.replicas.count + 1
        n = torch.zeros(count, self.settings.folds, self.classes)
        sums = torch.zeros(count, self.settings.folds, self.classes, self.width)
        for rows, x, h in self.rows.blocks():
            for f in range(self.settings.folds):
                chosen = (self.replicas.fold[rows] == f) & self.member[rows]
                if not chosen.any():
                    continue
                for r in range(count):
                    logits = self.logits(x[chosen], h[chosen], r, f)
                    z = (self.settings.sharpness * logits).softmax(1)
                    seen = self.replicas.visible(r, rows)[chosen]
                    z[seen >= 0] = one_hot(seen[seen >= 0], self.classes).float()
                    n[r, f] += z.sum(0)
                    sums[r, f] += z.T @ h[chosen]
        experts = []
        for r in range(count):
            parts = [Statistics(*of) for of in zip(n[r], sums[r], scatter, strict=True)]
            total = sum(parts, Statistics.zero(self.classes, self.width))
            subsets = [*(total - part for part in parts), total]
            s = self.settings.shrinkage
            experts.append([gaussian_expert(found, self.anchors, s) for found in subsets])
        return experts

    def _stack(self) -> None:
        """Choose the weights by the held-out labels."""
        parts: dict[str, list[Tensor]] = {"text": [], "labels": [], "images": [], "known": []}
        labels = []
        alone = []  # whether the class of an image has no other label
        for r, index in enumerate(self.held_out):
            x, h = self.rows.at(index)
            known = self.replicas.known[r]
            parts["text"].append(self.text.logits(x))
            parts["labels"].append(self.label_experts[r].logits(h))
            if self.image_experts:
                parts["images"].append(self._cross_fitted(h, index, r))
            parts["known"].append(known.float().expand(len(index), -1))
            labels.append(self.labels[index])
            alone.append(~known[self.labels[index]])
        y = torch.cat(labels)
        if not len(y):
            self.weights.labels = START_LABELS
            self.weights.images = START_IMAGES if self.image_experts else 0.0
            return
        self._choose({k: torch.cat(v) for k, v in parts.items() if v}, y, torch.cat(alone))

    def _choose(self, parts: dict[str, Tensor], y: Tensor, alone: Bool[Tensor, " n"]) -> None:
        """Choose the weights by these logits of held-out images."""
        start = {"text": 1.0, "labels": START_LABELS, "images": START_IMAGES}
        offsets = {}
        v = torch.ones(len(y))
        if self.replicas.mixed and not alone.all():
            offsets["labelled"] = parts["known"]
            share = float(self.replicas.only_named.float().mean())
            rate = float(alone.float().mean())
            # classes without another label count as much as the classes that have only a name
            v = torch.where(alone, share / max(rate, 1e-9), (1 - share) / max(1 - rate, 1e-9))
        named = self.anchors.named
        if named.any() and not named.all():
            offsets["named"] = named.float().expand_as(parts["text"])
        if not named.any():
            start.pop("text")
        used = [name for name in start if name in parts]
        if bool(alone.all()) and not self.replicas.mixed:
            used.remove("labels")  # one label for each class: none is left to choose u by
            no_other = bool(named.all() and (self.labels >= 0).all())
            self.weights.labels = ONE_BESIDE_NAMES if no_other else ONE_LABEL
        experts = [parts[name] for name in used]
        w, b = stack(experts, y, [start[name] for name in used], list(offsets.values()), v)
        for name, value in zip([*used, *offsets], [*w, *b], strict=True):
            setattr(self.weights, name, value)

    def _cross_fitted(self, h: Tensor, index: Int[np.ndarray, " n"], r: int) -> Tensor:
        """G of images by the folds that they are not in."""
        found = torch.empty(len(h), self.classes)
        fold = self.replicas.fold[index]
        for f in range(self.settings.folds):
            found[fold == f] = self.image_experts[r][f].logits(h[fold == f])
        return found

    def _weigh_by_text(self) -> None:
        """Choose w by the text expert where there is no label."""
        index = torch.nonzero(self.member)[:, 0].numpy()
        n = len(index)
        index = index[:: max(1, n // MAX_HELD_OUT)]
        x, h = self.rows.at(index)
        soft = self.text.logits(x).softmax(1)
        g = self._cross_fitted(h, index, 0)
        w = best_weight(lambda w: -(soft * (w * g).log_softmax(1)).sum(1).mean())
        self.weights.images = w * n / (n + HALF_WEIGHT * self.classes)

    def opinions(self) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"]]:
        """What the other folds predict for each labelled image.

        Returns:
            The most probable class, -1 for images without a label and for those whose class has
            neither a name nor a label in another fold; its probability; and the probability of the
            label.
        """
        best = torch.full_like(self.labels, -1)
        top = torch.full(self.labels.shape, torch.nan)
        given = top.clone()
        for rows, x, h in self.rows.blocks():
            for r in range(self.replicas.count):
                y = self.labels[rows]
                mine = (y >= 0) & (self.replicas.fold[rows] == r)
                chosen = mine & self.replicas.predictable(r, y)
                index = chosen.nonzero()[:, 0] + rows.start
                if not len(index):
                    continue
                p = self.logits(x[chosen], h[chosen], r, r).softmax(1)
                top[index], best[index] = p.max(1)
                given[index] = p.gather(1, self.labels[index, None])[:, 0]
        return best, top, given
