"""SHIP's generator: its equations, its training against a slow reading, worlds it has to recover.

n = 7 images of 2 of C = 5 classes, K = 2 views, D = 24, S = 4, Z = 6, L = 3, W = 40.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from math import log as ln
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import normalize

from anyclass.backbone import Backbone, Words
from anyclass.data import Classes
from anyclass.errors import ModelError
from anyclass.features.text import PLAIN, class_features
from anyclass.methods.labelled_features import LabelledFeatures
from anyclass.methods.ship_equations import (
    class_means_and_variance,
    code,
    kl_to_normal,
    squared_distance,
)
from anyclass.methods.ship_training import (
    CODES_KEY,
    FINAL_SAMPLES,
    frozen,
    generator_metrics,
    train_generator,
)
from anyclass.methods.ship_vae import Generator, Vae
from anyclass.rng import seeded_rng
from tests.methods.conftest import unit

NAMES = ("big dog", "kite-7", "red_toy", "art", "soft paper b2")
CLASSES = Classes.of(NAMES, labelled=("kite-7", "art"))
SMALL = Vae(
    epochs=3, batch_size=4, lr=0.02, length=3, latent=6, encoder_width=17, bias_width=19, slope=0.1
)
METRICS = {"reconstruction", "kl", "active", "collapsed", "spread", "cos_mean", "cos_text", "agree"}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def clip(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def t(clip: Backbone) -> Tensor:
    return texts(clip)


@torch.no_grad()
def texts(clip: Backbone, classes: Classes = CLASSES) -> Tensor:
    return class_features(clip, classes.prompts, [PLAIN])


@pytest.fixture
def labelled() -> LabelledFeatures:
    return labelled_features()


def labelled_features() -> LabelledFeatures:
    c = torch.tensor([1, 3, 3, 1, 3, 3, 1])
    return LabelledFeatures(unit(7, 2, 24, seed=0), c, tuple("abcdefg"))


def learn(
    how: Vae, clip: Backbone, labelled: LabelledFeatures, seed: int = 0, classes: Classes = CLASSES
) -> tuple[Generator, list[dict[str, Any]]]:
    log = list[dict[str, Any]]()
    t = texts(clip, classes)
    generator = train_generator(
        how, clip, labelled, classes, t, lambda **row: log.append(row), seed=seed
    )
    return generator, log


def terms(log: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [
        (row["reconstruction_loss"], row["kl_loss"]) for row in log if row.get("stage") == "fit"
    ]


# --- equations


def test_kl_to_normal__is_the_divergence_of_normals() -> None:
    mu, lambda_ = normal(4, 6), normal(4, 6, seed=1)
    ours, standard = Normal(mu, (lambda_ / 2).exp()), Normal(torch.zeros(4, 6), torch.ones(4, 6))
    found = kl_to_normal(mu, lambda_)
    assert torch.allclose(found, kl_divergence(ours, standard).sum(1), rtol=1e-5)
    assert (found > 0).all()
    assert torch.equal(kl_to_normal(torch.zeros(2, 3), torch.zeros(2, 3)), torch.zeros(2))
    torch.manual_seed(0)
    z = ours.sample((40_000,))
    tried = (ours.log_prob(z) - standard.log_prob(z)).sum(-1).mean(0)
    assert torch.allclose(found, tried, rtol=0.02)


def test_squared_distance__is_two_minus_two_cosines_of_unit_vectors() -> None:
    x, y = unit(9, 24, seed=0), unit(9, 24, seed=1)
    found = squared_distance(x, y)
    assert torch.allclose(found, 2 - 2 * (x * y).sum(1), rtol=1e-5, atol=1e-6)
    assert torch.allclose(found, 24 * (x - y).pow(2).mean(1), rtol=1e-5)
    assert torch.allclose(squared_distance(x, -x), torch.full((9,), 4.0))
    assert torch.equal(squared_distance(x, x), torch.zeros(9))


@pytest.mark.parametrize(("lambda_", "deviation"), [(0.0, 1.0), (2 * ln(3), 3.0)])
def test_code__has_the_deviation_that_the_log_variance_says(
    lambda_: float, deviation: float
) -> None:
    mu, eps = normal(4, 6), normal(4, 6, seed=1)
    found = code(mu, torch.full((4, 6), lambda_), eps)
    assert torch.allclose(found, mu + deviation * eps, rtol=1e-5, atol=1e-6)


def test_spread__is_an_unbiased_variance_within_classes() -> None:
    x, c = normal(7, 2, 5), torch.tensor([4, 1, 4, 1, 4, 4, 1])
    means, found = class_means_and_variance(x, c)
    wanted = []
    for k in range(2):
        rows = {i: x[c == i, k] for i in (1, 4)}
        apart = sum(((some - some.mean(0)) ** 2).sum() for some in rows.values())
        wanted.append(float(apart) / (7 - 2))
    assert found == pytest.approx(sum(wanted) / 2, rel=1e-5)
    assert torch.allclose(means, torch.stack([x[c == i].mean((0, 1)) for i in (1, 4)]), atol=1e-6)
    many = normal(4000, 1, 5, seed=2)  # two of a class: no less than many of a class
    assert class_means_and_variance(many, torch.arange(4000) // 2)[1] == pytest.approx(5, rel=0.05)
    assert class_means_and_variance(many, torch.arange(4000))[1] == 0


# --- the generator


def test_prompts__shift_all_words_alike(clip: Backbone, t: Tensor) -> None:
    maker = Generator(replace(SMALL, slope=0.0), clip, CLASSES, t, seed=0)
    p = maker.prompts(normal(4, 6))
    assert p.shape == (4, 3, 40)
    r = p - maker.words
    assert torch.allclose(r, r[:, :1].expand(-1, 3, -1), atol=1e-6)
    assert not torch.allclose(r[0], r[1], atol=1e-4)
    maker = Generator(replace(SMALL, bias="sequential"), clip, CLASSES, t, seed=0)
    r = maker.prompts(normal(4, 6)) - maker.words
    assert not torch.allclose(r[:, 0], r[:, 1], atol=1e-4)


def test_weights__start_small_and_biases_at_zero(clip: Backbone, t: Tensor) -> None:
    how = replace(SMALL, encoder_width=300, bias_width=300)
    maker, other = (Generator(how, clip, CLASSES, t, seed) for seed in (0, 1))
    assert [(n, tuple(p.shape)) for n, p in maker.named_parameters()] == [
        ("words", (3, 40)),
        ("hidden.weight", (300, 24)),
        ("hidden.bias", (300,)),
        ("mu.weight", (6, 300)),
        ("mu.bias", (6,)),
        ("lambda_.weight", (6, 300)),
        ("lambda_.bias", (6,)),
        ("r.0.weight", (300, 6)),
        ("r.0.bias", (300,)),
        ("r.2.weight", (40, 300)),
        ("r.2.bias", (40,)),
    ]
    for name, parameter in maker.named_parameters():
        deviation = 0.0 if name.endswith("bias") else 0.02
        assert parameter.std().item() == pytest.approx(deviation, rel=0.15)
        assert deviation == 0 or not torch.equal(parameter, other.get_parameter(name))


def test_encode__sees_no_class_unless_told_so(clip: Backbone, t: Tensor) -> None:
    x, one, other = unit(2, 24, seed=0), torch.tensor([1, 1]), torch.tensor([3, 4])
    blind = Generator(SMALL, clip, CLASSES, t, seed=0)
    assert torch.equal(blind.encode(x, one)[0], blind.encode(x, other)[0])
    seeing = Generator(replace(SMALL, sees_class=True), clip, CLASSES, t, seed=0)
    assert not torch.equal(seeing.encode(x, one)[0], seeing.encode(x, other)[0])
    assert seeing.hidden.in_features == 48


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_encode__is_two_layers_and_so_is_r(clip: Backbone, t: Tensor, slope: float) -> None:
    maker = Generator(replace(SMALL, slope=slope), clip, CLASSES, t, seed=0)

    def bent(layer: nn.Linear, x: Tensor) -> Tensor:
        h = x @ layer.weight.T + layer.bias
        return torch.where(h > 0, h, slope * h)

    x, z = unit(5, 24, seed=1), normal(5, 6)
    h = bent(maker.hidden, x)
    mu, lambda_ = maker.encode(x, torch.tensor([1, 3, 3, 1, 1]))
    assert torch.allclose(mu, h @ maker.mu.weight.T, atol=1e-6)
    assert torch.allclose(lambda_, h @ maker.lambda_.weight.T, atol=1e-6)
    first, last = maker.r[0], maker.r[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    wanted = maker.words + (bent(first, z) @ last.weight.T)[:, None]
    assert torch.allclose(maker.prompts(z), wanted, atol=1e-6)


def test_sample__is_unit_drawn_by_its_seed_and_without_a_graph(clip: Backbone, t: Tensor) -> None:
    maker, c = Generator(SMALL, clip, CLASSES, t, seed=0), torch.tensor([4, 0, 0, 2])
    first, again, other = (maker.sample(c, seeded_rng(seed)) for seed in (1, 1, 2))
    assert torch.allclose(first.norm(dim=1), torch.ones(4), rtol=1e-5)
    assert not first.requires_grad
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-5)
    assert not torch.allclose(first[1], first[2], atol=1e-5)  # one class, two codes
    zero = maker.mean(c)
    assert torch.equal(zero[1], zero[2])
    assert torch.allclose(zero, maker.decode(torch.zeros(4, 6), c), atol=1e-6)


def test_decode_batched__in_parts_is_the_same(
    clip: Backbone, t: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, z, c = Generator(SMALL, clip, CLASSES, t, 0), normal(5, 6), torch.tensor([4, 0, 0, 2, 1])
    whole = maker.decode_batched(z, c)
    monkeypatch.setattr("anyclass.methods.ship_vae.AT_ONCE", 2)
    assert torch.allclose(maker.decode_batched(z, c), whole, atol=1e-6)


def test_loss__reaches_every_tensor_and_none_of_the_model(
    clip: Backbone, labelled: LabelledFeatures
) -> None:
    maker = Generator(SMALL, clip, CLASSES, texts(clip), seed=0)
    with frozen(clip):
        mu, lambda_ = maker.encode(labelled.x[:, 0], labelled.c)
        x = maker.decode(code(mu, lambda_, normal(7, 6)), labelled.c)
        loss = squared_distance(labelled.x[:, 0], x) + kl_to_normal(mu, lambda_)
        loss.mean().backward()
    for name, parameter in maker.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in clip.model.parameters())


def test_frozen__gives_back_what_it_took_whatever_happens(clip: Backbone) -> None:
    scale = clip.model.logit_scale.requires_grad_(False)
    with pytest.raises(KeyError), frozen(clip):
        assert not any(parameter.requires_grad for parameter in clip.model.parameters())
        raise KeyError
    learning = [p.requires_grad for p in clip.model.parameters() if p is not scale]
    assert all(learning)
    assert not scale.requires_grad
    scale.requires_grad_(True)


def test_frozen__keeps_less_for_the_gradient(clip: Backbone, t: Tensor) -> None:
    maker, c = Generator(SMALL, clip, CLASSES, t, 0), torch.arange(100) % 5
    weights = {parameter.data_ptr() for parameter in clip.model.parameters()}

    def kept() -> int:
        found = list[Tensor]()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: (found.append(x), x)[1], lambda x: x
        ):
            x = maker.decode(normal(100, 6), c)
        assert x.requires_grad
        sizes = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in found}
        return sum(size for place, size in sizes.items() if place not in weights)

    plain = kept()
    with frozen(clip):
        assert kept() < 0.85 * plain


# --- training


def text(clip: Backbone, p: Tensor, name: str) -> Tensor:
    """[SOS] p_1 ... p_L {name}. [EOS]: of this tokenizer places 1 to L follow the start."""
    words = clip.words([f"{' '.join(['X'] * len(p))} {name}."])
    spliced = torch.cat([words.embeddings[0, :1], p, words.embeddings[0, 1 + len(p) :]])
    return clip.prompts(Words(words.ids, spliced[None]))[0]


def truth(
    how: Vae, clip: Backbone, labelled: LabelledFeatures, drawn: Tensor
) -> tuple[list[tuple[float, float]], Tensor]:
    """Eq. 2 and 3 image by image, torch's AdamW; at the end code by code of class 4."""
    maker = Generator(how, clip, CLASSES, texts(clip), seed=0)
    adam = torch.optim.AdamW(maker.parameters(), how.lr, weight_decay=how.weight_decay)
    losses = []

    def p(z: Tensor) -> Tensor:
        r = maker.r(z)
        return torch.stack([maker.words[i] + r for i in range(how.length)])

    for batch in labelled.batches(how.batch_size, how.epochs, 0).start(0):
        eps = torch.randn(len(batch.index), 6, generator=seeded_rng(0, batch.step, CODES_KEY))
        near, kl = [], []
        for x, c, e in zip(batch.hidden, labelled.c[batch.index].tolist(), eps, strict=True):
            h = maker.hidden(x)
            h = torch.where(h > 0, h, how.slope * h)
            posterior = Normal(maker.mu(h), (maker.lambda_(h) / 2).exp())
            z = posterior.mean + posterior.stddev * e
            found = text(clip, p(z), CLASSES.prompts[c])
            near.append(2 - 2 * x @ found)
            kl.append(kl_divergence(posterior, Normal(0.0, 1.0)).sum())
        loss = torch.stack(near).mean(), how.kl_weight * torch.stack(kl).mean()
        losses.append((float(loss[0].detach()), float(loss[1].detach())))
        adam.zero_grad()
        sum(loss, torch.zeros(())).backward(inputs=list(maker.parameters()))
        adam.step()
    with torch.no_grad():
        return losses, torch.stack([text(clip, p(z), CLASSES.prompts[4]) for z in drawn])


