"""Tip-Adapter: its memory against a slow reading of it, its training, its search.

n = 7 images of 2 of C = 5 classes, K = 3 views, D = 24.
"""

from dataclasses import replace
from inspect import signature
from math import cos, log, pi
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.head_formats import head_parts
from anyclass.classifier.heads import CacheModel
from anyclass.data import Classes
from anyclass.features.text import PLAIN, class_features
from anyclass.log import silent
from anyclass.methods.few_shot import FewShotTask
from anyclass.methods.labelled_features import LabelledFeatures
from anyclass.methods.synthetic_features import SyntheticFeatures
from anyclass.methods.tip_adapter import GridBounds, TipAdapter, grid, grid_search, key_weights
from tests.methods.conftest import unit

CLASSES = Classes.of(("big dog", "kite-7", "red_toy", "art", "soft paper b2"))


@pytest.fixture
def synthetic() -> SyntheticFeatures:
    """Features of class c are row c of a table, counted on from there."""
    table = unit(90, 24, seed=8)
    counted = list[int]()

    def make(c: Tensor, _: torch.Generator) -> Tensor:
        counted.extend(c.tolist())
        return table[[int(i) * 10 + place % 7 for place, i in enumerate(c)]]

    return SyntheticFeatures(torch.tensor([0, 2, 4]), make, seed=5)


def learn(
    how: TipAdapter, clip: Backbone, labelled: LabelledFeatures, **more: Any
) -> tuple[Classifier, CacheModel]:
    found = how.learn(FewShotTask(clip, labelled, CLASSES, **more), lambda **_: None)
    assert isinstance(found.head, CacheModel)
    return found, found.head


def share(clip: Backbone) -> float:
    """The scale of this model, of the one that published alphas belong to."""
    return float(clip.logit_scale.detach()) / 100


def logits_of(clip: Backbone, head: CacheModel, w: Tensor, f: Tensor) -> Tensor:
    """Image by image, class by class, key by key."""
    rows = []
    for one in f:
        row = []
        for c in range(len(w)):
            said = clip.logit_scale.detach() * (one @ w[c])
            for key, label, weight in zip(head.keys, head.labels, head.weights, strict=True):
                if label == c:
                    said = said + head.alpha * (-head.beta * (1 - one @ key)).exp() * weight
            row.append(said)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_learn__remembers_means_of_views_and_labels(
    clip: Backbone, labelled: LabelledFeatures
) -> None:
    found, head = learn(TipAdapter(train=False, alpha=2.0, beta=3.0), clip, labelled)
    assert head.alpha == pytest.approx(2.0 * share(clip))
    for i in range(7):
        mean = (labelled.x[i, 0] + labelled.x[i, 1] + labelled.x[i, 2]) / 3
        assert torch.allclose(head.keys[i], mean / mean.norm(), atol=1e-6)
    assert torch.equal(head.labels, labelled.c)
    assert torch.equal(head.weights, torch.ones(7))
    assert torch.equal(found.head.texts, class_features(clip, CLASSES.prompts, [PLAIN]))
    f = unit(6, 24, seed=3)
    wanted = logits_of(clip, head, found.head.texts, f)
    assert torch.allclose(head.logits(f), wanted, atol=1e-4)
    assert torch.allclose(found.probabilities(f), wanted.softmax(1), atol=1e-5)


@pytest.mark.parametrize(("over", "columns"), [("labelled", [1, 3]), ("all", [0, 1, 2, 3, 4])])
def test_learn__training_equals_the_slow_truth(
    clip: Backbone, labelled: LabelledFeatures, over: str, columns: list[int]
) -> None:
    how = TipAdapter(epochs=2, batch_size=4, lr=0.02, alpha=2.0, beta=3.0)
    found, head = learn(how, clip, labelled, over=over)
    start = learn(replace(how, train=False), clip, labelled)[1]
    keys, w = start.keys.clone().requires_grad_(), found.head.texts
    adam = torch.optim.AdamW([keys], lr=0.02, eps=1e-4, weight_decay=0.01)
    batches = labelled.batches(4, 2, seed=0)
    for batch in batches.start(0):
        said = logits_of(clip, replace(start, keys=keys), w, batch.hidden)[:, columns]
        places = [columns.index(c) for c in labelled.c[batch.index].tolist()]
        loss = (said.logsumexp(1) - said[range(len(said)), places]).mean()
        adam.param_groups[0]["lr"] = 0.02 * (1 + cos(pi * batch.step / len(batches))) / 2
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert torch.allclose(head.keys, keys, atol=1e-5)
    assert not torch.allclose(head.keys, start.keys, atol=1e-3)
    assert torch.equal(head.labels, start.labels)
    assert (head.alpha, head.beta) == (start.alpha, 3.0)


