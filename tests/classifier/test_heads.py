"""Heads: logits by loops, taking apart and putting together, saving, damage.

n = 6 images, C = 5 classes, D = 24, H = 7, k = 9 keys, L = 3 words of width W = 40.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.head_formats import (
    FORMATS,
    HeadParts,
    check_parts,
    class_weights,
    head_parts,
    saved_parts,
)
from anyclass.classifier.heads import (
    Adapter,
    CacheModel,
    CosineHead,
    Head,
    MetaNet,
    WhitenedLinear,
    init_linear,
    with_temperature,
)
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.classifier.representation import Representation
from anyclass.data import Classes
from anyclass.errors import ModelError
from anyclass.estimators.linear import Linear
from anyclass.estimators.open_world_model import OpenWorldModel
from anyclass.estimators.whitening import WhitenedPCA
from anyclass.features.extract import stack_features

CLASSES = Classes.of(("big dog", "kite-7", "red_toy", "art", "soft paper b2"))
SIZES = {"C": 5, "D": 24}
BOTH = ("open-world", "spaces")
"""Heads of rows [x | h | 1]."""


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape: int, seed: int) -> Tensor:
    return normalize(drawn(*shape, seed=seed), dim=-1)


@pytest.fixture(scope="module")
def clip(tiny_clip: Callable[..., str]) -> Backbone:
    return Backbone.load(tiny_clip("causal"), engine="torch")


def head_of(kind: str, clip: Backbone) -> Head:
    w, scale = unit(5, 24, seed=6), clip.logit_scale.detach()
    match kind:
        case "adapter":
            return Adapter(drawn(7, 24, seed=1), drawn(24, 7, seed=2), 0.3, w, scale)
        case "keys":
            labels = torch.tensor([0, 1, 1, 2, 3, 4, 4, 4, 0])
            weights = drawn(9, seed=8).abs()
            return CacheModel(unit(9, 24, seed=3), labels, weights, 1.3, 5.5, w, scale)
        case "open-world":
            nouns = (drawn(3, 24, seed=6), drawn(8, 24, seed=7), torch.ones(1))
            weights = (drawn(5, 57, seed=4), drawn(3, 57, seed=5))
            return OpenWorldModel(*weights, torch.arange(9.0), *nouns)
        case "spaces":
            shapes = ((24,), (24, 24), (24,), (24, 6), (32,), (32, 32), (32,), (32, 9))
            whitening = WhitenedPCA(*(drawn(*shape, seed=5) for shape in shapes), share=0.4)
            return WhitenedLinear(whitening, drawn(5, 16, seed=7))
    small = [0.1 * drawn(*shape, seed=4) for shape in ((3, 40), (7, 24), (7,), (40, 7), (40,))]
    return MetaNet(*small, learner=PromptLearner(clip, CLASSES.prompts, 3), scale=scale)


every = pytest.mark.parametrize("kind", sorted(FORMATS))


def classifier(clip: Backbone, kind: str) -> Classifier:
    representation = Representation((clip,), space="both" if kind in BOTH else "projected")
    return Classifier(representation, head_of(kind, clip), CLASSES, "zero-shot")


# --- logits of a conditional head; those of the others are tested with their methods


def test_conditional__equals_one_text_at_a_time(clip: Backbone) -> None:
    head, f = head_of("conditional", clip), unit(6, 24, seed=5)
    assert isinstance(head, MetaNet)
    with torch.no_grad():
        found = head.logits(f)
        prompts = PromptLearner(clip, CLASSES.prompts, 3)
        for i in range(6):
            shift = head.u2 @ torch.relu(head.u1 @ f[i] + head.c1) + head.c2
            for c in range(5):
                t = prompts.features(head.context + shift, torch.tensor([c]))[0]
                assert float(found[i, c]) == pytest.approx(
                    float(clip.logit_scale * f[i] @ t), abs=1e-4
                )
        for at_once in (1, 4, 1000):
            assert torch.allclose(replace(head, at_once=at_once).logits(f), found, atol=1e-4)
        one = torch.cat([head.logits(f[[i]]) for i in range(6)])
        assert torch.allclose(one, found, atol=1e-4)


def test_conditional__without_a_shift_is_coop(clip: Backbone) -> None:
    head, f = head_of("conditional", clip), unit(6, 24, seed=5)
    assert isinstance(head, MetaNet)
    still = replace(head, u2=0 * head.u2, c2=0 * head.c2)
    t = PromptLearner(clip, CLASSES.prompts, 3).all_features(head.context)
    with torch.no_grad():
        found = still.logits(f)
        assert torch.allclose(found, clip.logit_scale * f @ t.T, atol=1e-4)


def test_conditional__another_width_of_words_is_refused(clip: Backbone) -> None:
    small = [drawn(*shape, seed=4) for shape in ((3, 41), (7, 24), (7,), (41, 7), (41,))]
    with pytest.raises(ModelError, match="width 40, the learned context 41"):
        MetaNet(*small, learner=PromptLearner(clip, CLASSES.prompts, 3), scale=1.0)


def test_fresh__is_drawn_as_layers_of_torch_are() -> None:
    found = init_linear(300, 40, torch.Generator().manual_seed(0))
    layer = nn.Linear(40, 300).weight.detach()
    assert found.abs().max() == pytest.approx(float(layer.abs().max()), rel=0.01)
    assert found.std() == pytest.approx(float(layer.std()), rel=0.05)
    assert torch.equal(found, init_linear(300, 40, torch.Generator().manual_seed(0)))


# --- apart and together


@every
def test_head_parts__has_the_parts_of_the_format(clip: Backbone, kind: str) -> None:
    parts = head_parts(head_of(kind, clip))
    check_parts(parts, SIZES)
    assert parts.kind == kind
    assert set(parts.tensors) == set(FORMATS[kind].tensors) | set(FORMATS[kind].optional)
    assert set(parts.numbers) == set(FORMATS[kind].numbers)


def test_head_parts__leaves_out_optional_tensors_that_are_empty(clip: Backbone) -> None:
    """So are the files of versions without them."""
    head = OpenWorldModel(drawn(5, 57, seed=4), drawn(3, 57, seed=5), torch.arange(9.0))
    parts = head_parts(head)
    assert set(parts.tensors) == {"known", "scores", "temperature"}
    check_parts(parts, SIZES)


@every
def test_check_parts__refuses_what_does_not_fit(clip: Backbone, kind: str) -> None:
    _, tensors, numbers = head_parts(head_of(kind, clip))
    damaged: list[tuple[dict[str, Tensor], dict[str, float]]] = [
        (tensors, numbers | {"more": 1.0}),
        (tensors | {"more": torch.zeros(2)}, numbers),
    ]
    for name, tensor in tensors.items():
        if name not in FORMATS[kind].optional:
            damaged.append(({n: t for n, t in tensors.items() if n != name}, numbers))
        damaged.append((tensors | {name: tensor[None]}, numbers))
    for name in numbers:
        damaged.append((tensors, {n: v for n, v in numbers.items() if n != name}))
        damaged += [(tensors, numbers | {name: bad}) for bad in (float("nan"), float("inf"))]
    for some, values in damaged:
        with pytest.raises(ValueError, match="of its head"):
            check_parts(HeadParts(kind, some, values), SIZES)
    with pytest.raises(ValueError, match="there is no head 'other'"):
        check_parts(HeadParts("other", tensors, numbers), SIZES)


@pytest.mark.parametrize("label", [-1.0, 5.0, 0.5, 1e30])
def test_check_parts__labels_of_keys_are_classes(clip: Backbone, label: float) -> None:
    _, tensors, numbers = head_parts(head_of("keys", clip))
    tensors["labels"][3] = label
    with pytest.raises(ValueError, match="the labels of its head .keys. are no classes"):
        check_parts(HeadParts("keys", tensors, numbers), SIZES)


def test_saved_parts__one_hot_labels_of_earlier_versions(clip: Backbone) -> None:
    head = head_of("keys", clip)
    assert isinstance(head, CacheModel)
    values = torch.eye(5)[head.labels] * head.weights[:, None]
    tensors = {"head.keys": head.keys, "head.values": values}
    parts = saved_parts({"kind": "keys", "alpha": 1.3, "beta": 5.5}, tensors)
    check_parts(parts, SIZES)
    expected = head_parts(head).tensors
    assert parts.tensors.keys() == expected.keys()
    assert all(torch.equal(parts.tensors[name], expected[name]) for name in expected)
    for damaged in (values.flatten(), values + 1, 0 * values):
        with pytest.raises(ValueError, match="are no one-hot labels"):
            saved_parts({"kind": "keys"}, {"head.values": damaged})


@pytest.mark.parametrize("number", ["x" * 100_000, "1.5", ""])
def test_saved_parts__numbers_that_are_texts(number: str) -> None:
    with pytest.raises(ValueError, match="the numbers of its head are no numbers"):
        saved_parts({"kind": "adapter", "ratio": number}, {})


@every
def test_check_parts__axes_of_one_letter_are_one(clip: Backbone, kind: str) -> None:
    """Each tensor a row longer or a column longer; only letters that stand alone may be."""
    alone = {("conditional", "context", 0), ("spaces", "x_axes", 1), ("spaces", "h_axes", 1)}
    alone |= {("open-world", "known", 0), ("open-world", "known", 1), ("open-world", "scores", 0)}
    alone |= {("open-world", "names", 0), ("open-world", "nouns", 0), ("open-world", "cut", 0)}
    _, tensors, numbers = head_parts(head_of(kind, clip))
    for name, tensor in tensors.items():
        for axis in range(tensor.ndim):
            longer = torch.cat([tensor, tensor.narrow(axis, 0, 1)], dim=axis)
            if (kind, name, axis) in alone:
                check_parts(HeadParts(kind, tensors | {name: longer}, numbers), SIZES)
                continue
            with pytest.raises(ValueError, match="another shape"):
                check_parts(HeadParts(kind, tensors | {name: longer}, numbers), SIZES)


# --- saved with a classifier


@every
def test_save__and_load_are_bit_equal(clip: Backbone, kind: str, tmp_path: Path) -> None:
    found = classifier(clip, kind)
    found.save(tmp_path)
    again = Classifier.load(tmp_path, engine="torch")
    assert type(again.head) is type(found.head)
    _, tensors, numbers = head_parts(again.head)
    _, wanted, their_numbers = head_parts(found.head)
    assert numbers == their_numbers
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    weights = class_weights(found.head)
    assert torch.equal(class_weights(again.head), weights)
    f = unit(6, 24, seed=5)
    if kind in BOTH:
        f = stack_features(f, drawn(6, 32, seed=8))
    assert torch.equal(again.probabilities(f), found.probabilities(f))
    if kind not in BOTH:
        plain = (clip.logit_scale * f @ weights.T).softmax(1).detach()
        assert not np.allclose(found.probabilities(f), plain)


def spoil_tensors(folder: Path, spoil: Callable[[dict[str, Tensor]], None]) -> None:
    path = folder / "classifier.safetensors"
    tensors = load_file(path)
    spoil(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def spoil_settings(folder: Path, spoil: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "classifier.json"
    settings = json.loads(path.read_text())
    spoil(settings)
    path.write_text(json.dumps(settings))


@every
def test_load__damage_is_a_model_error(clip: Backbone, kind: str, tmp_path: Path) -> None:
    _, parts, numbers = head_parts(head_of(kind, clip))
    name = f"head.{next(name for name, tensor in parts.items() if tensor.ndim == 2)}"
    spoils: list[Callable[[dict[str, Tensor]], Any]] = [
        lambda t: t.pop(name),
        lambda t: t.update({name: t[name][:, 1:]}),
        lambda t: t.update({name: t[name][0]}),
        lambda t: t.update({name: t[name] * torch.nan}),
        lambda t: t.update({"head.more": torch.zeros(3)}),
    ]
    settings: list[Callable[[dict[str, Any]], Any]] = [
        lambda s: s.update(head=None),
        lambda s: s["head"].update(kind="other"),
        lambda s: s["head"].pop("kind"),
        lambda s: s["head"].update(more=1.0),
        lambda s: s["head"].update({n: "much" for n in numbers} or {"no": 1.0}),
        lambda s: s["head"].update({n: float("nan") for n in numbers} or {"no": 1}),
    ]
    for number, spoil in enumerate([*spoils, *settings]):
        folder = tmp_path / str(number)
        folder.mkdir()
        classifier(clip, kind).save(folder)
        (spoil_tensors if number < len(spoils) else spoil_settings)(folder, spoil)
        with pytest.raises(ModelError):
            Classifier.load(folder, engine="torch")


def test_tempered__divides_logits() -> None:
    rows = drawn(6, 24, seed=3)
    weights = drawn(5, 24, seed=4)
    for head in (Linear(weights, drawn(5, seed=5), 3.0), CosineHead(weights, torch.tensor(3.0))):
        assert torch.allclose(with_temperature(head, 4.0).logits(rows), head.logits(rows) / 4)