@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
def test_learn__equals_the_slow_truth(
    clip: Backbone, labelled: LabelledFeatures, kl_weight: float
) -> None:
    how, drawn = replace(SMALL, kl_weight=kl_weight), normal(3, 6)
    maker, log = learn(how, clip, labelled)
    losses, synthetic = truth(how, clip, labelled, drawn)
    assert len(losses) == 6  # 7 = 4 + 3
    assert [r for r, _ in terms(log)] == pytest.approx([r for r, _ in losses], rel=1e-4)
    assert [k for _, k in terms(log)] == pytest.approx([k for _, k in losses], 1e-3, abs=1e-7)
    assert torch.allclose(maker.decode_batched(drawn, torch.full((3,), 4)), synthetic, atol=1e-4)


def test_learn__leaves_the_model_bit_for_bit(clip: Backbone, labelled: LabelledFeatures) -> None:
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    one, again, other = (learn(SMALL, clip, labelled, seed)[0] for seed in (0, 0, 1))
    after = clip.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.grad is not None for parameter in clip.model.parameters())
    assert torch.equal(one.words, again.words)
    assert not torch.equal(one.words, other.words)


def test_learn__every_model(every_backbone: Backbone) -> None:
    clip = every_backbone
    d = clip.fingerprint().shape[1]
    labelled = LabelledFeatures(
        unit(5, 1, d, seed=2), torch.tensor([1, 3, 3, 1, 3]), tuple("abcde")
    )
    how = replace(SMALL, epochs=1, latent=None)
    maker, log = learn(how, clip, labelled)
    assert (maker.latent, len(terms(log))) == (maker.learner.width, 2)
    start = Generator(how, clip, CLASSES, maker.t, seed=0)
    for name, parameter in maker.named_parameters():
        assert not torch.equal(parameter, start.get_parameter(name)), name
    c = torch.tensor([4, 0])
    synthetic = maker.sample(c, seeded_rng(1))
    with torch.no_grad():
        z = torch.randn(2, maker.latent, generator=seeded_rng(1))
        alone = torch.cat([maker.decode(z[i : i + 1], c[i : i + 1]) for i in range(2)])
    assert torch.allclose(synthetic, alone, atol=1e-5)