def test_learn__no_step_is_training_free(clip: Backbone, labelled: LabelledFeatures) -> None:
    still, free = (
        learn(h, clip, labelled)[1] for h in (TipAdapter(epochs=0), TipAdapter(train=False))
    )
    assert torch.equal(still.keys, free.keys)
    assert torch.equal(still.labels, free.labels)


def test_logits__alpha_0_is_zero_shot(clip: Backbone, labelled: LabelledFeatures) -> None:
    found, f = learn(TipAdapter(alpha=0.0), clip, labelled)[0], unit(6, 24, seed=3)
    wanted = (clip.logit_scale * f @ found.head.texts.T).softmax(1)
    assert torch.allclose(found.probabilities(f), wanted, atol=1e-6)


def test_logits__beta_0_counts_keys(clip: Backbone, labelled: LabelledFeatures) -> None:
    found, head = learn(TipAdapter(train=False, alpha=0.7, beta=0.0), clip, labelled)
    f = unit(6, 24, seed=3)
    more = head.logits(f) - clip.logit_scale * f @ found.head.texts.T
    counts = torch.tensor([0.0, 3, 0, 4, 0]).expand(6, -1)
    assert torch.allclose(more, 0.7 * share(clip) * counts, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0, 50.0])
def test_logits__a_key_itself_adds_alpha_at_least(
    clip: Backbone, labelled: LabelledFeatures, beta: float
) -> None:
    found, head = learn(TipAdapter(train=False, alpha=0.7, beta=beta), clip, labelled)
    f = head.keys
    more = head.logits(f) - clip.logit_scale * f @ found.head.texts.T
    assert (more[range(7), labelled.c] >= 0.7 * share(clip) - 1e-4).all()


def test_logits__have_the_papers_balance_at_every_scale(
    clip: Backbone, labelled: LabelledFeatures
) -> None:
    """Divided by the scale, they are those of a model with the scale 100."""
    how, f = TipAdapter(train=False, alpha=2.0, beta=3.0), unit(6, 24, seed=3)
    other = clip.copy()
    other.model.logit_scale.data.fill_(log(100.0))
    ours, papers = (learn(how, one, labelled)[1] for one in (clip, other))
    assert papers.alpha == pytest.approx(2.0)
    assert torch.allclose(ours.logits(f) / share(clip), papers.logits(f), atol=1e-3)


def test_learn__keys_of_named_classes_leave_other_columns(
    clip: Backbone, labelled: LabelledFeatures, synthetic: SyntheticFeatures
) -> None:
    how = TipAdapter(train=False)
    plain = learn(how, clip, labelled)[1]
    more = learn(how, clip, labelled, synthetic=synthetic)[1]
    assert more.labels[7:].tolist() == [0] * 4 + [2] * 4 + [4] * 4  # median of 3 and 4
    assert torch.equal(more.weights[7:], torch.ones(12))
    f = unit(6, 24, seed=3)
    before, after = (h.logits(f) for h in (plain, more))
    assert torch.allclose(before[:, [1, 3]], after[:, [1, 3]], atol=1e-5)
    assert (after[:, [0, 2, 4]] > before[:, [0, 2, 4]] + 1e-3).all()


def test_learn__a_named_key_may_be_a_mean_of_draws(
    clip: Backbone, labelled: LabelledFeatures, synthetic: SyntheticFeatures
) -> None:
    head = learn(
        TipAdapter(train=False, named_keys=2, draws=3), clip, labelled, synthetic=synthetic
    )[1]
    assert head.labels[7:].tolist() == [0, 0, 2, 2, 4, 4]
    x, _ = synthetic.per_class(6)
    for i in range(6):
        mean = x[3 * i] + x[3 * i + 1] + x[3 * i + 2]
        assert torch.allclose(head.keys[7 + i], mean / mean.norm(), atol=1e-6)


