"""Heads: logits by loops, taking apart and putting together, saving, damage.

n = 6 images, C = 5 classes, D = 24, H = 7, k = 9 keys, L = 3 words of width W = 40.
"""

import json
from collections.abc import Callable
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
from anyclass.classifier.heads import (
    HEADS,
    Adapter,
    CacheModel,
    Head,
    MetaNet,
    assemble,
    fresh,
    parts,
)
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.data import Classes
from anyclass.errors import ModelError
from anyclass.estimators.whitening import WhitenedPCA

CLASSES = Classes.of(("big dog", "kite-7", "red_toy", "art", "soft paper b2"))
SIZE = (5, 24)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape: int, seed: int) -> Tensor:
    return normalize(drawn(*shape, seed=seed), dim=-1)


def head_of(kind: str) -> Head:
    match kind:
        case "adapter":
            return Adapter(drawn(7, 24, seed=1), drawn(24, 7, seed=2), ratio=0.3)
        case "keys":
            values = torch.eye(5)[[0, 1, 1, 2, 3, 4, 4, 4, 0]]
            return CacheModel(unit(9, 24, seed=3), values, alpha=1.3, beta=5.5)
        case "spaces":
            shapes = ((24,), (24, 24), (24,), (24, 6), (32,), (32, 32), (32,), (32, 9))
            return WhitenedPCA(*(drawn(*shape, seed=5) for shape in shapes), share=0.4)
    small = [0.1 * drawn(*shape, seed=4) for shape in ((3, 40), (7, 24), (7,), (40, 7), (40,))]
    return MetaNet(*small)


@pytest.fixture(scope="module")
def clip(tiny_clip: Callable[..., str]) -> Backbone:
    return Backbone.load(tiny_clip("causal"), engine="torch")


every = pytest.mark.parametrize("kind", sorted(HEADS))
of_unit_features = pytest.mark.parametrize("kind", sorted(set(HEADS) - {"spaces"}))
"""Heads of the shared features alone; `test_get_plus` saves the other one."""


def classifier(clip: Backbone, kind: str) -> Classifier:
    w = unit(5, 24, seed=6)
    return Classifier(clip, None, CLASSES, w, "zero-shot", head=head_of(kind))


# --- logits of a conditional head; those of the others are tested with their methods


def test_conditional__equals_one_text_at_a_time(clip: Backbone) -> None:
    head, f = head_of("conditional"), unit(6, 24, seed=5)
    assert isinstance(head, MetaNet)
    with torch.no_grad():
        found = head.logits(clip, CLASSES.prompts, unit(5, 24, seed=6), f)
        prompts = PromptLearner(clip, CLASSES.prompts, 3)
        for i in range(6):
            shift = head.u2 @ torch.relu(head.u1 @ f[i] + head.c1) + head.c2
            for c in range(5):
                t = prompts.features(head.context + shift, torch.tensor([c]))[0]
                assert float(found[i, c]) == pytest.approx(
                    float(clip.logit_scale * f[i] @ t), abs=1e-4
                )
        for at_once in (1, 4, 1000):
            assert torch.allclose(head.of(clip, prompts, f, at_once), found, atol=1e-4)
        one = torch.cat([head.of(clip, prompts, f[[i]]) for i in range(6)])
        assert torch.allclose(one, found, atol=1e-4)


def test_conditional__without_a_shift_is_coop(clip: Backbone) -> None:
    head, f = head_of("conditional"), unit(6, 24, seed=5)
    assert isinstance(head, MetaNet)
    still = MetaNet(head.context, head.u1, head.c1, 0 * head.u2, 0 * head.c2)
    t = PromptLearner(clip, CLASSES.prompts, 3).all_features(head.context)
    with torch.no_grad():
        found = still.logits(clip, CLASSES.prompts, t, f)
        assert torch.allclose(found, clip.logit_scale * f @ t.T, atol=1e-4)


def test_conditional__another_width_of_words_is_refused(clip: Backbone) -> None:
    small = [drawn(*shape, seed=4) for shape in ((3, 41), (7, 24), (7,), (41, 7), (41,))]
    with pytest.raises(ModelError, match="40 wide, those that were learned 41"):
        MetaNet(*small).logits(clip, CLASSES.prompts, unit(5, 24, seed=6), unit(6, 24, seed=5))


