"""LatteCLIP's fit: every option against a slow reading of the paper.

N = 13 images, B = 6, C = 4 classes, K = 3 texts, D = 24; two epochs and a half.
"""

from collections.abc import Callable
from math import ceil, cos, pi
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.captioning.captions import draw_groups
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.features.cache import Embedding
from anyclass.features.store import FeatureStore
from anyclass.methods.latteclip import LatteClip
from anyclass.training.batches import TrainingBatches

NAMES = ("two", "orange", "art", "image")
N, STEPS, B = 13, 5, 6

Fitted = tuple[Classifier, list[dict[str, Any]]]
Small = Callable[..., LatteClip]


def losses(log: list[dict[str, Any]]) -> list[list[float]]:
    rows = [row for row in log if row.get("stage") == "fit"]
    return [[row[name] for name in ("zs_loss", "ft_loss") if name in row] for row in rows]


# --- a slow reading of section 3: samples, branches and texts one by one


def pixels(clip: Backbone, dataset: ImageDataset) -> Tensor:
    views = [clip.preprocessing.view(Image.open(dataset.path(i))) for i in range(len(dataset))]
    return clip.preprocessing.normalise(torch.stack(views))


def weight(v: Tensor, p: Tensor, c: int, how: LatteClip) -> float:
    s = [float(v @ row) for row in p]
    if how.margin == "equal":
        return 1.0
    if how.margin == "signed":
        return max(0.0, s[c] - max(s[:c] + s[c + 1 :])) + how.floor
    return sorted(s)[-1] - sorted(s)[-2] + how.floor


def mixed(texts: list[Tensor], c: int, p: Tensor, weigh: Tensor, how: LatteClip) -> Tensor:
    w = [weight(v.detach(), weigh, c, how) for v in texts]
    return sum(a * v for a, v in zip(w, texts, strict=True)) / sum(w) if sum(w) else p[c]


def branch_loss(
    f: Tensor, t: list[Tensor], c: list[int], p: Tensor, scale: Tensor, how: LatteClip
) -> Tensor:
    terms = []
    for i in range(len(f)):
        if how.loss == "classes":
            row = [f[i] @ (t[i] if k == c[i] else p[k]) * scale for k in range(len(p))]
            terms.append(torch.stack(row).logsumexp(0) - row[c[i]])
            continue
        same = [j for j in range(len(f)) if c[j] == c[i]]
        seen = [j for j in range(len(f)) if how.collisions != "mask" or j == i or j not in same]
        for l_ij in (lambda i, j: f[i] @ t[j] * scale, lambda i, j: f[j] @ t[i] * scale):
            bottom = torch.stack([l_ij(i, j) for j in seen]).logsumexp(0)
            right = same if how.collisions == "multi_positive" else [i]
            terms.append(sum(bottom - l_ij(i, j) for j in right) / len(right) / 2)
    return torch.stack(terms).sum() / len(f)


def moved(p: Tensor, pairs: list[tuple[int, Tensor]], how: LatteClip) -> Tensor:
    rows = list(p)
    for k in range(len(p)):
        mine = [m for c, m in pairs if c == k]
        if mine:
            mean_m = sum(mine) / len(mine)
            mean_t = how.alpha * p[k] + (1 - how.alpha) * mean_m
            mean = mean_t if how.momentum == "double" else mean_m
            new = mean_m if how.momentum == "none" else how.mu * p[k] + (1 - how.mu) * mean
            rows[k] = new / new.norm()
    return torch.stack(rows)