def test_key_weights__balanced_gives_all_classes_an_equal_say() -> None:
    c = torch.tensor([3, 1, 3, 3])
    assert key_weights(c, balanced=False).tolist() == [1, 1, 1, 1]
    balanced = key_weights(c, balanced=True)
    assert balanced.tolist() == pytest.approx([2 / 3, 2, 2 / 3, 2 / 3])  # the mean count is 2


def test_learn__grows_with_the_keys_not_with_keys_times_classes(clip: Backbone) -> None:
    """A matrix of one-hot labels took 800 MB for 20,000 images of 10,000 classes."""
    classes = Classes.of([f"thing {i}" for i in range(300)])
    c = torch.arange(300).repeat(2)
    labelled = LabelledFeatures(unit(600, 1, 24, seed=1), c, tuple(map(str, range(600))))
    head = TipAdapter(epochs=1).learn(FewShotTask(clip, labelled, classes), silent).head
    assert isinstance(head, CacheModel)
    sizes = [tensor.numel() for tensor in head_parts(head).tensors.values()]
    assert sum(sizes) == 600 * (24 + 1 + 1)
    assert torch.isfinite(head.logits(unit(6, 24, seed=3))).all()


def test_grid__is_that_of_the_released_code() -> None:
    values = grid(7.0, 200)
    assert len(values) == 200
    assert values[:2] == pytest.approx([0.1, 0.1 + 6.9 / 200])
    assert values[-1] == pytest.approx(7.0 - 6.9 / 200)


def accuracy(head: CacheModel, f: Tensor, c: Tensor) -> int:
    return int((head.logits(f)[:, [1, 3]].argmax(1) == (c == 3).int()).sum())


def test_search__returns_the_first_best(clip: Backbone, labelled: LabelledFeatures) -> None:
    """The best is planted: a class text that errs needs a memory that is heard."""
    w = class_features(clip, CLASSES.prompts, [PLAIN]).detach()
    held = LabelledFeatures(
        unit(9, 2, 24, seed=4), torch.tensor([1, 3] * 4 + [3]), tuple("ABCDEFGHI")
    )
    noise = 0.9 * unit(9, 24, seed=6)
    keys = normalize(held.means + noise, dim=-1)
    head = CacheModel(keys, held.c, torch.ones(9), 1.0, 1.0, w, clip.logit_scale.detach())
    with torch.no_grad():
        found = grid_search(head, held, torch.tensor([1, 3]), GridBounds(beta=12.0, alpha=40.0))
        scores = {
            (beta, alpha): accuracy(
                replace(head, beta=beta, alpha=alpha * share(clip)), held.means, held.c
            )
            for beta in grid(12.0, 200)
            for alpha in grid(40.0, 20)
        }
    best = max(scores.values())
    best_pair = (found.beta, pytest.approx(found.alpha / share(clip)))
    assert next(key for key, score in scores.items() if score == best) == best_pair
    assert accuracy(found, held.means, held.c) == best
    assert best > accuracy(replace(head, alpha=0.0), held.means, held.c)
    assert best_pair != (0.1, 0.1)


def test_search__takes_labelled_images_only() -> None:
    """Only labelled training images become `LabelledFeatures`; no other label is read."""
    kinds = {name: p.annotation for name, p in signature(grid_search).parameters.items()}
    assert kinds["held_out"] is LabelledFeatures
    assert set(kinds) == {"head", "held_out", "columns", "bounds"}


def test_learn__held_out_images_are_no_keys(clip: Backbone, labelled: LabelledFeatures) -> None:
    found, head = learn(TipAdapter(train=False, search=0.4), clip, labelled)
    rest, held = labelled.split(0.4, 0)
    assert (len(rest.c), len(held.c)) == (4, 3)
    assert torch.equal(head.keys, rest.means)
    assert found.record.metrics == {
        "keys": 4,
        "alpha": pytest.approx(head.alpha / share(clip)),
        "beta": head.beta,
    }


def test_learn__says_when_nothing_can_be_held_out(
    clip: Backbone, labelled: LabelledFeatures
) -> None:
    alone = LabelledFeatures(labelled.x[:2], labelled.c[:2], labelled.files[:2])
    log = list[dict[str, Any]]()
    how = TipAdapter(train=False, search=0.4)
    head = how.learn(FewShotTask(clip, alone, CLASSES), lambda **row: log.append(row)).head
    assert isinstance(head, CacheModel)
    assert (head.alpha, head.beta) == (pytest.approx(1.17 * share(clip)), 1.0)
    assert any("hold any out" in row.get("warning", "") for row in log)
