"""GET: equations against loops, what each stage trains, what is cached, SimGCD without text.

N = 6 views of B = 3 images, C = 3, D = 7, F = 5; 13 mosaics, two labelled classes of four.
"""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import AugmentedViews, ImageDataset, open_image
from anyclass.errors import RequestError
from anyclass.features.store import FeatureStore
from anyclass.methods.gcd_common import MlpShape, seeded
from anyclass.methods.get import Branches, Get
from anyclass.methods.get_equations import (
    Length,
    align,
    anchor_log_probs,
    consistency,
    distance_loss,
    divergence,
    name_loss,
    text_scale,
)
from anyclass.methods.get_synthesizer import WORDS, Synthesizer
from anyclass.methods.simgcd import SimGcd, branch_loss
from anyclass.training.two_views import TwoViewTuning

Fitted = tuple[Classifier, list[dict[str, Any]]]
Fit = Callable[..., Fitted]
SMALL = MlpShape(12, 9)


def small(**changed: Any) -> Get:
    """Stage 1 of four steps, stage 2 of six, B = 5."""
    how = {"epochs": 3, "batch_size": 5, "views": 3, "lr": 0.05}
    how |= {name: changed.pop(name) for name in vars(TwoViewTuning()) if name in changed}
    own = {"tes_epochs": 2, "words": 3, "head": SMALL}
    return Get(tuning=TwoViewTuning(**how), **(own | changed))


@pytest.fixture(scope="module")
def default(once: Fit, half_known: ImageDataset) -> Fitted:
    return once(small(), half_known)


