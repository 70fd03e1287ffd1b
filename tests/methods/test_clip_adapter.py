"""CLIP-Adapter: its training against a slow reading of it, and what may not change anything.

n = 7 images of 2 of C = 5 classes, K = 3 views, D = 24, H = 6.
"""

from dataclasses import replace
from math import cos, pi
from typing import Any

import pytest
import torch
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import Adapter
from anyclass.data import Classes
from anyclass.features.text import class_features
from anyclass.methods.clip_adapter import ClipAdapter
from anyclass.methods.few_shot import FewShotTask
from anyclass.methods.labelled_features import LabelledFeatures
from tests.methods.conftest import unit

CLASSES = Classes.of(("big dog", "kite-7", "red_toy", "art", "soft paper b2"))


def learn(how: ClipAdapter, clip: Backbone, labelled: LabelledFeatures, **more: Any) -> Classifier:
    return how.learn(FewShotTask(clip, labelled, CLASSES, **more), lambda **_: None)


def adapted(w1: Tensor, w2: Tensor, rho: float, f: Tensor) -> Tensor:
    """One image, unit by unit."""
    hidden = [max(torch.zeros(()), row @ f) for row in w1]
    a = [max(torch.zeros(()), sum(row[i] * hidden[i] for i in range(len(hidden)))) for row in w2]
    mixed = rho * torch.stack(a) + (1 - rho) * f
    return mixed / mixed.norm()


@pytest.mark.parametrize(("over", "columns"), [("labelled", [1, 3]), ("all", [0, 1, 2, 3, 4])])
def test_learn__equals_the_slow_truth(
    clip: Backbone, labelled: LabelledFeatures, over: str, columns: list[int]
) -> None:
    how = ClipAdapter(epochs=2, batch_size=4, lr=0.02, ratio=0.3, template="{} art")
    start = learn(ClipAdapter(epochs=0), clip, labelled).head
    assert isinstance(start, Adapter)
    w1, w2 = (tensor.clone().requires_grad_() for tensor in (start.w1, start.w2))
    texts = class_features(clip, CLASSES.prompts, ["{} art"]).detach()
    adam = torch.optim.AdamW([w1, w2], lr=0.02, eps=1e-4, weight_decay=0.01)
    batches = labelled.batches(4, 2, seed=0)
    for batch in batches.start(0):
        terms = []
        for f, c in zip(batch.hidden, labelled.c[batch.index].tolist(), strict=True):
            seen = adapted(w1, w2, 0.3, f)
            logits = clip.logit_scale.detach() * torch.stack([seen @ texts[k] for k in columns])
            terms.append(logits.logsumexp(0) - logits[columns.index(c)])
        adam.param_groups[0]["lr"] = 0.02 * (1 + cos(pi * batch.step / len(batches))) / 2
        adam.zero_grad()
        torch.stack(terms).mean().backward()
        adam.step()
    found = learn(how, clip, labelled, over=over)
    assert isinstance(found.head, Adapter)
    assert torch.allclose(found.head.w1, w1, atol=1e-5)
    assert torch.allclose(found.head.w2, w2, atol=1e-5)
    assert not torch.allclose(found.head.w1, start.w1, atol=1e-3)
    assert torch.equal(found.head.texts, texts)


def test_learn__starts_as_layers_of_torch_do(clip: Backbone, labelled: LabelledFeatures) -> None:
    head = learn(ClipAdapter(epochs=0), clip, labelled).head
    assert isinstance(head, Adapter)
    assert (head.w1.shape, head.w2.shape) == ((6, 24), (24, 6))
    for w, fan_in in ((head.w1, 24), (head.w2, 6)):
        assert 0.9 * fan_in**-0.5 < w.abs().max() <= fan_in**-0.5
        assert w.abs().mean() == pytest.approx(fan_in**-0.5 / 2, rel=0.2)


def test_learn__ratio_0_is_zero_shot(clip: Backbone, labelled: LabelledFeatures) -> None:
    found, f = learn(ClipAdapter(epochs=3, ratio=0.0, lr=0.1), clip, labelled), unit(6, 24, seed=3)
    wanted = (clip.logit_scale * f @ found.head.texts.T).softmax(1)
    assert torch.allclose(found.probabilities(f), wanted, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_adapted__is_unit_and_does_not_see_the_length_of_its_input(
    clip: Backbone, labelled: LabelledFeatures, scale: float
) -> None:
    head, f = learn(ClipAdapter(epochs=2, ratio=0.6), clip, labelled).head, unit(6, 24, seed=3)
    assert isinstance(head, Adapter)
    wanted = torch.stack([adapted(head.w1, head.w2, 0.6, one) for one in f])
    assert torch.allclose(head.adapted(scale * f), wanted, atol=1e-5)
    assert torch.allclose(head.adapted(scale * f).norm(dim=1), torch.ones(6), atol=1e-6)
    assert (replace(head, ratio=1.0).adapted(f) >= 0).all()  # A itself
