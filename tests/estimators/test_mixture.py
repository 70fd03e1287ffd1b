"""EM of the mixture against slow loops: N = 66 images, D = 9, C = 4 classes, F = 3 folds."""

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anyclass.estimators.gaussian_expert import Anchors
from anyclass.estimators.mixture import HALF_WEIGHT, Mixture, MixtureSettings
from anyclass.estimators.rows import Rows
from anyclass.estimators.stacking import GRID, stack
from anyclass.estimators.text_expert import CentredTexts, text_anchors
from anyclass.log import silent

FOLDS = 3
SHARPNESS = 2.0
KAPPA = 2.5


def mixture_of(toy: Any, kind: str, rounds: int = 2, extra: bool = False) -> Mixture:
    """An unfitted mixture of one of the kinds of `conftest.KINDS`."""
    _, data = toy.given(kind)
    rows = Rows.checked(toy.x, toy.extra if extra else None).centred()
    labels = torch.full((66,), -1) if data["y"] is None else torch.tensor(data["y"])
    texts = CentredTexts.of(data["class_text"], 9).padded(4)
    anchors = text_anchors(rows, texts, KAPPA)
    settings = MixtureSettings(rounds, FOLDS, SHARPNESS, 0.4)
    member = torch.ones(66, dtype=torch.bool)
    return Mixture(rows, labels, texts.expert(20.0), anchors, settings, member)


def slow_gaussian(h: np.ndarray, z: np.ndarray, anchors: Anchors, least: float) -> Any:
    """g as a function of h: means, covariance, shrinkage and bias of the equations."""
    texts = anchors.texts.double().numpy()
    named = anchors.named.numpy()
    classes, width = texts.shape
    counts = z.sum(0)
    means = np.array([z[:, c] @ h / max(counts[c], 1e-6) for c in range(classes)])
    products = sum(counts[c] * means[c] @ texts[c] for c in range(classes) if named[c])
    squares = sum(counts[c] * texts[c] @ texts[c] for c in range(classes) if named[c])
    a = max(0.0, products / squares) if squares > 0 else 1.0
    within = np.zeros((width, width))
    for i in range(len(h)):
        for c in range(classes):
            within += z[i, c] * np.outer(h[i] - means[c], h[i] - means[c])
    freedom = len(h) - sum(count > 0.5 for count in counts)
    cov = anchors.level * np.eye(width)
    s = 1.0
    if freedom >= 1 and np.trace(within) > 1e-6 * width * anchors.level:
        cov = within / freedom
        alpha = np.mean(cov**2)
        level = np.trace(cov) / width
        s = max(least, min(1, (alpha + level**2) / ((freedom + 1) * (alpha - level**2 / width))))
    inverse = np.linalg.inv((1 - s) * cov + s * np.trace(cov) / width * np.eye(width))
    kappa = np.where(named, anchors.strength, 1e-6)
    mu = [
        (counts[c] * means[c] + kappa[c] * a * texts[c]) / (counts[c] + kappa[c])
        for c in range(classes)
    ]
    factors = [min(1.0, counts[c] / (counts[c] + kappa[c]) ** 2) for c in range(classes)]
    v = np.trace(inverse @ cov) * np.array(factors)
    v = np.where(counts > 1e-6, v, 0)

    def g(of: np.ndarray) -> np.ndarray:
        columns = [
            of @ inverse @ m - m @ inverse @ m / 2 + b / 2 for m, b in zip(mu, v, strict=True)
        ]
        return np.stack(columns, axis=1)

    return g


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