def test_fresh__is_drawn_as_layers_of_torch_are() -> None:
    found = fresh(300, 40, torch.Generator().manual_seed(0))
    layer = nn.Linear(40, 300).weight.detach()
    assert found.abs().max() == pytest.approx(float(layer.abs().max()), rel=0.01)
    assert found.std() == pytest.approx(float(layer.std()), rel=0.05)
    assert torch.equal(found, fresh(300, 40, torch.Generator().manual_seed(0)))


# --- apart and together


@every
def test_assemble__is_the_way_back_from_parts(kind: str) -> None:
    head = head_of(kind)
    tensors, numbers = parts(head)
    again = assemble(kind, tensors, numbers, SIZE)
    assert type(again) is type(head)
    assert parts(again)[1] == numbers
    assert all(torch.equal(parts(again)[0][name], tensor) for name, tensor in tensors.items())


@every
def test_assemble__refuses_what_does_not_fit(kind: str) -> None:
    tensors, numbers = parts(head_of(kind))
    damaged: list[tuple[dict[str, Tensor], dict[str, float]]] = [
        (tensors, numbers | {"more": 1.0}),
        (tensors | {"more": torch.zeros(2)}, numbers),
    ]
    for name, tensor in tensors.items():
        damaged.append(({n: t for n, t in tensors.items() if n != name}, numbers))
        damaged.append((tensors | {name: tensor[None]}, numbers))
    for name in numbers:
        damaged.append((tensors, {n: v for n, v in numbers.items() if n != name}))
        damaged += [(tensors, numbers | {name: bad}) for bad in (float("nan"), float("inf"))]
    for some, values in damaged:
        with pytest.raises(ValueError, match="of its head"):
            assemble(kind, some, values, SIZE)
    with pytest.raises(ValueError, match="no head is called 'other'"):
        assemble("other", tensors, numbers, SIZE)


@every
def test_assemble__axes_of_one_letter_are_one(kind: str) -> None:
    """Each tensor a row longer or a column longer; only letters that stand alone may be."""
    alone = {("conditional", "context", 0), ("spaces", "x_axes", 1), ("spaces", "h_axes", 1)}
    tensors, numbers = parts(head_of(kind))
    for name, tensor in tensors.items():
        for axis in range(tensor.ndim):
            longer = torch.cat([tensor, tensor.narrow(axis, 0, 1)], dim=axis)
            if (kind, name, axis) in alone:
                assemble(kind, tensors | {name: longer}, numbers, SIZE)
                continue
            with pytest.raises(ValueError, match="another shape"):
                assemble(kind, tensors | {name: longer}, numbers, SIZE)


# --- saved with a classifier


@of_unit_features
def test_save__and_load_are_bit_equal(clip: Backbone, kind: str, tmp_path: Path) -> None:
    found = classifier(clip, kind)
    found.save(tmp_path)
    again = Classifier.load(tmp_path, engine="torch")
    assert again.head is not None
    tensors, numbers = parts(again.head)
    wanted, their_numbers = parts(head_of(kind))
    assert numbers == their_numbers
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    f = unit(6, 24, seed=5)
    assert torch.equal(again.probabilities(f), found.probabilities(f))
    assert not np.allclose(
        found.probabilities(f), (clip.logit_scale * f @ found.weights.T).softmax(1).detach()
    )


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


@of_unit_features
def test_load__damage_is_a_model_error(clip: Backbone, kind: str, tmp_path: Path) -> None:
    name = f"head.{next(iter(parts(head_of(kind))[0]))}"
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
        lambda s: s["head"].update({n: "much" for n in parts(head_of(kind))[1]} or {"no": 1.0}),
        lambda s: s["head"].update({n: float("nan") for n in parts(head_of(kind))[1]} or {"no": 1}),
    ]
    for number, spoil in enumerate([*spoils, *settings]):
        folder = tmp_path / str(number)
        folder.mkdir()
        classifier(clip, kind).save(folder)
        (spoil_tensors if number < len(spoils) else spoil_settings)(folder, spoil)
        with pytest.raises(ModelError):
            Classifier.load(folder, engine="torch")
