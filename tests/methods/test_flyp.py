"""FLYP: its training against a slow reading of it, its labels, seeds, kills, refusals.

N = 13 images, B = 6, C = 4 classes, D = 24; two epochs and a half.
"""

from collections.abc import Callable
from dataclasses import replace
from math import ceil, cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anyclass import Classifier as Loaded
from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.cli import main
from anyclass.commands.evaluate import evaluate
from anyclass.commands.fit import fit as run_fit
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.features.cache import Embedding
from anyclass.features.store import FeatureStore
from anyclass.methods.flyp import Flyp
from anyclass.methods.zero_shot import ZeroShot
from anyclass.training.batches import Batch, TrainingBatches
from anyclass.training.tuning import Tuning

N, STEPS, B, LR = 13, 5, 6, 3e-2
QUICK = Tuning("head", lr=LR, steps=STEPS, batch_size=B, views=2)

Fitted = tuple[Classifier, list[dict[str, Any]]]
Fit = Callable[..., Fitted]


def small(**changed: Any) -> Flyp:
    """Fields of `Tuning` are given like those of the method."""
    how = {name: changed.pop(name) for name in vars(QUICK) if name in changed}
    return Flyp(tuning=replace(QUICK, **how), **changed)


def steps(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the name of the loop, which only a loop with a checkpoint has."""
    rows = [row for row in log if row.get("stage") == "fit"]
    return [{key: value for key, value in row.items() if key != "loop"} for row in rows]


def losses(log: list[dict[str, Any]]) -> list[float]:
    return [row["flyp_loss"] for row in steps(log)]


def content(classifier: Classifier) -> bytes:
    """Every bit that training decided."""
    tensors = [
        classifier.head.weights,
        *classifier.clip.parameters(classifier.representation.part or "all").values(),
    ]
    numbers = b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)
    return numbers + repr(classifier.record).encode()


@pytest.fixture(scope="module")
def known(dataset: ImageDataset) -> ImageDataset:
    """All but images 2 and 9 with a label, uneven, and not what the model thinks."""
    labels = np.array([0, 1, -1, 2, 2, 0, 3, 2, 1, -1, 2, 0, 2])
    return replace(dataset, labels=labels)


# --- a slow reading: images and texts one by one


def loss_of(f: Tensor, t: list[Tensor], c: list[int], scale: Tensor, collisions: str) -> Tensor:
    terms = []
    for i in range(len(f)):
        same = [j for j in range(len(f)) if c[j] == c[i]]
        seen = [j for j in range(len(f)) if collisions != "mask" or j == i or j not in same]
        for logit in (lambda i, j: f[i] @ t[j] * scale, lambda i, j: f[j] @ t[i] * scale):
            bottom = torch.stack([logit(i, j) for j in seen]).logsumexp(0)
            right = same if collisions == "multi_positive" else [i]
            terms.append(sum(bottom - logit(i, j) for j in right) / len(right) / 2)
    return torch.stack(terms).sum() / len(f)


class Truth:
    """Trains as the docstring of the method says, and is slow about it."""

    def __init__(
        self, clip: Backbone, dataset: ImageDataset, how: Flyp, zero_shot: list[int]
    ) -> None:
        self.how, self.tuned, self.losses = how, clip.copy(), list[float]()
        self.texts = [f"a photo of a {name}." for name in dataset.classes.names]
        self.zero_shot, self.given = zero_shot, dataset.labels.tolist()
        tune, augmentation = how.tuning.tune, how.tuning.augmentation
        part = "tail" if tune == "tail" else "head"
        embedding = Embedding(part, augmentation, 2, 0)
        cached = (
            None
            if tune == "all"
            else FeatureStore(clip, dataset).embed(embedding, lambda **_: None)
        )
        trained = list(self.tuned.parameters(tune).values())
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": 0.2},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6)
        self.warm_up = ceil(len(dataset) / B)
        for batch in TrainingBatches(dataset, self.tuned, cached, augmentation, B, STEPS, 0).start(
            0
        ):
            self.step(batch)

    def text(self, c: int) -> Tensor:
        return self.tuned.texts([self.texts[c]])[0]

    def label(self, row: int, f: Tensor) -> int:
        if self.how.learn_from == "given":
            return int(self.given[row])
        if self.how.relabel == "never":
            return self.zero_shot[row]
        return int(np.argmax([float(f @ self.text(c)) for c in range(len(self.texts))]))

    def step(self, batch: Batch) -> None:
        f = self.tuned.tail(batch.hidden, self.how.tuning.tune)
        with torch.no_grad():
            c = [self.label(row, one) for row, one in zip(batch.index.tolist(), f, strict=True)]
        self.agreement = np.mean(
            [a == self.zero_shot[row] for a, row in zip(c, batch.index.tolist(), strict=True)]
        )
        t = [self.text(label) for label in c]
        loss = loss_of(f, t, c, self.tuned.logit_scale, self.how.collisions)
        self.losses.append(float(loss.detach()))
        lr = self.how.tuning.lr
        rate = lr * (batch.step + 1) / self.warm_up
        if batch.step >= self.warm_up:
            rest = (batch.step - self.warm_up) / (STEPS - self.warm_up)
            rate = lr * (1 + cos(pi * rest)) / 2
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()


@pytest.mark.parametrize(
    "option",
    [
        {},
        {"relabel": "never", "collisions": "multi_positive"},
        {"learn_from": "given"},
        {"tune": "tail", "lr": 2e-3, "collisions": "mask"},
        {"tune": "all", "lr": 2e-3},
    ],
    ids=str,
)
def test_fit__equals_the_slow_truth(
    fit: Fit, once: Fit, clip: Backbone, known: ImageDataset, option: dict[str, Any]
) -> None:
    how = small(**option)
    classifier, log = fit(how, known)
    used = known.labelled if how.learn_from == "given" else known
    assert len(used) == (11 if how.learn_from == "given" else 13)
    zero_shot = once(ZeroShot(), used)[0].predict_proba(used).argmax(1).tolist()
    wanted = Truth(clip, used, how, zero_shot)
    assert losses(log) == pytest.approx(wanted.losses, abs=3e-5)
    with torch.no_grad():
        texts = torch.stack([wanted.text(c) for c in range(4)])
    assert torch.allclose(classifier.head.weights, texts, atol=2e-5)
    trained = classifier.clip.parameters("head")
    for name, parameter in wanted.tuned.parameters("head").items():
        assert torch.allclose(trained[name], parameter, atol=3e-5), name
    metrics = classifier.record.metrics
    assert metrics == {"agreement_with_zero_shot": pytest.approx(wanted.agreement)}
    assert classifier.record.zero_shot_labels == zero_shot


def test_fit__options_differ(fit: Fit, known: ImageDataset) -> None:
    options: list[dict[str, Any]] = [{}, {"relabel": "never"}, {"learn_from": "given"}]
    options += [{"collisions": "mask"}, {"template": "{} art"}]
    weights = [fit(small(**option), known)[0].head.weights for option in options]
    for i, one in enumerate(weights):
        for other in weights[:i]:
            assert not torch.allclose(one, other, atol=1e-4)


def test_fit__texts_of_a_class_are_one_so_multi_positive_is_ignore(fit: Fit) -> None:
    """Each of m images of a class has the same text: m means over m pairs are one sum."""
    one, other = (fit(small(collisions=how))[0] for how in ("ignore", "multi_positive"))
    assert torch.allclose(one.head.weights, other.head.weights, atol=1e-5)


def test_fit__each_class_text_once_a_step(
    fit: Fit, dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, text_tail = [], Backbone.text_tail

    def spy(clip: Backbone, hidden: Tensor, part: Any) -> Tensor:
        if torch.is_grad_enabled():
            seen.append(len(hidden))
        return text_tail(clip, hidden, part)

    monkeypatch.setattr(Backbone, "text_tail", spy)
    fit(small(tune="all"))
    assert seen == [4] * STEPS


@pytest.mark.parametrize(
    ("tune", "still"),
    [("head", {"steps": 0}), ("tail", {"lr": 0.0}), ("all", {"lr": 0.0})],
    ids=str,
)
def test_fit__that_trains_nothing_equals_zero_shot(
    fit: Fit, once: Fit, dataset: ImageDataset, tune: str, still: dict[str, Any]
) -> None:
    classifier, zero_shot = fit(small(tune=tune, **still))[0], once(ZeroShot())[0]
    probabilities = classifier.predict_proba(dataset)
    assert torch.equal(classifier.head.weights, zero_shot.head.weights)
    assert np.allclose(probabilities, zero_shot.predict_proba(dataset), atol=1e-6)
    assert probabilities.argmax(1).tolist() == zero_shot.predict_proba(dataset).argmax(1).tolist()
    assert (classifier.record.metrics == {}) == ("steps" in still)


@pytest.mark.parametrize("option", [{}, {"tune": "all"}], ids=str)
def test_fit__never_reads_a_label(
    fit: Fit, once: Fit, dataset: ImageDataset, option: dict[str, Any]
) -> None:
    noise = np.random.default_rng(1)
    labels = noise.integers(0, 4, len(dataset))
    first, log = once(small(**option))
    again, other = fit(small(**option), replace(dataset, labels=labels))
    assert content(again) == content(first)
    assert other == log


def test_fit__given_labels_are_learned(fit: Fit, once: Fit, dataset: ImageDataset) -> None:
    """Each image's label is the class after the one that zero-shot takes it for."""
    zero_shot = once(ZeroShot())[0].predict_proba(dataset).argmax(1)
    shifted = replace(dataset, labels=(zero_shot + 1) % 4)
    how = small(learn_from="given", collisions="multi_positive", steps=60)
    classifier, log = fit(how, shifted)
    assert np.mean(losses(log)[-5:]) < np.mean(losses(log)[:5]) - 0.2
    assert (classifier.predict_proba(dataset).argmax(1) == shifted.labels).mean() > 0.5
    assert classifier.record.metrics["agreement_with_zero_shot"] == 0


def test_fit__unlabelled_images_are_left_out(fit: Fit, known: ImageDataset) -> None:
    how = small(learn_from="given")
    assert content(fit(how, known)[0]) == content(fit(how, known.labelled)[0])


def test_fit__refuses(fit: Fit, dataset: ImageDataset) -> None:
    with pytest.raises(RequestError, match="no image has a label"):
        fit(small(learn_from="given"), dataset)
    with pytest.raises(RequestError, match="two or more class names"):
        fit(small(), ImageDataset.read(dataset.root, ["only one"]))


def test_fit__same_seed_same_bytes_and_the_model_stays(fit: Fit, clip: Backbone) -> None:
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    how = small(tune="all")
    first, again, other = (fit(how, seed=seed) for seed in (3, 3, 4))
    assert content(first[0]) == content(again[0])
    assert steps(first[1]) == steps(again[1])
    assert content(first[0]) != content(other[0])
    after = clip.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.grad is not None for parameter in clip.model.parameters())