def told(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the name of the loop, which only a loop with a checkpoint has."""
    rows = [row for row in log if row.get("stage") != "embed"]
    return [{key: value for key, value in row.items() if key != "loop"} for row in rows]


def given(rows: int = 6, width: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def cos(a: Tensor, b: Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


LABELS = torch.tensor([2, -1, 0, 2, -1, 0])

# --- stage 1


@pytest.mark.parametrize("ignore", [False, True])
def test_align__is_the_sum_of_both_directions(ignore: bool) -> None:
    z, z_hat, scale = given(), given(seed=1), 9.0
    total = 0.0
    for i in range(6):
        own = exp(scale * cos(z[i], z_hat[i]))
        negatives = [j for j in range(6) if not (ignore and j == (i + 3) % 6)]
        total -= log(own / sum(exp(scale * cos(z[i], z_hat[j])) for j in negatives))
        total -= log(own / sum(exp(scale * cos(z[j], z_hat[i])) for j in negatives))
    found = align(z, z_hat, scale, ignore).item()
    assert found == pytest.approx(total / 6, rel=1e-5)
    assert align(2 * z, 5 * z_hat, scale, ignore).item() == pytest.approx(found, rel=1e-5)


def test_align__of_pairs_that_are_all_alike() -> None:
    one = torch.ones(6, 7)
    assert align(one, 3 * one, 100.0).item() == pytest.approx(2 * log(6), abs=1e-5)


def test_distill__equals_the_loops() -> None:
    z_hat, anchors = given(), normalize(given(3, seed=2), dim=-1)
    rows, tau = [0, 2, 3, 5], 0.5
    ce = squared = 0.0
    for i in rows:
        powers = [exp(cos(z_hat[i], t) / tau) for t in anchors]
        ce -= log(powers[int(LABELS[i])] / sum(powers)) / 4
        squared += (2 - 2 * cos(z_hat[i], anchors[LABELS[i]])) / 4
    assert name_loss(z_hat, anchors, LABELS, tau).item() == pytest.approx(ce, rel=1e-5)
    assert distance_loss(z_hat, anchors, LABELS).item() == pytest.approx(squared, rel=1e-5)


def test_distill__of_texts_that_are_all_alike_and_of_no_label() -> None:
    anchors = normalize(torch.ones(3, 7), dim=-1)
    z_hat = torch.full((6, 7), 4.0)
    assert name_loss(z_hat, anchors, LABELS).item() == pytest.approx(log(3), abs=1e-6)
    assert distance_loss(z_hat, anchors, LABELS).item() == pytest.approx(0, abs=1e-6)
    nothing = torch.full((6,), -1)
    assert name_loss(given(), anchors, nothing).item() == 0
    assert distance_loss(given(), anchors, nothing).item() == 0


def test_synthesizer__is_a_linear_layer_to_words(every_backbone: Backbone) -> None:
    clip = every_backbone
    width = clip.texts(["a"]).shape[1]
    torch.manual_seed(0)
    made, z = Synthesizer(clip, width, small(words=4)), given(3, width)
    word = clip.words(["a"]).embeddings.shape[2]
    assert [tuple(p.shape) for p in made.parameters()] == [(4 * word, width), (4 * word,)]
    words = (z @ made.w.weight.T + made.w.bias).reshape(3, 4, word)
    assert torch.allclose(made(z), clip.sentences(words), atol=1e-5)
    unit = Synthesizer(clip, width, small(words=4, tes_input="unit"))
    unit.load_state_dict(made.state_dict())
    assert torch.allclose(unit(z), made(normalize(z, dim=-1)), atol=1e-5)
    torch.nn.init.zeros_(made.w.weight)
    assert torch.allclose(made(z)[0], made(z)[1], atol=1e-6)  # all images say the same


@pytest.mark.parametrize(
    ("align", "name", "epochs"), [(1.0, "align_loss", 60), (0.0, "distance_loss", 30)]
)
def test_fit__stage_1_learns_texts_of_images(
    fit: Fit, half_known: ImageDataset, align: float, name: str, epochs: int
) -> None:
    """Texts come closer to their images and, where that alone counts, to their classes."""
    how = small(tes_epochs=epochs, epochs=0, lr=0.02, align_weight=align)
    _, log = fit(how, half_known)
    rows = [row for row in log if row.get("stage") == "synthesize"]
    assert len(rows) == 2 * epochs
    first, last = (np.mean([row[name] for row in some]) for some in (rows[:10], rows[-10:]))
    assert last < 0.8 * first
    assert {"align_loss", "name_loss", "distance_loss", "done", "total"} < set(rows[0])


@pytest.mark.parametrize(
    ("how", "names", "factor"),
    [
        ({"align_weight": 3.0, "epochs": 0}, ["align_loss"], 3),
        ({"distill_weight": 2.0, "epochs": 0}, ["name_loss", "distance_loss"], 2),
        ({"cico_weight": 2.0, "tes_epochs": 0}, ["consistency_loss"], 2),
    ],
    ids=str,
)
def test_fit__weights_of_terms(
    fit: Fit, half_known: ImageDataset, how: dict[str, Any], names: list[str], factor: float
) -> None:
    """At the first step of its stage; the other stage is left out."""
    stage = {name: value for name, value in how.items() if name.endswith("epochs")}
    logs = [fit(small(**some), half_known)[1] for some in (stage, how)]
    for name in names:
        plain, heavy = (next(row[name] for row in log if name in row) for log in logs)
        assert heavy == pytest.approx(factor * plain, rel=1e-5)
        assert plain > 0


# --- stage 2


@pytest.mark.parametrize(
    ("length", "images", "texts", "wanted"),
    [
        ("raw", 9.0, 0.2, 1.0),
        ("image", 9.0, 0.2, 45.0),
        ("image", 9.0, 18.0, 0.5),
        ("auto", 9.0, 0.2, 45.0),
        ("auto", 9.0, 4.0, 1.0),
        ("auto", 9.0, 40.0, 1.0),
        ("auto", 0.2, 4.0, 1.0),
        ("auto", 0.2, 0.4, 1.0),
        ("auto", 0.2, 0.1, 2.0),
        ("image", 9.0, 0.0, 1.0),
    ],
)
def test_text_scale__of_images_and_texts_so_long(
    length: Length, images: float, texts: float, wanted: float
) -> None:
    z, z_hat = normalize(given(), dim=-1), normalize(given(seed=1), dim=-1)
    found = text_scale(images * z, texts * z_hat, length)
    assert found == pytest.approx(wanted, rel=1e-5)


def test_fit__how_long_the_tower_makes_texts_does_not_matter(
    clip: Backbone, half_known: ImageDataset
) -> None:
    """Where they are made as long as images; as they are, it does."""
    short = clip.copy()
    short.model.text_projection.data.mul_(0.01)

    def fitted(length: Length, model: Backbone) -> Classifier:
        torch.manual_seed(0)
        how = small(text_length=length)
        return how.fit(FeatureStore(model, half_known), lambda **_: None)

    one, other = fitted("image", clip), fitted("image", short)
    assert torch.allclose(other.head.weights, one.head.weights, atol=1e-4)
    for name in ("predicted_by_text", "predicted_by_mix"):
        assert other.record.predictions[name] == one.record.predictions[name]
    assert torch.allclose(100 * other.record.pseudo_text, one.record.pseudo_text, rtol=1e-3)
    scales = [found.record.metrics["text_scale"] for found in (one, other)]
    assert scales[1] == pytest.approx(100 * scales[0], rel=1e-3)
    raw = [fitted("raw", model).head.weights for model in (clip, short)]
    assert not torch.allclose(*raw, atol=1e-2)


def test_anchor_log_probs__equals_the_loop() -> None:
    f = given(6, 5)
    means = {0: (f[2] + f[5]) / 2, 2: (f[0] + f[3]) / 2}
    found = anchor_log_probs(f, LABELS, 0.4)
    for i in range(6):
        powers = [exp(cos(f[i], means[c]) / 0.4) for c in (0, 2)]
        wanted = [log(power / sum(powers)) for power in powers]
        assert found[i].tolist() == pytest.approx(wanted, abs=1e-5)


def test_anchor_log_probs__anchors_carry_no_gradient() -> None:
    f = given(6, 5).requires_grad_()
    (slope,) = torch.autograd.grad(anchor_log_probs(f, LABELS, 0.4)[1, 0], f)
    assert slope[1].norm() > 0
    assert not slope[[0, 2, 3, 4, 5]].any()


@pytest.mark.parametrize("direction", ["both", "text_to_image", "image_to_text"])
def test_consistency__equals_the_loop_and_teachers_are_detached(direction: Any) -> None:
    v, t = given(6, 5).requires_grad_(), given(6, 5, 1).requires_grad_()
    log_v, log_t = anchor_log_probs(v, LABELS, 0.4), anchor_log_probs(t, LABELS, 0.4)
    total = 0.0
    for i in range(6):
        for c in range(2):
            if direction != "image_to_text":
                total -= float(log_t[i, c].detach().exp() * log_v[i, c].detach()) / 6
            if direction != "text_to_image":
                total -= float(log_v[i, c].detach().exp() * log_t[i, c].detach()) / 6
    found = consistency(log_v, log_t, direction)
    assert found.item() == pytest.approx(total, rel=1e-5)
    slopes = torch.autograd.grad(found, [v, t], allow_unused=True)
    learns = [slope is not None and bool(slope.any()) for slope in slopes]
    assert learns == [direction != "image_to_text", direction != "text_to_image"]


def test_consistency__of_a_turned_copy_has_equal_halves_and_no_gradient() -> None:
    v = given(6, 5).requires_grad_()
    turn = torch.linalg.qr(given(5, 5, 3)).Q
    log_v, log_t = (
        anchor_log_probs(v, LABELS, 0.4),
        anchor_log_probs(v.detach() @ turn, LABELS, 0.4),
    )
    halves = [consistency(log_v, log_t, way) for way in ("text_to_image", "image_to_text")]
    assert halves[0].item() == pytest.approx(halves[1].item(), abs=1e-5)
    assert divergence(log_v, log_t).item() == pytest.approx(0, abs=1e-6)
    (slope,) = torch.autograd.grad(halves[0], v)
    assert slope.abs().max() < 1e-5


def test_consistency__an_unlabelled_view_changes_no_other_term() -> None:
    f, more = given(6, 5), torch.cat([given(6, 5), given(1, 5, 8)])
    labels = torch.cat([LABELS, torch.tensor([-1])])
    assert torch.allclose(
        anchor_log_probs(more, labels, 0.4)[:6], anchor_log_probs(f, LABELS, 0.4), atol=1e-6
    )


@pytest.mark.parametrize("labels", [[-1] * 6, [1, -1, -1, 1, -1, -1]], ids=str)
def test_consistency__of_fewer_than_two_classes_is_zero(labels: list[int]) -> None:
    v = given(6, 5).requires_grad_()
    log_v, log_t = (anchor_log_probs(f, torch.tensor(labels), 0.4) for f in (v, given(6, 5, 1)))
    found = consistency(log_v, log_t)
    found.backward()
    assert found.item() == 0
    assert v.grad is not None
    assert not v.grad.any()
    assert divergence(log_v, log_t).item() == 0


def test_branches__have_the_sizes_of_the_paper() -> None:
    """ViT-B/16 on CUB: with the last block's 7,087,872 these are 13,931,264."""
    net = Branches(768, 512, 200, Get(), 0)
    sizes = {name: p.numel() for name, p in net.named_parameters()}
    assert sum(sizes.values()) == 13_931_264 - 7_087_872
    assert sum(n for name, n in sizes.items() if name.startswith("ln_t")) == 393_984
    assert sum(n for name, n in sizes.items() if name.startswith("head.mlp")) == 6_295_808
    assert sizes["head.prototypes"] == 153_600
    both = Branches(768, 512, 200, Get(shared_head=False), 0)
    assert sum(p.numel() for p in both.parameters()) == 13_931_264 - 7_087_872 + 6_449_408


# --- the whole


def test_fit__each_stage_trains_what_it_should(
    fit: Fit, clip: Backbone, half_known: ImageDataset
) -> None:
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    after_one = fit(small(epochs=0), half_known)[0].clip.model.state_dict()
    assert all(torch.equal(before[n], t) for n, t in after_one.items())
    after_two = fit(small(), half_known)[0].clip.model.state_dict()
    moved = {name for name in before if not torch.equal(after_two[name], before[name])}
    assert moved == set(clip.last_stage())
    assert all(torch.equal(before[n], t) for n, t in clip.model.state_dict().items())
    assert not any(p.grad is not None for p in clip.model.parameters())


def test_fit__without_text_is_simgcd_to_the_bit(fit: Fit, half_known: ImageDataset) -> None:
    for how in ({}, {"tune": "head"}, {"views": 0}):
        get = small(text_branch=False, cico_weight=0.0, decay="matrices", **how)
        simgcd = SimGcd(tuning=get.tuning, head=SMALL)
        first, second = (fit(some, half_known)[0] for some in (get, simgcd))
        assert torch.equal(first.head.weights, second.head.weights)
        assert first.record == second.record
        state = second.clip.model.state_dict()
        assert all(torch.equal(state[n], t) for n, t in first.clip.model.state_dict().items())


def slow_step(
    clip: Backbone, how: Get, dataset: ImageDataset
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The first step of stage 2 by both whole towers, from the pixels of the same views.

    Returns terms, and gradients of the tower's last stage.
    """
    views = how.tuning.cached_views(FeatureStore(clip, dataset), lambda **_: None, 0)
    batch = next(iter(how.tuning.pairs(clip, dataset, views, 0).start(0)))
    draw = AugmentedViews(clip.preprocessing, how.tuning.augmentation, 3, 0)
    pixels = []
    for i, k in zip(batch.index.tolist(), batch.view.tolist(), strict=True):
        content = sha256(dataset.path(i).read_bytes()).hexdigest()
        pixels.append(draw(open_image(dataset.path(i)), content)[k])
    x = clip.preprocessing.normalise(torch.stack(pixels))
    tuned = clip.copy()
    v = tuned.trunk(x, "head")
    z = clip.model.encode_image(x)
    synthesizer = seeded(lambda: Synthesizer(clip, 24, how), 0, WORDS)
    net = Branches(32, 24, 4, how, 0)
    t = net.ln_t(synthesizer(z))
    y = torch.from_numpy(dataset.labels.copy())[batch.index]
    terms = {f"image_{n}": x for n, x in branch_loss(*net.head(v), y, 0.07, how.objective).items()}
    terms |= {f"text_{n}": x for n, x in branch_loss(*net.head(t), y, 0.07, how.objective).items()}
    terms["consistency_loss"] = consistency(
        anchor_log_probs(v, y, 0.4), anchor_log_probs(t, y, 0.4)
    )
    torch.stack(list(terms.values())).sum().backward()
    slopes = {name: p.grad.clone() for name, p in tuned.last_stage().items() if p.grad is not None}
    clip.model.zero_grad()
    return {name: float(term.detach()) for name, term in terms.items()}, slopes


def test_fit__cached_trunk_and_texts_are_what_whole_towers_say(
    fit: Fit, clip: Backbone, half_known: ImageDataset
) -> None:
    """Terms and gradients; stage 1 is left at its first weights, the cache is half precision."""
    how = small(tes_epochs=0, epochs=1, batch_size=13)
    classifier, log = fit(how, half_known)
    found = next(row for row in log if row.get("stage") == "fit")
    wanted, slopes = slow_step(clip, how, half_known)
    assert {n: found[n] for n in wanted} == {
        n: pytest.approx(x, rel=1e-2) for n, x in wanted.items()
    }
    after = classifier.clip.last_stage()
    for name, before in clip.last_stage().items():  # the one step: p - lr (slope + decay p)
        slope = (before - after[name]) / 0.05 - 5e-5 * before
        assert (slope - slopes[name]).norm() < 1e-2 * slopes[name].norm() + 1e-6, name
    assert len(slopes) == 12


@pytest.mark.parametrize(
    "how",
    [{"feature": "projected"}, {"shared_head": False}, {"align_other_view": "ignore"}]
    + [{"tes_input": "unit"}, {"align_scale": 5.0}, {"cico_direction": "text_to_image"}],
    ids=str,
)
def test_fit__options_change_the_result_and_predict_as_recorded(
    fit: Fit, default: Fitted, half_known: ImageDataset, how: dict[str, Any]
) -> None:
    classifier, _ = fit(small(**how), half_known)
    assert not np.array_equal(classifier.head.weights, default[0].head.weights)
    assert classifier.head.weights.shape == (4, 24 if "feature" in how else 32)
    guess = classifier.predict_proba(half_known).argmax(1)
    assert classifier.record.predictions["predicted"] == guess.tolist()
    for who in ("predicted_by_text", "predicted_by_mix"):
        assert len(classifier.record.predictions[who]) == 13
    assert classifier.record.pseudo_text.shape == (13, 24)
    assert set(classifier.record.metrics) > {"agreement", "divergence", "used", "steps"}


def test_fit__every_model(
    every_backbone: Backbone, half_known: ImageDataset, tmp_path: Path
) -> None:
    """Saved and loaded, each predicts the same bits."""
    torch.manual_seed(0)
    how = small(lr=0.01, tes_epochs=1, epochs=1)
    classifier = how.fit(FeatureStore(every_backbone, half_known), lambda **_: None)
    probabilities = classifier.predict_proba(half_known)
    assert probabilities.shape == (13, 4)
    assert np.isfinite(probabilities).all()
    classifier.save(tmp_path)
    again = Classifier.load(tmp_path, engine="torch")
    assert again.predict_proba(half_known).tobytes() == probabilities.tobytes()
    assert again.classes_ == ["two", "discovered 1", "art", "discovered 2"]


def test_fit__finds_easy_clusters(fit: Fit, blobs: Callable[[int], Any]) -> None:
    seed = 0
    problem = blobs(seed)
    tuning = TwoViewTuning(tune="head", epochs=30, batch_size=64)
    how = Get(tuning=tuning, tes_epochs=12, words=2, head=MlpShape(64, 32))
    classifier, _ = fit(how, problem.dataset, seed)
    found = problem.scores(classifier)
    assert found["all"] > 0.95
    assert found["old_fixed"] > 0.95
    for who in ("predicted_by_text", "predicted_by_mix"):  # of a random text tower
        assert problem.scores(classifier, who)["all"] > 0.8


@pytest.mark.parametrize(
    ("how", "stage", "step"),
    [({}, "synthesize", 3), ({}, "fit", 3), ({"views": 0}, "fit", 2)],
    ids=str,
)
def test_fit__continued_after_a_kill_equals_an_unbroken_one(
    fit: Fit,
    once: Fit,
    half_known: ImageDataset,
    tmp_path: Path,
    killed: Callable[..., None],
    how: dict[str, Any],
    stage: str,
    step: int,
) -> None:
    unbroken, rows = once(small(**how), half_known)
    killed(small(**how), half_known, tmp_path, stage, step)
    continued, later = fit(small(**how), half_known, scratch=tmp_path)
    assert torch.equal(continued.head.weights, unbroken.head.weights)
    records = [one.record for one in (continued, unbroken)]
    assert torch.equal(*(record.pseudo_text for record in records))
    assert replace(records[0], pseudo_text=None) == replace(records[1], pseudo_text=None)
    state = unbroken.clip.model.state_dict()
    assert all(torch.equal(state[n], t) for n, t in continued.clip.model.state_dict().items())
    assert told(later) == told(rows)[-len(told(later)) :]
    assert len(told(later)) < len(told(rows))


def test_fit__same_seed_same_bytes(fit: Fit, default: Fitted, half_known: ImageDataset) -> None:
    first = default
    again, other = (fit(small(), half_known, seed) for seed in (0, 4))
    assert torch.equal(first[0].head.weights, again[0].head.weights)
    assert told(first[1]) == told(again[1])
    assert not torch.equal(first[0].head.weights, other[0].head.weights)


def test_fit__reads_no_name_without_a_label_but_those_with_one(
    fit: Fit, half_known: ImageDataset
) -> None:
    def weights(*names: str) -> Tensor:
        classes = replace(half_known.classes, names=names, prompts=names)
        made: Tensor = fit(small(), replace(half_known, classes=classes))[0].head.weights
        return made

    first = weights("two", "orange", "art")
    assert torch.equal(first, weights("two", "kite", "art"))
    assert not torch.equal(first, weights("two", "orange", "water"))


def test_fit__refuses_what_cannot_be_met(fit: Fit, half_known: ImageDataset) -> None:
    with pytest.raises(RequestError, match="no image has a label.* kmeans"):
        fit(small(), half_known.unlabelled_copy())
    with pytest.raises(RequestError, match="cannot read 30 words"):
        fit(small(words=30), half_known)
    with pytest.raises(RequestError, match="two or more cached views"):
        fit(small(views=1), half_known)


@pytest.mark.parametrize(
    "labels", [[0] * 5 + [-1] * 8, [0, 2] + [-1] * 11, [0] * 6 + [2] * 6 + [-1]], ids=str
)
def test_fit__of_few_labels_is_finite(
    fit: Fit, half_known: ImageDataset, labels: list[int]
) -> None:
    dataset = replace(half_known, labels=np.array(labels))
    classifier, _ = fit(small(batch_size=100), dataset)  # |D| < B
    assert np.isfinite(classifier.predict_proba(dataset)).all()
