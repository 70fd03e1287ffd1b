"""The bridge's equations against loops, sampling, least squares; training moves one part only."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starter_bridge
import torch
from safetensors.torch import load_file, save_file
from starter_bridge import (
    Bridge,
    LabelledFeatures,
    Photographs,
    Settings,
    TrainingSet,
    evidence_of,
    initial_bridge,
    likeliest_scale,
    several_right,
    text_map,
    train,
)
from torch import Tensor
from torch.nn.functional import gelu, normalize

from anyclass.backbone.starter import class_units
from anyclass.training.losses import contrastive

K, W, T, D = 9, 14, 6, 10  # classes, image features, text features, common space


@pytest.fixture
def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def rows(drawn: torch.Generator) -> Tensor:
    return torch.randn(K, W, generator=drawn)


@pytest.fixture
def photographs(rows: Tensor, drawn: torch.Generator) -> Photographs:
    return Photographs.of(rows, torch.randn(W, generator=drawn), torch.rand(W, generator=drawn) + 1)


def test_photographs_of__has_the_moments_of_clipped_normals(drawn: torch.Generator) -> None:
    beta, gamma = torch.tensor([-1.0, 0.5, 5.0, -9.0]), torch.tensor([1.0, -2.0, 1.5, 0.5])
    found = Photographs.of(torch.randn(3, 4, generator=drawn), beta, gamma)
    samples = (beta + gamma * torch.randn(400_000, 4, generator=drawn)).clamp(0, 6)
    torch.testing.assert_close(found.mean, samples.mean(0), rtol=0, atol=0.01)
    torch.testing.assert_close(found.deviation, samples.std(0), rtol=0, atol=0.01)
    torch.testing.assert_close(found.rows.mean(0), torch.zeros(4), rtol=0, atol=1e-6)


def test_photographs_ideal__gives_its_class_that_logit(photographs: Photographs) -> None:
    classes = torch.tensor([4, 0, 7])
    logits = (photographs.ideal(classes, 6.5) - photographs.mean) @ photographs.rows.T
    torch.testing.assert_close(logits[range(3), classes], torch.full((3,), 6.5))


def test_photographs_made_up__alone_is_the_ideal_between_two_logits(
    photographs: Photographs,
) -> None:
    bare = Settings(alpha=(2.0, 3.0), second=0, clutter=0, noise=0)
    classes = torch.arange(K).repeat(5)
    far = replace(photographs, mean=photographs.mean + 100)  # nothing falls below 0
    made = far.synthetic(classes, torch.rand(4, W), bare, np.random.default_rng(0))
    logits = ((made - far.mean) @ far.rows.T)[range(len(classes)), classes]
    assert (2 - 1e-3 < logits).all() and (logits < 3 + 1e-3).all()
    assert logits.std() > 0.1


def test_photographs_made_up__is_never_below_zero_and_full_of_clutter(
    photographs: Photographs,
) -> None:
    settings, drawings = Settings(), 9 * torch.rand(20, W)
    made = photographs.synthetic(torch.arange(K), drawings, settings, np.random.default_rng(0))
    again = photographs.synthetic(torch.arange(K), drawings, settings, np.random.default_rng(0))
    other = photographs.synthetic(torch.arange(K), drawings, settings, np.random.default_rng(1))
    assert (made >= 0).all()
    assert torch.equal(made, again) and not torch.equal(made, other)


def test_evidence_of__says_nothing_with_units_that_are_held_out(photographs: Photographs) -> None:
    known = torch.tensor([0, 1, 2, 4, 5, 6, 8])
    units = class_units(photographs.rows, torch.zeros(K))
    found = evidence_of(photographs, units, known, 8.0)
    assert (found[:, [3, 7]] == 0).all()
    torch.testing.assert_close(found[known].mean(0), torch.zeros(K), rtol=0, atol=1e-6)
    assert (found[known][:, known].argmax(1) == torch.arange(7)).all()


def test_text_map__is_weighted_least_squares(drawn: torch.Generator) -> None:
    """argmin sum_i w_i |x_i Q - y_i|^2 + lambda |Q|^2 is least squares on sqrt(w) x and sqrt(w) y.

    The V forms of a text share its weight.
    """
    evidence, centre = torch.randn(K, K, generator=drawn), torch.randn(T, generator=drawn)
    one = TrainingSet(
        torch.randn(4, 2, T, generator=drawn),
        [[0], [1, 5], [8], [2, 3, 4]],
        torch.tensor([1.0, 0.5, 2.0, 0.1]),
    )
    two = TrainingSet(torch.randn(2, 3, T, generator=drawn), [[6], [7]], torch.tensor([0.3, 0.7]))
    x, y, root = [], [], []
    for training_set in (one, two):
        forms = training_set.texts.shape[1]
        for i, classes in enumerate(training_set.classes):
            for form in range(forms):
                x.append(training_set.texts[i, form] - centre)
                y.append(normalize(evidence[classes].mean(0), dim=0))
                root.append((training_set.weights[i] / forms).sqrt())
    a = torch.cat([torch.stack(x) * torch.stack(root)[:, None], 2.5**0.5 * torch.eye(T)])
    b = torch.cat([torch.stack(y) * torch.stack(root)[:, None], torch.zeros(T, K)])
    wanted = torch.linalg.lstsq(a, b).solution
    torch.testing.assert_close(
        text_map([one, two], evidence, centre, 2.5), wanted, rtol=0, atol=1e-5
    )


def test_several_right__is_the_mean_over_right_texts(drawn: torch.Generator) -> None:
    images, texts = (normalize(torch.randn(5, D, generator=drawn), dim=1) for _ in range(2))
    right = torch.eye(5, dtype=torch.bool)
    right[0, 3] = right[2, 1] = right[4, 0] = True
    logits, total = 7 * images @ texts.T, 0.0
    for way, table in ((logits, right), (logits.T, right.T)):
        for i in range(5):
            surprise = way[i].logsumexp(0) - way[i]
            total += float(surprise[table[i]].mean()) / 5 / 2
    assert several_right(images, texts, right, 7.0).item() == pytest.approx(total, rel=1e-5)
    alone = several_right(images, texts, torch.eye(5, dtype=torch.bool), 7.0)
    torch.testing.assert_close(alone, contrastive(images, texts, torch.tensor(7.0)))


@pytest.fixture
def begun(
    photographs: Photographs, drawn: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], tuple[Bridge, LabelledFeatures, Tensor]]:
    """A small bridge before training, drawings of four things, and Q'."""
    monkeypatch.setattr(starter_bridge, "WIDTH", D)
    units = class_units(photographs.rows, torch.zeros(K))
    q = torch.randn(T, K, generator=drawn)
    features = 3 * torch.rand(4, 5, W, generator=drawn)
    words = [{"name": [0]}, {"name": [1], "synonym": [2, 4]}, {"folder": [3, 4]}, {"gloss": [5]}]
    shown = LabelledFeatures(features, words, torch.randn(6, 2, T, generator=drawn))

    def made() -> tuple[Bridge, LabelledFeatures, Tensor]:
        bridge = initial_bridge(
            photographs, units, (q, torch.full((T,), 0.1)), features.flatten(0, 1), Settings()
        )
        return bridge, shown, q

    return made