def test_learn__mean_over_dimensions_is_a_part_of_the_sum(
    clip: Backbone, labelled: LabelledFeatures
) -> None:
    first = [terms(learn(replace(SMALL, reconstruction=r), clip, labelled)[1])[0] for r in REDUCED]
    assert first[0][0] == pytest.approx(24 * first[1][0], rel=1e-5)
    assert first[0][1] == first[1][1]


REDUCED: Any = ("sum", "mean")


def test_learn__has_as_many_steps_as_asked_for(clip: Backbone, labelled: LabelledFeatures) -> None:
    counts = [
        len(terms(learn(replace(SMALL, least_steps=n), clip, labelled)[1])) for n in (0, 6, 7)
    ]
    assert counts == [6, 6, 8]


def test_learn__words_stay_where_they_are_not_shared(
    clip: Backbone, labelled: LabelledFeatures
) -> None:
    maker = learn(replace(SMALL, shared_words=False), clip, labelled)[0]
    assert torch.equal(maker.words, torch.zeros(3, 40))
    assert "words" not in dict(maker.named_parameters())
    r = maker.prompts(normal(4, 6))
    assert torch.allclose(r, maker.r(normal(4, 6))[:, None].expand(-1, 3, -1))


def test_learn__mlp_decodes_without_the_text_tower(
    clip: Backbone, labelled: LabelledFeatures
) -> None:
    how = replace(SMALL, decoder="mlp", epochs=30)
    maker, log = learn(how, clip, labelled)
    assert [tuple(p.shape) for n, p in maker.named_parameters() if n.startswith("r.")] == [
        (19, 30),
        (19,),
        (19, 19),
        (19,),
        (24, 19),
        (24,),
    ]
    z, c = normal(4, 6), torch.tensor([4, 0, 0, 2])
    x = torch.cat([z, maker.t[c]], dim=1)
    for i in (0, 2, 4):
        layer = maker.r[i]
        assert isinstance(layer, nn.Linear)
        x = x @ layer.weight.T + layer.bias
        x = torch.where((x > 0) | torch.tensor(i == 4), x, 0.1 * x)
    assert torch.allclose(maker.decode(z, c), normalize(x, dim=1), atol=1e-6)
    assert terms(log)[-1][0] < terms(log)[0][0] - 0.1


