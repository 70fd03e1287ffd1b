"""CoCoOp: its training against a slow reading of it, its start, its neighbour CoOp.

n = 7 images of 2 of C = 5 classes, K = 3 views, D = 24, L = 4, W = 40, H = 6.
"""

from math import cos, pi
from typing import Any

import pytest
import torch

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.head_formats import class_weights, head_parts
from anyclass.classifier.heads import MetaNet
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.data import Classes
from anyclass.methods.cocoop import CoCoOp
from anyclass.methods.coop import CoOp
from anyclass.methods.few_shot import FewShotTask
from anyclass.methods.labelled_features import LabelledFeatures

CLASSES = Classes.of(("big dog", "kite-7", "red_toy", "art", "soft paper b2"))


def learn(
    how: CoCoOp, clip: Backbone, labelled: LabelledFeatures, **more: Any
) -> tuple[Classifier, MetaNet]:
    found = how.learn(FewShotTask(clip, labelled, CLASSES, **more), lambda **_: None)
    assert isinstance(found.head, MetaNet)
    return found, found.head


@pytest.mark.parametrize(("over", "columns"), [("all", [0, 1, 2, 3, 4])])
def test_learn__equals_the_slow_truth(
    clip: Backbone, labelled: LabelledFeatures, over: str, columns: list[int]
) -> None:
    how = CoCoOp(epochs=3, batch_size=2, lr=0.2, reduction=4, at_once=3)
    start = learn(CoCoOp(epochs=0, reduction=4), clip, labelled)[1]
    named = {
        name: tensor.clone().requires_grad_() for name, tensor in head_parts(start).tensors.items()
    }
    learner = PromptLearner(clip, CLASSES.prompts, 4)
    sgd = torch.optim.SGD(named.values(), 0.2, momentum=0.9, weight_decay=5e-4)
    for batch in labelled.batches(2, 3, seed=0, drop_last=True).start(0):
        terms = []
        for f, y in zip(batch.hidden, labelled.c[batch.index].tolist(), strict=True):
            shift = named["u2"] @ (named["u1"] @ f + named["c1"]).relu() + named["c2"]
            texts = [learner.features(named["context"] + shift, torch.tensor([c])) for c in columns]
            logits = clip.logit_scale.detach() * torch.cat(texts) @ f
            terms.append(logits.logsumexp(0) - logits[columns.index(y)])
        epoch = batch.step // 3  # seven images, three whole batches
        rate = 1e-5 if epoch == 0 else 0.2 * (1 + cos(pi * epoch / 3)) / 2
        sgd.param_groups[0]["lr"] = rate
        sgd.zero_grad()
        torch.stack(terms).mean().backward(inputs=list(named.values()))
        sgd.step()
    found = head_parts(learn(how, clip, labelled, over=over)[1]).tensors
    for name, tensor in named.items():
        assert torch.allclose(found[name], tensor, atol=1e-4), name
        assert not torch.allclose(found[name], head_parts(start).tensors[name], atol=1e-3), name


def test_learn__sizes_and_start(clip: Backbone, labelled: LabelledFeatures) -> None:
    head = learn(CoCoOp(epochs=0), clip, labelled)[1]
    assert {name: tuple(tensor.shape) for name, tensor in head_parts(head).tensors.items()} == {
        "context": (4, 40),
        "u1": (1, 24),  # 24 // 16
        "c1": (1,),
        "u2": (40, 1),
        "c2": (40,),
    }
    wide = learn(CoCoOp(epochs=0, reduction=2), clip, labelled)[1]
    for tensor, fan_in in ((wide.u1, 24), (wide.c1, 24), (wide.u2, 12), (wide.c2, 12)):
        assert 0.7 * fan_in**-0.5 < tensor.abs().max() <= fan_in**-0.5
    said = clip.words(["a photo of a"]).embeddings[0, 1:5]
    assert torch.equal(head.context, said)


def test_learn__weights_are_texts_without_a_shift(
    clip: Backbone, labelled: LabelledFeatures
) -> None:
    found = learn(CoCoOp(epochs=0), clip, labelled)[0]
    coop = CoOp(epochs=0).learn(FewShotTask(clip, labelled, CLASSES), lambda **_: None)
    assert torch.allclose(class_weights(found.head), coop.head.weights, atol=1e-6)


def test_learn__texts_at_once_change_nothing(clip: Backbone, labelled: LabelledFeatures) -> None:
    one, other = (
        head_parts(learn(CoCoOp(epochs=2, lr=0.1, at_once=size), clip, labelled)[1]).tensors
        for size in (1, 256)
    )
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)
