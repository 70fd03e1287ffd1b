"""LatteCLIP's equations and prompts, against loops and hand derivations.

Letters as in the method: B = 6 samples, C = 4 classes, D = 9 dimensions, K = 3 texts, 2 branches.
"""

import re
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.features.domains import DOMAINS, domain
from anyclass.features.text import fill
from anyclass.methods.latteclip import LatteClip
from anyclass.methods.latteclip_equations import (
    margin_weights,
    mix,
    mix_as_released,
    move,
    nearest_prototype,
    prototype_loss,
)
from anyclass.methods.latteclip_training import mixed_texts, moved_prototypes
from anyclass.training.losses import contrastive
from tests.methods.conftest import unit

B, C, D, K = 6, 4, 9, 3
ALPHA = 0.9


@pytest.fixture
def given() -> SimpleNamespace:
    """Random texts v (2, K, B, D), prototypes p (C, D), classes c (2, B); two texts are missing."""
    present = torch.ones(2, K, B, dtype=torch.bool)
    present[:, 1, 2] = present[0, 2, 4] = False
    c = torch.tensor([[0, 3, 1, 0, 2, 0], [0, 1, 1, 3, 2, 3]])
    v = torch.einsum("nkbd,nkb->nkbd", unit(2, K, B, D), present.float())
    return SimpleNamespace(v=v, p=unit(C, D, seed=1), c=c, present=present)


def slow_weight(v: Tensor, p: Tensor, c: int, margin: str) -> float:
    """Eq. 1 of one text."""
    s = [sum(float(a) * float(b) for a, b in zip(v, row, strict=True)) for row in p]
    others = [value for k, value in enumerate(s) if k != c]
    first, second = sorted(s, reverse=True)[:2]
    return {"unsigned": first - second, "signed": max(0.0, s[c] - max(others)), "equal": 1.0}[
        margin
    ]


@pytest.mark.parametrize("margin", ["unsigned", "signed", "equal"])
def test_margin_weights__loop(given: SimpleNamespace, margin: str) -> None:
    w = margin_weights(given.v, given.p, given.c, given.present, margin, floor=0.01)
    floor = 0.0 if margin == "equal" else 0.01
    for n in range(2):
        for k in range(K):
            for b in range(B):
                here = slow_weight(given.v[n, k, b], given.p, int(given.c[n, b]), margin) + floor
                wanted = here if given.present[n, k, b] else 0.0
                assert float(w[n, k, b]) == pytest.approx(wanted, abs=1e-6)


def test_margin_weights__unmoved_by_the_order_of_classes(given: SimpleNamespace) -> None:
    order = torch.tensor([2, 0, 3, 1])
    place = order.argsort()
    for margin in ("unsigned", "signed"):
        w = margin_weights(given.v, given.p, given.c, given.present, margin)
        again = margin_weights(given.v, given.p[order], place[given.c], given.present, margin)
        assert torch.equal(w, again)
        assert bool((w >= 0).all())


def test_margin_weights__own_prototype_weighs_one_and_a_generic_text_the_floor() -> None:
    p = torch.eye(C, D)
    v = torch.stack([p[2], normalize(p.sum(0), dim=0)]).expand(2, 1, 2, D)
    w = margin_weights(v, p, torch.zeros(2, 2, dtype=torch.long), torch.ones(2, 1, 2).bool())
    assert w.tolist() == [[[pytest.approx(1 + 1e-6), pytest.approx(1e-6, rel=1e-3)]]] * 2


def test_margin_weights__signed_drops_a_text_that_names_another_class() -> None:
    p = torch.eye(C, D)
    v, c = p[2].expand(2, 1, 1, D), torch.tensor([[2], [1]])
    w = margin_weights(v, p, c, torch.ones(2, 1, 1).bool(), "signed", floor=0.0)
    assert w.flatten().tolist() == [1.0, 0.0]


def test_margin_weights__no_gradient(given: SimpleNamespace) -> None:
    v, p = given.v.requires_grad_(), given.p.requires_grad_()
    for margin in ("equal", "unsigned", "signed"):
        w = margin_weights(v, p.detach(), given.c, given.present, margin)
        assert not w.requires_grad


def test_mix__loop(given: SimpleNamespace) -> None:
    w = torch.rand(2, K, B) * given.present
    w[1, :, 5] = 0.0
    otherwise = unit(2, B, D, seed=2)
    m = mix(given.v, w, otherwise)
    for n in range(2):
        for b in range(B):
            total = sum(float(w[n, k, b]) for k in range(K))
            wanted = otherwise[n, b]
            if total > 0:
                wanted = sum(w[n, k, b] * given.v[n, k, b] for k in range(K)) / total
            assert torch.allclose(m[n, b], wanted, atol=1e-6)