def test_learn__logs_metrics_before_each_epoch_and_after_the_last(
    clip: Backbone, labelled: LabelledFeatures
) -> None:
    maker, log = learn(SMALL, clip, labelled)
    rows = [row for row in log if row.get("stage") == "ship"]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert all(set(row) == METRICS | {"stage", "epoch"} for row in rows)
    assert maker.metrics == {name: rows[-1][name] for name in METRICS}
    json.dumps(rows, allow_nan=False)


# --- metrics


def test_metrics__equal_a_slow_reading(clip: Backbone, labelled: LabelledFeatures) -> None:
    maker = learn(replace(SMALL, epochs=20, kl_weight=0.01), clip, labelled)[0]
    found = generator_metrics(maker, labelled, seed=0, count=FINAL_SAMPLES)
    x, c = labelled.x, labelled.c
    with torch.no_grad():
        codes = [maker.encode(x[i : i + 1, 0], c[i : i + 1]) for i in range(7)]
        mu, lambda_ = (torch.cat(some) for some in zip(*codes, strict=True))
        ours = Normal(mu, (lambda_ / 2).exp())
        kl = float(kl_divergence(ours, Normal(0.0, 1.0)).sum(1).mean())
        zero = {k: maker.decode(torch.zeros(1, 6), torch.tensor([k]))[0] for k in range(5)}
        torch.manual_seed(0)
        tries = [squared_distance(x[:, 0], maker.decode(ours.sample(), c)).mean() for _ in range(9)]
        drawn = {k: maker.sample(torch.full((800,), k), seeded_rng(9, k)) for k in range(5)}
    assert found["kl"] == pytest.approx(kl, rel=1e-4)
    assert found["active"] == (mu.var(0) > 0.01).sum() > 0
    collapsed = sum(float((x[i, 0] - zero[int(c[i])]).pow(2).sum()) for i in range(7)) / 7
    assert found["collapsed"] == pytest.approx(collapsed, rel=1e-4)
    assert found["reconstruction"] == pytest.approx(float(sum(tries)) / 9, rel=0.05)
    real = {k: x[c == k].mean((0, 1)) for k in (1, 3)}
    cosine = torch.nn.functional.cosine_similarity
    cos_mean = sum(float(cosine(drawn[k].mean(0), real[k], dim=0)) for k in real) / 2
    cos_text = sum(float(cosine(maker.t[k], real[k], dim=0)) for k in real) / 2
    assert found["cos_mean"] == pytest.approx(cos_mean, abs=0.02)
    assert found["cos_text"] == pytest.approx(cos_text, rel=1e-4)
    synthetic = sum(float(drawn[k].var(0).sum()) for k in real) / 2
    assert found["spread"] == pytest.approx(synthetic / class_means_and_variance(x, c)[1], rel=0.1)
    own = [(drawn[k] @ maker.t.T).argmax(1).eq(k).float().mean() for k in (0, 2, 4)]
    assert found["agree"] == pytest.approx(float(sum(own)) / 3, abs=0.06)