class Truth:
    """Trains as section 3 says, and is slow about it."""

    def __init__(
        self, clip: Backbone, dataset: ImageDataset, how: LatteClip, each_text_anew: bool = False
    ) -> None:
        self.clip, self.how, self.anew, self.tuned = clip, how, each_text_anew, clip.copy()
        self.test, self.class_texts = pixels(clip, dataset), [f"a photo of a {n}." for n in NAMES]
        self.p = torch.cat([clip.texts([text]) for text in self.class_texts]).detach()
        self.c_zs = self.c_epoch = self.pool = self.weak()
        self.losses: list[list[float]] = []
        part = "tail" if how.tuning.tune == "tail" else "head"
        embedding = Embedding(part, how.tuning.augmentation, 2, 0)
        cached = (
            None
            if how.tuning.tune == "all"
            else FeatureStore(clip, dataset).embed(embedding, lambda **_: None)
        )
        views = TrainingBatches(dataset, self.tuned, cached, how.tuning.augmentation, B, STEPS, 0)
        self.adam = self.optimiser()
        for batch in views.start(0):
            self.step(batch.step, batch.index.tolist(), batch.hidden)

    @torch.no_grad()
    def weak(self) -> list[int]:
        return [int((self.p @ f).argmax()) for f in self.tuned.images(self.test)]

    def optimiser(self) -> torch.optim.AdamW:
        trained = self.tuned.parameters(
            self.how.tuning.tune, texts=not self.how.freeze_text
        ).values()
        groups = [
            {"params": [q for q in trained if q.ndim >= 2], "weight_decay": 0.2},
            {"params": [q for q in trained if q.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6)

    def step(self, step: int, rows: list[int], hidden: Tensor) -> None:
        how = self.how
        if how.relabel_view == "weak" or how.relabel == "epoch" or how.regroup == "once":
            weak = self.weak()
        self.pool = weak if how.regroup == "once" and step == ceil(N / B) else self.pool
        if step % (N // B) == 0:
            self.p_epoch = self.p
            self.c_epoch = weak if how.relabel == "epoch" else self.c_epoch
        f = self.tuned.tail(hidden, how.tuning.tune)
        now = [int((self.p @ row).argmax()) for row in f.detach()]
        now = [weak[i] for i in rows] if how.relabel_view == "weak" else now
        now = now if how.relabel == "batch" else [self.c_epoch[i] for i in rows]
        self.features: dict[str, Tensor] = {}
        labels = {"zs": [self.c_zs[i] for i in rows], "ft": now}
        m = {
            b: [self.mix(i, k, b) for i, k in zip(rows, c, strict=True)] for b, c in labels.items()
        }
        terms = [self.loss(f, m[b], labels[b]) for b in labels if b in how.branches]
        self.losses.append([float(term.detach()) for term in terms])
        moving = [b for b in labels if how.update_branches == "all" or b in how.branches]
        pairs = [[(c, v.detach()) for c, v in zip(labels[b], m[b], strict=True)] for b in moving]
        for some in [sum(pairs, [])] if how.update == "pooled" else pairs:
            self.p = moved(self.p, some, how)
        self.descend(sum(terms), step)

    def mix(self, i: int, c: int, branch: str) -> Tensor:
        how, pools = self.how, draw_groups(torch.tensor(self.pool), len(NAMES), 2, 1, 0)
        tried = [c, self.pool[i]] if how.group_label == "ft" and branch == "ft" else [self.pool[i]]
        groups = [how.captioner.say(rows) for k in tried for rows in pools[k]]
        texts = {
            "class": self.class_texts[c],
            "image": how.captioner.say((i,)),
            "group": next(filter(None, groups), None),
        }
        v = [self.feature(texts[kind]) for kind in how.texts if texts[kind]]
        return mixed(
            v, c, self.p, self.p_epoch if how.weight_prototypes == "epoch" else self.p, how
        )

    def feature(self, text: str) -> Tensor:
        if self.how.freeze_text:
            return self.clip.texts([text])[0].detach()
        if self.anew or text not in self.features:
            self.features[text] = self.tuned.texts([text])[0]
        return self.features[text]

    def loss(self, f: Tensor, m: list[Tensor], c: list[int]) -> Tensor:
        alpha, p = self.how.alpha, self.p
        t = [alpha * p[k] + (1 - alpha) * row for k, row in zip(c, m, strict=True)]
        t = [row / row.norm() for row in t] if self.how.normalise_mix else t
        return branch_loss(f, t, c, p, self.tuned.logit_scale, self.how)

    def descend(self, loss: Tensor, step: int) -> None:
        warm_up, lr = ceil(N / B), self.how.tuning.lr
        rate = lr * (step + 1) / warm_up
        if step >= warm_up:
            rate = lr * (1 + cos(pi * (step - warm_up) / (STEPS - warm_up))) / 2
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()


OPTIONS: list[dict[str, Any]] = [
    {"momentum": "double", "mu": 0.6, "collisions": "multi_positive", "update": "sequential"},
    {"momentum": "none", "normalise_mix": True, "collisions": "mask"},
    {"margin": "signed", "floor": 0.1, "weight_prototypes": "epoch", "relabel": "epoch"},
    {"margin": "equal", "loss": "classes", "relabel": "never"},
    {"branches": ("ft",), "group_label": "ft"},
    {"branches": ("zs",), "texts": ("group", "image")},
    {"branches": ("zs",), "update_branches": "same", "texts": ("class",)},
    {"texts": ("image",), "margin": "signed", "floor": 0.0},
    {"freeze_text": True, "regroup": "once"},
    {"tune": "tail"},
    {"tune": "all"},
    {"tune": "all", "relabel_view": "weak", "regroup": "once"},
    {"tune": "all", "freeze_text": True, "relabel": "epoch"},
]


@pytest.fixture(scope="module")
def default(fit: Callable[..., Fitted], small: Small) -> Fitted:
    return fit(small())


def agree(result: Fitted, wanted: Truth) -> None:
    classifier, log = result
    assert torch.allclose(torch.tensor(losses(log)), torch.tensor(wanted.losses), atol=2e-5)
    assert torch.allclose(classifier.head.weights, wanted.p, atol=2e-5)


def test_fit__equals_the_slow_truth(
    clip: Backbone, dataset: ImageDataset, small: Small, default: Fitted
) -> None:
    """Each distinct text of a step is encoded once there, and all 4 B of them one by one here."""
    wanted = Truth(clip, dataset, small(), each_text_anew=True)
    agree(default, wanted)
    trained = default[0].clip.parameters("head")
    for name, parameter in wanted.tuned.parameters("head").items():
        assert torch.allclose(trained[name], parameter, atol=2e-5)
        assert torch.allclose(trained[name].grad, parameter.grad, atol=1e-5)
    assert min(np.bincount(wanted.c_zs, minlength=len(NAMES))) >= 2


@pytest.mark.parametrize(
    "option", OPTIONS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items())
)
def test_fit__options_equal_the_slow_truth_and_matter(
    clip: Backbone,
    dataset: ImageDataset,
    fit: Callable[..., Fitted],
    default: Fitted,
    small: Small,
    option: dict[str, Any],
) -> None:
    how = small(**option)
    result = fit(how)
    agree(result, Truth(clip, dataset, how))
    same = torch.allclose(result[0].head.weights, default[0].head.weights, atol=1e-4)
    assert not same or not np.allclose(losses(result[1]), losses(default[1]), atol=1e-4)