def test_mix__a_sample_changes_its_own_row_only(given: SimpleNamespace) -> None:
    w = margin_weights(given.v, given.p, given.c, given.present)
    otherwise = given.p[given.c]
    m = mix(given.v, w, otherwise)
    other_w, other_v = w.clone(), given.v.clone()
    other_w[:, 0, 3] *= 7
    other_v[:, :, 3] = unit(2, K, D, seed=5)
    for changed in (mix(given.v, other_w, otherwise), mix(other_v, w, otherwise)):
        rows = (changed != m).any(-1)
        assert rows.tolist() == [[False, False, False, True, False, False]] * 2
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    again = mix(given.v[:, :, order], w[:, :, order], otherwise[:, order])
    assert torch.equal(again, m[:, order])


def test_mix__equal_texts_one_text_and_absent_texts() -> None:
    v, otherwise = unit(2, 1, B, D), unit(2, B, D, seed=3)
    w = torch.rand(2, K, B) + 0.01
    assert torch.allclose(mix(v.expand(2, K, B, D), w, otherwise), v[:, 0], atol=1e-6)
    assert torch.allclose(mix(v, w[:, :1] * 1e-6, otherwise), v[:, 0], atol=1e-6)
    two = torch.cat([v, unit(2, 1, B, D, seed=4)], dim=1)
    silent = torch.stack([w[:, 0], torch.zeros(2, B)], dim=1)
    assert torch.allclose(mix(two, silent, otherwise), v[:, 0], atol=1e-6)


def test_mix_as_released__loop() -> None:
    """B = D = 9 here alone, because the slip exists only there."""
    v, w = unit(2, K, D, D, seed=3), torch.rand(2, K, D, generator=torch.Generator().manual_seed(1))
    w[:, 1, 4] = 0.0
    m = mix_as_released(v, w, unit(2, D, D, seed=4))
    for n in range(2):
        for b in range(D):
            for d in range(D):
                summed = float(w[1, 0, d]) * float(v[n, 0, b, d])
                summed += sum(float(w[n, k, b]) * float(v[n, k, b, d]) for k in range(1, K))
                total = sum(float(w[n, k, b]) for k in range(K))
                assert float(m[n, b, d]) == pytest.approx(summed / total, abs=1e-5)
    ones = torch.ones(2, K, D)
    same = mix(v, ones, unit(2, D, D))
    assert torch.allclose(mix_as_released(v, ones, unit(2, D, D)), same, atol=1e-6)
    assert not torch.allclose(m, mix(v, w, unit(2, D, D)), atol=1e-2)


def test_mix__as_released_only_where_asked_and_with_class_prompts() -> None:
    v, w, p = unit(2, K, D, D, seed=3), torch.rand(2, K, D) + 0.1, unit(2, D, D)
    right, released = mix(v, w, p), mix_as_released(v, w, p)
    assert torch.equal(mixed_texts(v, w, p, LatteClip()), right)
    assert torch.equal(mixed_texts(v, w, p, LatteClip(released_mix=True)), released)
    without = LatteClip(released_mix=True, texts=("image", "group"))
    assert torch.equal(mixed_texts(v, w, p, without), right)


def test_mixed_text__length_ends_and_gradient(given: SimpleNamespace) -> None:
    """alpha - (1 - alpha) <= |t| <= 1; dt/dv is 1 - alpha times dm/dv, and dt/dw, dt/dp none."""
    p = given.p[given.c]
    v = given.v.requires_grad_()
    m = mix(v, margin_weights(v, given.p, given.c, given.present), p)
    slopes = {}
    for alpha in (0.9, 0.98, 1.0):
        t = alpha * p + (1 - alpha) * m
        length = t.detach().norm(dim=-1)
        assert float(length.min()) >= alpha - (1 - alpha) - 1e-6
        assert float(length.max()) <= 1 + 1e-6
        probe = torch.einsum("nbd,nbd->", t, unit(2, B, D, seed=8))
        slopes[alpha] = torch.autograd.grad(probe, v, retain_graph=True)[0]
    assert torch.allclose(slopes[0.9], 5 * slopes[0.98], atol=1e-6)
    assert float(slopes[0.9].abs().max()) > 1e-3
    assert float(slopes[1.0].abs().max()) == 0.0