class SlowEM:
    """The equations of `open_world.py`, replica by replica and fold by fold."""

    def __init__(self, fast: Mixture) -> None:
        x, h = fast.rows.at(slice(0, 66))
        self.h = h.double().numpy()
        self.anchors = fast.anchors
        self.named = fast.anchors.named.numpy()
        self.fold = fast.replicas.fold.numpy()
        self.group = fast.replicas.group.numpy()
        self.y = fast.labels.numpy()
        self.l = fast.text.logits(x).double().numpy()
        self.has_labels = bool((self.y >= 0).any())
        labelled = np.isin(np.arange(4), self.y)
        self.mixed = self.has_labels and bool((self.named & ~labelled).any())
        self.only_named = self.named & ~labelled
        self.replicas = [*range(FOLDS), None] if self.has_labels else [None]
        self.w = {"text": 1.0 * self.named.any(), "labels": 0.0, "images": 0.0, "d": 0.0, "b": 0.0}
        self.G: dict[Any, Any] = {}
        self.g = {r: self.label_expert(r) for r in self.replicas if self.has_labels}

    def seen(self, r: int | None) -> np.ndarray:
        """Labels that replica r knows; None: all."""
        found = self.y.copy()
        for i in np.flatnonzero(self.y >= 0):
            whole = self.mixed and self.named[self.y[i]] and self.group[self.y[i]] == r
            if r is not None and (self.fold[i] == r or whole):
                found[i] = -1
        return found

    def known(self, r: int | None) -> np.ndarray:
        return np.isin(np.arange(4), self.seen(r)).astype(float)

    def label_expert(self, r: int | None) -> Any:
        seen = self.seen(r)
        rows = seen >= 0
        return slow_gaussian(self.h[rows], np.eye(4)[seen[rows]], self.anchors, 0.02)

    def logits(self, i: np.ndarray, r: int | None, f: int | None) -> np.ndarray:
        total = self.w["text"] * self.l[i]
        if self.has_labels:
            total = total + self.w["labels"] * self.g[r](self.h[i])
        if self.G:
            total = total + self.w["images"] * self.G[r, f](self.h[i])
        if self.mixed:
            total = total + self.w["d"] * self.known(r)
        return total if self.named.all() else total + self.w["b"] * self.named

    def soft_classes(self, r: int | None) -> np.ndarray:
        """z: of each image by the experts that have not seen it."""
        seen = self.seen(r)
        z = np.zeros((66, 4))
        for i in range(66):
            one = np.array([i])
            z[i] = softmax(SHARPNESS * self.logits(one, r, self.fold[i]))[0]
            z[i] = np.eye(4)[seen[i]] if seen[i] >= 0 else z[i]
        return z

    def fit_image_experts(self) -> None:
        found = {}
        for r in self.replicas:
            z = self.soft_classes(r)
            for f in [*range(FOLDS), None]:
                rows = self.fold != (-1 if f is None else f)
                found[r, f] = slow_gaussian(self.h[rows], z[rows], self.anchors, 0.4)
        self.G = found

    def stack(self) -> None:
        parts: dict[str, list[np.ndarray]] = {"text": [], "labels": [], "images": [], "known": []}
        y = []
        alone = []
        for r in range(FOLDS):
            possible = self.known(r).astype(bool) | self.named
            for i in np.flatnonzero((self.y >= 0) & (self.seen(r) < 0)):
                if not possible[self.y[i]]:
                    continue
                one = np.array([i])
                parts["text"].append(self.l[i])
                parts["labels"].append(self.g[r](self.h[one])[0])
                if self.G:
                    parts["images"].append(self.G[r, self.fold[i]](self.h[one])[0])
                parts["known"].append(self.known(r))
                y.append(self.y[i])
                alone.append(not self.known(r)[self.y[i]])
        start = {"text": 1.0, "labels": 0.02, "images": 0.04}
        used = [k for k in start if parts[k] and (k != "text" or self.named.any())]
        offsets = {}
        v = np.ones(len(y))
        if self.mixed and not all(alone):
            offsets["d"] = np.array(parts["known"])
            share = self.only_named.mean()
            rate = max(np.mean(alone), 1e-9)
            v = np.where(alone, share / rate, (1 - share) / max(1 - rate, 1e-9))
        if self.named.any() and not self.named.all():
            offsets["b"] = np.tile(self.named, (len(y), 1))
        w, b = stack(
            [tensor(parts[k]) for k in used],
            torch.tensor(y),
            [start[k] for k in used],
            [tensor(o) for o in offsets.values()],
            tensor(v),
        )
        self.w |= dict(zip([*used, *offsets], [*w, *b], strict=True))

    def weigh_by_text(self) -> None:
        soft = softmax(self.l)
        g = np.stack([self.G[None, self.fold[i]](self.h[[i]])[0] for i in range(66)])
        losses = [-np.mean(np.sum(soft * np.log(softmax(w * g)), axis=1)) for w in GRID]
        self.w["images"] = GRID[int(np.argmin(losses))] * 66 / (66 + HALF_WEIGHT * 4)

    def fit(self, rounds: int) -> None:
        if self.has_labels:
            self.stack()
        for _ in range(rounds):
            self.fit_image_experts()
            if self.has_labels:
                self.stack()
            else:
                self.weigh_by_text()


def tensor(rows: Any) -> Tensor:
    return torch.tensor(np.array(rows)).float()


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("names", False),
        ("names", True),
        ("labels", False),
        ("labels and names", True),
        ("labels or names", False),
        ("names for some", True),
    ],
)
def test_fit__is_the_slow_loop(toy: Callable[..., Any], kind: str, extra: bool) -> None:
    fast = mixture_of(toy(noise=1.0), kind, rounds=2, extra=extra)
    slow = SlowEM(fast)
    fast.fit(silent)
    slow.fit(2)
    wanted = [slow.w[key] for key in ("text", "labels", "images", "d", "b")]
    assert astuple(fast.weights) == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    index = np.arange(66)
    x, h = fast.rows.at(slice(0, 66))
    for r, name in enumerate(slow.replicas):
        for f in range(FOLDS + 1):
            found = fast.weights.images * fast.image_experts[r][f].logits(h)
            g = slow.w["images"] * slow.G[name, f if f < FOLDS else None](slow.h)
            assert np.allclose(found, g, rtol=1e-3, atol=1e-3), "as close as the weights"
    final = fast.final_logits(x, h)
    assert np.allclose(final, slow.logits(index, None, None), rtol=1e-3, atol=1e-3)
    on_x, on_h = fast.linear()
    torch.testing.assert_close(on_x.logits(x) + on_h.logits(h), final)