@pytest.mark.parametrize(("option", "step"), [({}, 2), ({"tune": "all"}, 3)], ids=str)
def test_fit__continued_after_a_kill_equals_an_unbroken_one(
    fit: Fit,
    once: Fit,
    dataset: ImageDataset,
    tmp_path: Path,
    killed: Callable[..., None],
    option: dict[str, Any],
    step: int,
) -> None:
    how = small(**option)
    unbroken, rows = once(how)
    killed(how, dataset, tmp_path, "fit", step)
    continued, later = fit(how, scratch=tmp_path)
    assert content(continued) == content(unbroken)
    assert steps(later) == steps(rows)[step:]
    finished, nothing = fit(how, scratch=tmp_path)  # from the last step
    assert content(finished) == content(unbroken)
    assert not steps(nothing)


def test_main__takes_the_fields_as_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "flyp", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(
        f"--{flag.replace('_', '-')}" in said
        for flag in (vars(QUICK) | vars(Flyp())).keys() - {"tuning", "augmentation"}
    )


def test_anyclass_fit__a_run_of_given_labels(shapes: dict[str, Any], tmp_path: Path) -> None:
    how = small(learn_from="given", steps=8, collisions="multi_positive")
    metrics = run_fit(how, tmp_path / "run", **shapes).metrics
    assert metrics["scored"] == 14
    assert set(metrics["facts"]) == {"agreement_with_zero_shot"}
    loaded = Loaded.load(tmp_path / "run" / "model", engine="torch")
    assert (loaded.method, loaded.fields["learn_from"]) == ("flyp", "given")
    found = evaluate(tmp_path / "run", shapes["images"], engine="torch")
    assert found["accuracy"] == pytest.approx(metrics["adapted"]["accuracy"])