def slow_contrastive(f: Tensor, t: Tensor, scale: float, c: list[int], how: str) -> float:
    """Eq. 3 by loops: over rows, then over columns."""
    n = len(f)
    total = 0.0
    for cell in (lambda i, j: float(f[i] @ t[j]), lambda i, j: float(f[j] @ t[i])):
        for i in range(n):
            same = [j for j in range(n) if c[j] == c[i]]
            seen = [j for j in range(n) if how != "mask" or j == i or j not in same]
            bottom = sum(pow(2.718281828459045, scale * cell(i, j)) for j in seen)
            right = same if how == "multi_positive" else [i]
            total += sum(log(bottom) - scale * cell(i, j) for j in right) / len(right) / n / 2
    return total


@pytest.mark.parametrize("how", ["ignore", "multi_positive", "mask"])
def test_contrastive__loop(how: str) -> None:
    f, t = unit(B, D), unit(B, D, seed=1) * 0.97
    c = [0, 3, 1, 0, 2, 0]
    found = contrastive(f, t, torch.tensor(7.0), torch.tensor(c), how)
    assert float(found) == pytest.approx(slow_contrastive(f, t, 7.0, c, how), rel=1e-5)
    swapped = contrastive(t, f, torch.tensor(7.0), torch.tensor(c), how)
    assert float(found) == pytest.approx(float(swapped), rel=1e-6)


def test_contrastive__limits() -> None:
    f, same = unit(B, D), unit(1, D).expand(B, D)
    scale, different, one = torch.tensor(20.0), torch.randperm(B), torch.zeros(B).long()
    assert float(contrastive(same, same, scale)) == pytest.approx(log(B), rel=1e-6)
    plain = float(contrastive(f, unit(B, D, seed=1), scale))
    for how in ("multi_positive", "mask"):
        also = contrastive(f, unit(B, D, seed=1), scale, different, how)
        assert float(also) == pytest.approx(plain, rel=1e-6)
    assert float(contrastive(same, same, scale, one, "mask")) == pytest.approx(0, abs=1e-6)


def test_prototype_loss__loop_and_limit() -> None:
    f, t, p = unit(B, D), unit(B, D, seed=1), unit(C, D, seed=2)
    c, scale = torch.tensor([0, 3, 1, 0, 2, 0]), 6.0
    wanted = 0.0
    for i in range(B):
        row = [float(f[i] @ (t[i] if k == c[i] else p[k])) for k in range(C)]
        wanted += (log(sum(pow(2.718281828459045, scale * s) for s in row)) - scale * row[c[i]]) / B
    found = prototype_loss(f, t, c, p, torch.tensor(scale))
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    one = unit(1, D)
    alike = prototype_loss(
        one.expand(B, D), one.expand(B, D), c, one.expand(C, D), torch.tensor(9.0)
    )
    assert float(alike) == pytest.approx(log(C), rel=1e-6)


def test_prototype_loss__texts_learn_and_prototypes_do_not() -> None:
    t = unit(B, D, seed=1).requires_grad_()
    c = torch.tensor([0, 3, 1, 0, 2, 0])
    prototype_loss(unit(B, D), t, c, unit(C, D, seed=2), torch.tensor(5.0)).backward()
    assert bool((t.grad.abs().sum(1) > 1e-4).all())


def slow_move(p: Tensor, m: Tensor, c: list[int], mu: float, momentum: str, alpha: float) -> Tensor:
    """The moving average written out: of m, of t, or m itself."""
    rows = []
    for k in range(len(p)):
        mine = [m[i] for i in range(len(c)) if c[i] == k]
        if not mine:
            rows.append(p[k])
            continue
        t = [alpha * p[k] + (1 - alpha) * one for one in mine]
        mean = sum(t if momentum == "double" else mine) / len(mine)
        moved = mean if momentum == "none" else mu * p[k] + (1 - mu) * mean
        rows.append(moved / moved.norm())
    return torch.stack(rows)


@pytest.mark.parametrize("momentum", ["single", "double", "none"])
@pytest.mark.parametrize(("mu", "alpha"), [(0.9, 0.9), (0.6, 0.8), (0.999, 0.3)])
def test_move__loop(momentum: str, mu: float, alpha: float) -> None:
    p, m, c = unit(C, D), unit(B, D, seed=1) * 0.8, [0, 3, 0, 0, 3, 1]
    moved = move(p, m, torch.tensor(c), mu, momentum, alpha)
    assert torch.allclose(moved, slow_move(p, m, c, mu, momentum, alpha), atol=1e-6)
    assert torch.equal(moved[2], p[2])
    assert torch.allclose(moved.norm(dim=1), torch.ones(C), atol=1e-6)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    again = move(p, m[order], torch.tensor(c)[order], mu, momentum, alpha)
    assert torch.allclose(again, moved, atol=1e-6)