def test_beginning__ranks_classes_by_evidence(
    begun: Callable[[], tuple[Bridge, LabelledFeatures, Tensor]], photographs: Photographs
) -> None:
    bridge, shown, q = begun()
    f, t = photographs.ideal(torch.arange(K), 5.0), shown.texts[:, 0]
    evidence = -gelu(f @ bridge.class_weight.T + bridge.class_bias)
    wanted = evidence @ ((t - 0.1) @ q).T
    scores = bridge.image(f) @ bridge.text(t).T
    torch.testing.assert_close(scores / scores.norm(), wanted / wanted.norm(), rtol=0, atol=1e-5)


@torch.no_grad()
def test_bridge_tensors__say_the_same_once_saved(
    begun: Callable[[], tuple[Bridge, LabelledFeatures, Tensor]], tmp_path: Path
) -> None:
    bridge, shown, _ = begun()
    bridge.image_projection.copy_(torch.randn(2 * D - K, D))
    save_file(bridge.tensors(12.0), tmp_path / "bridge.safetensors")
    read = {name: t.float() for name, t in load_file(tmp_path / "bridge.safetensors").items()}
    f, t = shown.features[:, 0], shown.texts[:, 0]
    weight = torch.cat([bridge.class_weight, read["picture_units"]])
    units = gelu(f @ weight.T + torch.cat([bridge.class_bias, read["picture_biases"]]))
    image, text = bridge.image(f), bridge.text(t)
    torch.testing.assert_close(units @ read["image_projection"].T, image, rtol=0.01, atol=0.05)
    said = (t - read["text_centre"]) @ read["text_projection"].T
    torch.testing.assert_close(said, text, rtol=0.01, atol=0.01)
    assert read["logit_scale"].exp().item() == pytest.approx(12)


@pytest.mark.slow
def test_train__moves_the_image_part_alone_and_repeats(
    begun: Callable[[], tuple[Bridge, LabelledFeatures, Tensor]], photographs: Photographs
) -> None:
    settings = Settings(steps=120, batch=16, quiet=0.1, rate=0.03, scale=5.0)
    (first, shown, _), (second, _, _), (before, _, _) = begun(), begun(), begun()
    losses = train(first, shown, photographs, settings, seed=3)
    assert train(second, shown, photographs, settings, seed=3) == losses
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    for name, tensor in before.state_dict().items():
        same = torch.equal(tensor, first.state_dict()[name])
        assert same != name.startswith("image"), name
        assert torch.equal(first.state_dict()[name], second.state_dict()[name])


def test_train__keeps_quiet_on_photographs(
    begun: Callable[[], tuple[Bridge, LabelledFeatures, Tensor]], photographs: Photographs
) -> None:
    loud = []
    for quiet in (0.0, 30.0):
        bridge, shown, _ = begun()
        train(
            bridge,
            shown,
            photographs,
            Settings(steps=120, batch=16, quiet=quiet, rate=0.03, scale=5.0),
        )
        random = np.random.default_rng(1)
        f = photographs.synthetic(torch.arange(K), shown.features.flatten(0, 1), Settings(), random)
        with torch.no_grad():
            loud.append(float(bridge.images(f).norm() / bridge.classes(f).norm()))
    assert loud[1] < 0.5 * loud[0]


def test_likeliest_scale__is_the_one_the_answers_were_drawn_with(drawn: torch.Generator) -> None:
    cosines = 2 * torch.rand(20_000, 5, generator=drawn) - 1
    right = torch.multinomial((15 * cosines).softmax(1), 1, generator=drawn)[:, 0]
    assert likeliest_scale([(cosines, right)]) == 15