def test_metrics__leave_out_what_cannot_be_known(clip: Backbone, t: Tensor) -> None:
    alone = LabelledFeatures(unit(5, 2, 24, seed=0), torch.arange(5), tuple("abcde"))
    found = generator_metrics(Generator(SMALL, clip, CLASSES, t, 0), alone, seed=0, count=8)
    assert set(found) == METRICS - {"spread", "agree"}
    one = LabelledFeatures(unit(1, 1, 24, seed=0), torch.tensor([2]), ("a",))
    found = generator_metrics(Generator(SMALL, clip, CLASSES, t, 0), one, seed=0, count=8)
    assert set(found) == METRICS - {"spread"}
    assert found["active"] == 0


def test_metrics__of_an_epoch_cost_less_than_half_a_forward_pass_of_it(
    clip: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many classes have only a name."""
    names = Classes.of([f"{a} {b}" for a in ("dog", "toy", "art") for b in range(70)])
    labelled = LabelledFeatures(unit(300, 1, 24, seed=0), torch.arange(300) % 100, ("",) * 300)
    read = list[int]()
    inner = clip.prompts
    monkeypatch.setattr(clip, "prompts", lambda words: read.append(len(words.ids)) or inner(words))
    monkeypatch.setattr("anyclass.methods.ship_training.FINAL_SAMPLES", 2)
    learn(replace(SMALL, epochs=1, batch_size=300), clip, labelled, classes=names)
    assert 300 in read
    first = read.index(300)
    assert sum(read[:first]) < 300


# --- noise


@pytest.mark.slow
def test_noise__spreads_made_features_as_far_as_real_ones(clip: Backbone, t: Tensor) -> None:
    where = unit(2, 24, seed=3)
    x = normalize(where[torch.arange(60) % 2] + 0.12 * normal(60, 24), dim=1)[:, None]
    labelled = LabelledFeatures(x, 1 + 2 * (torch.arange(60) % 2), ("",) * 60)
    how = replace(SMALL, epochs=20, batch_size=20)
    plain, noisy = (learn(replace(how, noise=on), clip, labelled)[0] for on in (False, True))
    assert plain.metrics["spread"] < 0.3
    assert noisy.metrics["spread"] == pytest.approx(1, abs=0.1)
    c = torch.arange(5).repeat(400)
    assert class_means_and_variance(noisy.sample(c, seeded_rng(1))[:, None], c)[1] == pytest.approx(
        class_means_and_variance(labelled.x, labelled.c)[1], rel=0.1
    )
    assert torch.allclose(noisy.sample(c, seeded_rng(1)).norm(dim=1), torch.ones(2000), rtol=1e-5)
    assert torch.equal(plain.mean(c), noisy.mean(c))  # noise is added to drawn features only
    means = [m.sample(c, seeded_rng(1))[c == 1].mean(0) for m in (plain, noisy)]
    assert torch.cosine_similarity(*means, dim=0) > 0.98


def test_noise__of_single_images_is_not_guessed(clip: Backbone) -> None:
    alone = LabelledFeatures(unit(3, 2, 24, seed=0), torch.tensor([0, 2, 3]), tuple("abc"))
    maker, log = learn(replace(SMALL, noise=True), clip, alone)
    assert float(maker.sigma) == 0
    assert any("no class has two images" in row.get("warning", "") for row in log)


# --- a world with hidden words: images of class c are T(p*, c) and noise


@pytest.fixture(scope="module")
def world(tiny_clip: Callable[..., str]) -> tuple[Backbone, Classes, LabelledFeatures, Tensor]:
    """A tower that listens, 8 labelled classes of 8 images and 4 named ones; all T(p*, c)."""
    clip = Backbone.load(tiny_clip("causal"), engine="torch")
    draw = torch.Generator().manual_seed(0)
    for name, parameter in clip.model.named_parameters():
        if not name.startswith("visual.") and parameter.ndim >= 2:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=draw)
    names = "dog kite toy art house paper star water fruit grey hand star7".split()
    classes = Classes.of(names)
    maker = Generator(replace(SMALL, length=4), clip, classes, texts(clip, classes), seed=0)
    hidden = torch.randn(4, 40, generator=draw)
    with torch.no_grad():
        centres = maker.learner.all_features(hidden)
    c = torch.arange(64) % 8
    noise = 0.15 / 24**0.5 * torch.randn(64, 24, generator=draw)
    labelled = LabelledFeatures(normalize(centres[c] + noise, dim=1)[:, None], c, ("",) * 64)
    return clip, classes, labelled, centres


WORLD = Vae(epochs=60, batch_size=64, lr=0.03, length=4, latent=6, encoder_width=64, bias_width=64)


@pytest.fixture(scope="module")
def recovered(world: Any) -> dict[float, tuple[Generator, list[dict[str, Any]]]]:
    clip, classes, labelled, _ = world
    with frozen(clip):
        return {
            weight: learn(replace(WORLD, kl_weight=weight), clip, labelled, classes=classes)
            for weight in (1.0, 0.0)
        }


@pytest.mark.slow
def test_world__hidden_words_are_recovered_for_named_classes(world: Any, recovered: Any) -> None:
    clip, classes, labelled, centres = world
    maker, log = recovered[1.0]
    first, last = terms(log)[0][0], maker.metrics["reconstruction"]
    assert last < first / 4
    named = torch.arange(8, 12).repeat_interleave(50)
    synthetic = maker.sample(named, seeded_rng(5))
    own, texts_own = (
        torch.einsum("md,md->m", some[named] if some is maker.t else some, centres[named]).mean()
        for some in (synthetic, maker.t)
    )
    assert own > texts_own + 0.03
    assert own > 0.9


@pytest.mark.slow
def test_world__the_code_collapses_and_says_so(world: Any, recovered: Any) -> None:
    kl = []
    for weight, (maker, _) in recovered.items():
        found = maker.metrics
        gain = found["collapsed"] - found["reconstruction"]
        if weight == 1.0:
            assert found["kl"] <= gain + 0.05
            assert found["active"] == 0
        kl.append(found["kl"])
        assert set(found) == METRICS
    assert kl[0] < 0.05
    assert kl[0] < kl[1]
    assert recovered[0.0][0].metrics["active"] > 0


# --- files


@pytest.fixture(scope="module")
def noisy(clip: Backbone) -> Generator:
    return learn(replace(SMALL, noise=True), clip, labelled_features())[0]


@pytest.fixture
def saved(noisy: Generator, tmp_path: Path) -> tuple[Generator, Path]:
    noisy.save(tmp_path / "g.safetensors", context=normal(5, 40))
    return noisy, tmp_path / "g.safetensors"


def test_load__makes_the_same_features_of_the_same_names(saved: Any, clip: Backbone) -> None:
    maker, path = saved
    again, context = Generator.load(path, clip, CLASSES, texts(clip))
    assert again.settings == maker.settings
    c = torch.tensor([4, 0, 1])
    assert torch.equal(again.sample(c, seeded_rng(1)), maker.sample(c, seeded_rng(1)))
    assert context is not None
    assert torch.equal(context, normal(5, 40))
    assert torch.get_default_dtype() == torch.float32


def test_load__makes_features_of_new_names(saved: Any, clip: Backbone) -> None:
    """A class of both lists is made alike; others by their own name."""
    maker, path = saved
    classes = Classes.of(("house", "art"))
    again, _ = Generator.load(path, clip, classes, texts(clip, classes))
    z = normal(3, 6)
    old, new = (m.decode_batched(z, torch.full((3,), c)) for m, c in ((maker, 3), (again, 1)))
    assert torch.allclose(old, new, atol=1e-6)
    with torch.no_grad():
        alone = torch.stack([text(clip, p, "house") for p in maker.prompts(z)])
    assert torch.allclose(
        again.decode_batched(z, torch.zeros(3, dtype=torch.long)), alone, atol=1e-6
    )


def test_load__without_words_of_coop(saved: Any, clip: Backbone, tmp_path: Path) -> None:
    saved[0].save(tmp_path / "h.safetensors")
    assert Generator.load(tmp_path / "h.safetensors", clip, CLASSES, texts(clip))[1] is None


def test_load__refuses_another_model(saved: Any, tiny_backbone: Callable[..., Backbone]) -> None:
    other = tiny_backbone("timm")
    with pytest.raises(ModelError, match="another model"):
        Generator.load(saved[1], other, CLASSES, texts(other))


def rewritten(path: Path, name: str, value: Any) -> None:
    """The file again, with another setting or another tensor."""
    with safe_open(path, "pt") as file:
        about = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if isinstance(value, Tensor):
        tensors[name] = value
    elif value is None:
        del tensors[name]
    else:
        about["vae"] = json.dumps(json.loads(about["vae"]) | {name: value})
    save_file(tensors, path, about)


def emptied(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "a folder": emptied,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "text": lambda path: path.write_bytes(b"no tensors at all"),
    "no settings": lambda path: save_file({"words": normal(3, 40)}, path),
    "setting": lambda path: rewritten(path, "length", "many"),
    "unknown setting": lambda path: rewritten(path, "more", 1),
    "huge": lambda path: rewritten(path, "encoder_width", 10**12),
    "long": lambda path: rewritten(path, "length", 10**9),
    "no tensor": lambda path: rewritten(path, "hidden.weight", None),
    "no words": lambda path: rewritten(path, "words", None),
    "shape": lambda path: rewritten(path, "mu.weight", normal(6, 16)),
    "number": lambda path: rewritten(path, "words", torch.tensor(1.0)),
    "nan": lambda path: rewritten(path, "r.0.weight", torch.full((19, 6), torch.nan)),
    "infinite context": lambda path: rewritten(path, "context", torch.full((3, 40), torch.inf)),
    "wide context": lambda path: rewritten(path, "context", normal(5, 41)),
}


@pytest.mark.parametrize("how", DAMAGE.values(), ids=DAMAGE)
def test_load__refuses_what_is_damaged(
    saved: Any, clip: Backbone, how: Callable[[Path], Any]
) -> None:
    how(saved[1])
    with pytest.raises(ModelError, match=r"g\.safetensors"):
        Generator.load(saved[1], clip, CLASSES, texts(clip))


def test_vae__reads_the_decoder_of_earlier_versions() -> None:
    assert Vae(decoder="text_tower").decoder == "text_encoder"  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Vae(decoder="tower")  # type: ignore[arg-type]