def test_move__is_the_mean_of_the_mixed_texts() -> None:
    """norm(mean t) = norm(alpha p + (1 - alpha) mean m), since all t of a class share p."""
    p, m, c = unit(C, D), unit(B, D, seed=1), torch.tensor([0, 3, 0, 0, 3, 1])
    t = 0.99 * p[c] + 0.01 * m
    wanted = normalize(torch.stack([t[c == k].mean(0) for k in (0, 1, 3)]), dim=1)
    assert torch.allclose(move(p, m, c)[[0, 1, 3]], wanted, atol=1e-6)


def test_move__double_is_a_hundred_times_slower() -> None:
    p, m, c = unit(C, D).double(), unit(B, D, seed=1).double(), torch.tensor([0, 3, 0, 0, 3, 1])
    single = (move(p, m, c, 0.99) - p).norm(dim=1)[[0, 1, 3]]
    double = (move(p, m, c, 0.99, "double") - p).norm(dim=1)[[0, 1, 3]]
    assert torch.allclose(single / double, torch.full((3,), 100.0).double(), rtol=0.02)


def test_move__turns_by_the_share_of_the_new() -> None:
    """p and m orthogonal: tan(angle) = (1 - keep) / keep; double keeps alpha (2 - alpha)."""
    x, y = torch.eye(2, D)
    for momentum, keep in (("single", 0.99), ("double", 0.9999)):
        moved = move(x[None], y[None], torch.tensor([0]), 0.99, momentum)[0]
        assert float(moved[1] / moved[0]) == pytest.approx((1 - keep) / keep, rel=1e-3)


def test_branches__alike_when_labels_and_texts_are(given: SimpleNamespace) -> None:
    """c_zs = c_ft and one shared group text: L_zs = L_ft, and pooled = one branch's update."""
    c, v = given.c[:1].expand(2, B), given.v[:1].expand(2, K, B, D)
    present = given.present[:1].expand(2, K, B)
    m = mix(v, margin_weights(v, given.p, c, present), given.p[c])
    t = ALPHA * given.p[c] + (1 - ALPHA) * m
    zs, ft = (contrastive(unit(B, D, seed=6), t[i], torch.tensor(9.0)) for i in range(2))
    assert torch.equal(zs, ft)
    pooled = moved_prototypes(given.p, m, c, LatteClip(mu=ALPHA))
    assert torch.allclose(pooled, move(given.p, m[0], c[0], ALPHA), atol=1e-7)


def test_update__pooled_sequential_and_branches(given: SimpleNamespace) -> None:
    m, c, p = unit(2, B, D, seed=7), given.c, given.p
    both = move(p, m.flatten(0, 1), c.flatten(), ALPHA)
    after = move(move(p, m[0], c[0], ALPHA), m[1], c[1], ALPHA)
    ft = move(p, m[1], c[1], ALPHA)
    for how, wanted in (
        ({}, both),
        ({"update": "sequential"}, after),
        ({"branches": ("ft",)}, both),
        ({"branches": ("ft",), "update_branches": "same"}, ft),
        ({"branches": ("ft",), "update_branches": "same", "update": "sequential"}, ft),
    ):
        assert torch.allclose(
            moved_prototypes(p, m, c, LatteClip(mu=ALPHA, **how)), wanted, atol=1e-7
        )
    assert not torch.allclose(both, after, atol=1e-4)
    assert not torch.allclose(both, ft, atol=1e-4)


@pytest.mark.parametrize("update", ["pooled", "sequential"])
def test_update__momentum_and_the_mix_are_two_numbers(given: SimpleNamespace, update: str) -> None:
    m, c, p = unit(2, B, D, seed=7), given.c, given.p
    for momentum in ("single", "double"):
        how = LatteClip(alpha=0.3, mu=0.8, momentum=momentum, update=update)
        wanted = p
        steps = [(m[0], c[0]), (m[1], c[1])]
        steps = steps if update == "sequential" else [(m.flatten(0, 1), c.flatten())]
        for some, classes in steps:
            wanted = slow_move(wanted, some, classes.tolist(), 0.8, momentum, 0.3)
        assert torch.allclose(moved_prototypes(p, m, c, how), wanted, atol=1e-6)


def test_nearest_prototype__loop() -> None:
    f, p = unit(B, D), unit(C, D, seed=1)
    assert nearest_prototype(f, p).tolist() == [
        max(range(C), key=lambda c: float(row @ p[c])) for row in f
    ]


# --- steps and schedule


def test_defaults__are_the_specification() -> None:
    how, tuning = LatteClip(), LatteClip().tuning
    assert (tuning.tune, tuning.batch_size) == ("all", 512)
    assert tuning.schedule(600).weight_decay == 0.2
    views = tuning.augmentation
    assert (views.scale, views.jitter) == ((0.9, 1.0), (0.5, 0.5, 0.5, 0.1))
    assert (views.jitter_probability, views.grey_probability, how.alpha) == (0.8, 0.2, 0.99)
    assert how.mu == 0.99
    assert (how.template, how.domain, how.class_in_prompt) == ("a photo of a {}.", "object", False)
    assert how.texts == ("class", "image", "group")
    assert (how.image_captions, how.group_size, how.groups, how.floor) == (1, 4, 32, 1e-6)
    assert (how.momentum, how.update, how.margin) == ("single", "pooled", "unsigned")
    assert (how.weight_prototypes, how.normalise_mix) == ("current", False)
    assert how.released_mix is False
    assert (how.relabel, how.relabel_view, how.collisions) == ("batch", "train", "ignore")
    assert (how.loss, how.branches, how.update_branches) == ("infonce", ("zs", "ft"), "all")
    assert (how.group_label, how.regroup, how.freeze_text) == ("zs", "never", False)


# --- prompts, letter by letter

PROMPTS = """
eurosat | the land use in the satellite image | the land use in all the satellite images
sun397 | the scene in the photo | the scenes in all the photos
food101 | the ramen food in the photo | the foods in all the photos
flowers102 | the ramen flower in the photo | the flowers in all the photos
dtd | the texture in the photo | the textures in all the photos
fgvc_aircraft | the aircraft in the photo | the aircrafts in all the photos
oxford_pets | the pet in the photo | the pets in all the photos
stanford_cars | the car in the photo | the cars in all the photos
ucf101 | the action of the person in the photo | the person's actions in all the photos
caltech101 | the object in the photo | the objects in all the photos
"""
TEMPLATES = {
    "eurosat": "a photo of a ramen.",
    "sun397": "a photo of a ramen.",
    "food101": "a photo of a ramen, a type of food.",
    "flowers102": "a photo of a ramen, a type of flower.",
    "dtd": "ramen texture.",
    "fgvc_aircraft": "a photo of a ramen, a type of aircraft.",
    "oxford_pets": "a photo of a ramen.",
    "stanford_cars": "a photo of a ramen.",
    "ucf101": "a photo of a person doing ramen",
    "caltech101": "a photo of a ramen.",
}


def test_prompts__of_the_ten_sets() -> None:
    for row in PROMPTS.strip().splitlines():
        name, image, group = row.split(" | ")
        about = DOMAINS[name]
        assert about.ask_image("ramen") == f"Describe {image} concisely, less than 20 words."
        bare = image.replace("ramen ", "")
        assert about.ask_image() == f"Describe {bare} concisely, less than 20 words."
        wanted = f"Describe the common visual attributes of {group} concisely, less than 20 words."
        assert about.ask_group() == wanted
        assert fill(about.template, "ramen") == TEMPLATES[name]
    assert len(DOMAINS) == 10


def test_prompts__of_any_noun() -> None:
    about = domain("mouse", "mice")
    assert about.ask_image() == "Describe the mouse in the photo concisely, less than 20 words."
    assert about.ask_image("red") == (
        "Describe the red mouse in the photo concisely, less than 20 words."
    )
    assert "of the mice in all the photos " in about.ask_group()
    assert "of the birds in all the photos " in domain("bird").ask_group()
    assert (about.noun, domain("eurosat").noun, domain("food101").noun) == (
        "mouse",
        "land use",
        "food",
    )


# --- the page


def test_page__names_every_value_of_every_option_default_first() -> None:
    page = (Path(__file__).parents[2] / "docs" / "methods" / "latteclip.md").read_text("utf-8")
    rows = re.findall(r"^\|.*\| (`.*) \|$", page.split("## Fields")[1].split("##")[0], re.M)
    options = [
        part.split(": ") for row in rows for part in re.sub(r" \(.*?\)", "", row).split("; ")
    ]
    kinds = get_type_hints(LatteClip)
    chosen = {name for name, kind in kinds.items() if get_origin(kind) is Literal}
    assert chosen <= {name.strip("`") for name, _ in options}
    for name, said in options:
        field, default = name.strip("`"), getattr(LatteClip(), name.strip("`"))
        features = " ".join(default) if isinstance(default, tuple) else str(default)
        kind = kinds[field]
        values = (
            [str(value) for value in get_args(kind)] if get_origin(kind) is Literal else [features]
        )
        values = ["False", "True"] if kind is bool else values
        assert (said.split(", "), field) == (values, field)
        assert values[0] == features
