"""SHIP: what a step learns from, its edges and controls, kills, its source, other names.

13 images, 10 with a label, of 2 of 4 classes; D = 24, S = 4 real features and as many made ones.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import anyclass
from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import parts
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.data import ImageDataset
from anyclass.errors import ModelError, RequestError
from anyclass.features.text import PLAIN, class_features
from anyclass.methods.clip_adapter import ClipAdapter
from anyclass.methods.coop import CoOp
from anyclass.methods.few_shot import FewShot, SyntheticFeatures, TrainingSet
from anyclass.methods.gda import Gda
from anyclass.methods.ship import GENERATOR, MADE, Ship
from anyclass.methods.ship_vae import Generator, Vae
from anyclass.methods.tip_adapter import TipAdapter
from anyclass.rng import seeded_rng

Fit = Callable[..., tuple[Classifier, list[dict[str, Any]]]]

DATA = FewShot(views=3)
THEN = {
    "coop": CoOp(data=DATA, epochs=3, batch_size=4, lr=0.1, recipe="ship"),
    "clip-adapter": ClipAdapter(data=DATA, epochs=3, batch_size=4, ratio=0.5),
    "tip-adapter": TipAdapter(data=DATA, epochs=3, batch_size=4),
    "gda": Gda(data=DATA),
}
VAE = Vae(
    epochs=2, batch_size=4, lr=0.02, length=3, latent=6, encoder_width=17, bias_width=19, slope=0.1
)
SHIP = Ship(then=THEN["coop"], generator=VAE)
every = pytest.mark.parametrize("then", THEN.values(), ids=THEN)


@pytest.fixture(scope="module")
def known(dataset: ImageDataset) -> ImageDataset:
    """Classes 1 and 3 have images with a label, 0 and 2 have a name."""
    labels = np.array([3, 1, -1, 3, 3, 1, 1, 3, 1, -1, 3, 1, -1])
    return replace(dataset, labels=labels)


@pytest.fixture(scope="module")
def everyone(dataset: ImageDataset) -> ImageDataset:
    return replace(dataset, labels=np.arange(13) % 4)


def content(found: Classifier) -> bytes:
    """Every bit that was learned."""
    tensors, numbers = parts(found.head) if found.head else ({}, {})
    bits = b"".join(tensor.numpy().tobytes() for tensor in [found.weights, *tensors.values()])
    return bits + json.dumps([numbers, found.record.get("facts")]).encode()


def texts(clip: Backbone, dataset: ImageDataset) -> Tensor:
    with torch.no_grad():
        return class_features(clip, dataset.classes.prompts, [PLAIN])


Step = tuple[Tensor, Tensor, list[int]]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """What each step of the classifier learned from: features, classes, columns."""
    seen, inner = list[Step](), TrainingSet.step

    def step(self: TrainingSet, batch: Any) -> tuple[Tensor, Tensor]:
        x, y = inner(self, batch)
        seen.append((x.clone(), self.columns[y], self.columns.tolist()))
        return x, y

    monkeypatch.setattr(TrainingSet, "step", step)
    return seen


# --- what a step learns from


@every
def test_fit__a_step_has_as_many_made_features_as_real_ones(
    fit: Fit, known: ImageDataset, steps: list[Step], then: Any
) -> None:
    if isinstance(then, Gda):
        return
    fit(replace(SHIP, then=then), known)
    sizes = [4, 4, 2] * 3  # 10 images
    assert [len(x) for x, _, _ in steps] == [2 * size for size in sizes]
    for size, (x, c, columns) in zip(sizes, steps, strict=True):
        assert set(c[:size].tolist()) <= {1, 3}
        assert set(c[size:].tolist()) <= {0, 2}
        assert columns == [0, 1, 2, 3]
        assert torch.allclose(x.norm(dim=1), torch.ones(2 * size), rtol=1e-5)
    synthetic = torch.cat([x[len(x) // 2 :] for x, _, _ in steps])
    assert len(synthetic.unique(dim=0)) == len(synthetic)  # always fresh
    first = [x.clone() for x, _, _ in steps]
    steps.clear()
    fit(replace(SHIP, then=then), known)
    assert all(torch.equal(a, b) for a, (b, _, _) in zip(first, steps, strict=True))


def test_fit__named_classes_are_drawn_uniformly(
    fit: Fit, known: ImageDataset, steps: list[Step]
) -> None:
    fit(replace(SHIP, then=replace(THEN["coop"], epochs=60), synthetic="text"), known)
    drawn = torch.cat([c[len(c) // 2 :] for _, c, _ in steps]).bincount(minlength=4)
    assert drawn[[1, 3]].tolist() == [0, 0]
    expected = int(drawn.sum()) / 2
    assert expected == 300
    assert sum((int(n) - expected) ** 2 / expected for n in drawn[[0, 2]]) < 6.6  # 1 % of chi2(1)


def test_fit__text_puts_exactly_the_class_text_in(
    fit: Fit, clip: Backbone, known: ImageDataset, steps: list[Step]
) -> None:
    how = replace(SHIP, synthetic="text", template="art of {}")
    _, log = fit(how, known)
    with torch.no_grad():
        t = class_features(clip, known.classes.prompts, ["art of {}"])
    for x, c, columns in steps:
        half = len(x) // 2
        assert torch.equal(x[half:], t[c[half:]])
        assert columns == [0, 1, 2, 3]
    assert not any(row.get("stage") == "ship" for row in log)  # no generator is trained for it


def test_fit__none_is_real_features_over_all_classes(
    fit: Fit, known: ImageDataset, steps: list[Step]
) -> None:
    found = fit(replace(SHIP, synthetic="none"), known)[0]
    assert [(len(x), columns) for x, _, columns in steps] == [
        (size, [0, 1, 2, 3]) for size in [4, 4, 2] * 3
    ]
    assert "files" not in found.record


def test_fit__mean_is_the_feature_of_code_zero(
    fit: Fit, known: ImageDataset, steps: list[Step]
) -> None:
    fit(replace(SHIP, synthetic="mean"), known)
    synthetic = [(x[i], int(c[i])) for x, c, _ in steps for i in range(len(x) // 2, len(x))]
    for k in (0, 2):
        some = torch.stack([x for x, c in synthetic if c == k])
        assert torch.allclose(some, some[:1].expand_as(some), atol=1e-6)


def test_fit__pool_is_made_once_and_drawn_from(
    fit: Fit, known: ImageDataset, steps: list[Step]
) -> None:
    fit(replace(SHIP, pool=2), known)
    synthetic = [(x[i], int(c[i])) for x, c, _ in steps for i in range(len(x) // 2, len(x))]
    distinct = {
        k: len(torch.stack([x for x, c in synthetic if c == k]).unique(dim=0)) for k in (0, 2)
    }
    assert distinct == {0: 2, 2: 2}


@pytest.mark.parametrize(
    ("ratio", "sizes"), [(0.5, [2, 2, 1]), (3.0, [12, 12, 6]), (None, [4, 4, 2])]
)
def test_fit__ratio_of_made_features(
    fit: Fit, known: ImageDataset, steps: list[Step], ratio: float | None, sizes: list[int]
) -> None:
    fit(replace(SHIP, ratio=ratio), known)
    assert [int(sum(c % 2 == 0)) for _, c, _ in steps] == sizes * 3


def test_fit__ratio_of_none_counts_classes(
    fit: Fit, known: ImageDataset, steps: list[Step]
) -> None:
    """Three named classes to one labelled: all classes are seen alike."""
    fit(replace(SHIP, ratio=None), replace(known, labels=np.minimum(known.labels, 1)))
    assert [len(x) for x, _, _ in steps] == [16, 16, 8] * 3


def test_fit__tip_adapter_has_keys_of_named_classes(fit: Fit, known: ImageDataset) -> None:
    found = fit(replace(SHIP, then=THEN["tip-adapter"]), known)[0]
    tensors = parts(found.head)[0] if found.head else {}
    assert tensors["values"].sum(0).tolist() == [5, 5, 5, 5]


# --- what comes out


@every
def test_fit__same_seed_same_bytes_and_the_model_stays(
    fit: Fit, clip: Backbone, known: ImageDataset, then: Any
) -> None:
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    how = replace(SHIP, then=then)
    first, again, other = (fit(how, known, seed=seed)[0] for seed in (3, 3, 4))
    assert (first.method, first.fields["generator"]["latent"]) == ("ship", 6)
    assert content(first) == content(again)
    assert content(first) != content(other)
    after = clip.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.grad is not None for parameter in clip.model.parameters())
    assert all(parameter.requires_grad for parameter in clip.model.parameters())


@every
def test_fit__learns_from_labelled_images_alone(fit: Fit, known: ImageDataset, then: Any) -> None:
    how = replace(SHIP, then=then)
    found = fit(how, known)[0]
    assert content(found) == content(fit(how, known.labelled)[0])
    assert found.record["learned_from"] == known.labelled.files


def test_fit__the_classifier_is_that_of_its_parts(
    fit: Fit, clip: Backbone, known: ImageDataset
) -> None:
    """Eq. 2, then the companion on what the generator makes; done here by hand."""
    found, log = fit(SHIP, known)
    torch.manual_seed(0)
    labelled = DATA.show(clip, known, lambda **_: None, 3)
    rows = list[dict[str, Any]]()
    maker = VAE.learn(
        clip, labelled, known.classes, texts(clip, known), lambda **row: rows.append(row)
    )
    seed = seeded_rng(0, MADE).initial_seed()
    synthetic = SyntheticFeatures(torch.tensor([0, 2]), maker.sample, seed)
    then = THEN["coop"].learn(clip, labelled, known.classes, lambda **_: None, synthetic, "all")
    torch.testing.assert_close(found.weights, then.weights)  # last bits hang on the memory's places
    ship = [row for row in log if row.get("stage") == "ship"]
    assert [row["epoch"] for row in ship] == [0, 1, 2]
    for mine, others in zip(ship, [r for r in rows if r.get("stage") == "ship"], strict=True):
        assert mine.pop("stage") == others.pop("stage")
        assert mine == pytest.approx(others, rel=1e-5, abs=1e-6)
    facts = maker.facts | {"labelled_images": 10}
    assert found.record["facts"] == pytest.approx(facts, rel=1e-5, abs=1e-6)


@every
def test_fit__controls_stand_beside_it(fit: Fit, known: ImageDataset, then: Any) -> None:
    how = replace(SHIP, then=then)
    found = fit(replace(how, controls=True), known)[0]
    assert content(found) == content(fit(how, known)[0])
    assert list(found.record["controls"]) == ["text", "none"]
    for name, control in found.record["controls"].items():
        alone = fit(replace(how, synthetic=name), known)[0]
        assert content(control) == content(alone)
        assert content(control) != content(found)
    assert fit(how, known)[0].record["controls"] == {}


def test_fit__a_control_is_fitted_once(fit: Fit, known: ImageDataset, steps: list[Step]) -> None:
    found = fit(replace(SHIP, synthetic="text", controls=True), known)[0]
    assert len(steps) == 2 * 9
    assert content(found.record["controls"]["text"]) == content(found)


@every
def test_save__and_load_are_the_same(
    fit: Fit, known: ImageDataset, tmp_path: Path, then: Any
) -> None:
    found = fit(replace(SHIP, then=then), known)[0]
    found.save(tmp_path)
    again = Classifier.load(tmp_path, engine="torch")
    assert (again.method, again.fields["then"]["kind"]) == ("ship", then.kind)
    assert np.array_equal(again.predict_proba(known), found.predict_proba(known))


def test_fit__every_model(every_clip: str, known: ImageDataset) -> None:
    clip = Backbone.load(every_clip, engine="torch")
    how = Ship(
        then=replace(THEN["coop"], epochs=1, batch_size=None),
        generator=replace(VAE, epochs=1, batch_size=256),
    )
    torch.manual_seed(0)
    found = how.fit(clip, known, lambda **_: None)
    assert np.allclose(found.predict_proba(known).sum(1), 1, atol=1e-5)
    start = PromptLearner(clip, known.classes.prompts, 4)
    assert not torch.equal(found.weights, start.all_features(start.spoken("a photo of a")))


@pytest.mark.parametrize("synthetic", ["mean", "text", "none"])
def test_fit__the_order_of_classes_does_not_matter(
    fit: Fit, known: ImageDataset, synthetic: Any
) -> None:
    """Where nothing is drawn by class: codes and classes of `generator` are, in their order."""
    to = np.array([2, 0, 3, 1])
    names = [known.classes.names[int(np.flatnonzero(to == c)[0])] for c in range(4)]
    moved = replace(
        ImageDataset.read(known.root, names),
        labels=np.where(known.labels < 0, -1, to[known.labels]),
    )
    how = replace(SHIP, then=THEN["gda"], synthetic=synthetic)
    if synthetic == "none":
        how = replace(SHIP, then=replace(THEN["coop"], batch_size=10), synthetic=synthetic)
    one, other = (fit(how, some)[0].predict_proba(known) for some in (known, moved))
    assert np.allclose(one, other[:, to], atol=2e-4)
    assert one.std(axis=0).max() > 1e-3


# --- edges


@every
@pytest.mark.parametrize("views", [3, 0])
def test_fit__without_a_named_class_is_the_plain_companion(
    fit: Fit, everyone: ImageDataset, then: Any, views: int
) -> None:
    then = replace(then, data=FewShot(views=views))
    found, log = fit(replace(SHIP, then=then, controls=True), everyone)
    plain = fit(then, everyone)[0]
    assert content(found) == content(plain)
    assert np.array_equal(found.predict_proba(everyone), plain.predict_proba(everyone))
    assert sum("nothing to make up" in row.get("warning", "") for row in log) == 1
    assert found.record["controls"] == {}
    assert found.method == "ship"


@every
def test_fit__refuses(fit: Fit, dataset: ImageDataset, then: Any) -> None:
    how = replace(SHIP, then=then)
    with pytest.raises(RequestError, match="names alone there are latteclip-plus"):
        fit(how, dataset)
    with pytest.raises(RequestError, match="two names"):
        fit(how, ImageDataset.read(dataset.root, ["only one"]))


def test_fit__words_are_refused_before_anything_is_learned(
    clip: Backbone, known: ImageDataset
) -> None:
    how, log = replace(SHIP, then=replace(THEN["coop"], words="a photo")), list[Any]()
    with pytest.raises(RequestError, match="not 4 words of this model"):
        how.fit(clip, known, lambda **row: log.append(row))
    assert log == []
    assert all(parameter.requires_grad for parameter in clip.model.parameters())


def test_fit__says_once_which_name_is_cut(fit: Fit, known: ImageDataset) -> None:
    names = (*known.classes.names[:3], "a " * 20 + "dog")
    long = replace(ImageDataset.read(known.root, names), labels=known.labels)
    warned = [row["warning"] for row in fit(SHIP, long)[1] if "warning" in row]
    assert sum("may not read the end" in text for text in warned) == 1


def test_ship__learns_from_the_views_of_its_own_code() -> None:
    assert Ship().then.data.augmentation.scale == (0.5, 1.0)
    assert isinstance(Ship().then, CoOp)
    assert Ship().then.recipe == "ship"


# --- a kill


class Killed(Exception):
    """What a kill between two steps looks like from inside."""


@pytest.mark.parametrize("at", [2, 8, 12, 22])
def test_fit__continued_after_a_kill_equals_an_unbroken_one(
    fit: Fit,
    clip: Backbone,
    known: ImageDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    """Steps 1 to 6 are the generator's, then come 9 of each classifier."""
    how = replace(SHIP, controls=True)
    unbroken, rows = fit(how, known)
    monkeypatch.setattr("anyclass.training.loop.monotonic", count(step=100).__next__)
    done = count(1)

    def log(**row: Any) -> None:
        if row.get("stage") == "fit" and next(done) == at:
            raise Killed

    torch.manual_seed(0)
    with pytest.raises(Killed):
        how.fit(clip, known, log, tmp_path)
    assert all(parameter.requires_grad for parameter in clip.model.parameters())
    continued, later = fit(how, known, scratch=tmp_path)
    assert content(continued) == content(unbroken)
    for name in ("text", "none"):
        assert content(continued.record["controls"][name]) == content(
            unbroken.record["controls"][name]
        )
    steps = [[row for row in some if row.get("stage") == "fit"] for some in (rows, later)]
    assert steps[1] == steps[0][at - 1 :]


# --- a source


@pytest.fixture
def source(fit: Fit, known: ImageDataset, tmp_path: Path) -> tuple[Path, Classifier]:
    """A run folder as far as SHIP reads it, and its classifier."""
    found = fit(SHIP, known)[0]
    found.record["files"][GENERATOR](tmp_path / "run" / "model" / GENERATOR)
    return tmp_path / "run", found


def test_source__generator_is_taken_instead_of_learned(
    fit: Fit, known: ImageDataset, source: Any
) -> None:
    """With the same images and seed the result is the same."""
    again, log = fit(replace(SHIP, source=str(source[0])), known)
    assert torch.equal(again.weights, source[1].weights)
    assert not any("reconstruction_loss" in row for row in log)
    other = fit(replace(SHIP, source=str(source[0])), known, seed=1)[0]
    assert not torch.equal(other.weights, source[1].weights)


@pytest.fixture
def target(dataset: ImageDataset) -> ImageDataset:
    """Other names, one of them the same, and no label."""
    return ImageDataset.read(dataset.root, ["big dog", "art", "kite-7", "soft paper b2", "house"])


def test_transfer__without_a_step_is_the_learned_words_with_other_names(
    fit: Fit, clip: Backbone, target: ImageDataset, source: Any
) -> None:
    how = replace(SHIP, source=str(source[0]), transfer_steps=0)
    found, _ = fit(how, target)
    learner = PromptLearner(clip, target.classes.prompts, 4)
    words = source[1].record["context"]
    assert not words.requires_grad
    assert not torch.allclose(words, learner.spoken("a photo of a"), atol=1e-2)
    assert torch.allclose(found.weights, learner.all_features(words), atol=1e-6)
    assert torch.allclose(found.weights[1], source[1].weights[2], atol=1e-6)  # "art" in both
    found, _ = fit(replace(how, transfer_start="words"), target)
    usual = learner.all_features(learner.spoken("a photo of a"))
    assert torch.allclose(found.weights, usual, atol=1e-6)


def test_transfer__learns_from_made_features_alone(
    fit: Fit, clip: Backbone, target: ImageDataset, source: Any
) -> None:
    """Two steps, done here by hand."""
    how = replace(SHIP, source=str(source[0]), transfer_steps=2, transfer_size=7, transfer_lr=0.05)
    found, log = fit(how, target)
    place = source[0] / "model" / GENERATOR
    maker, words = Generator.load(place, clip, target.classes, texts(clip, target))
    assert words is not None
    v, learner = words.clone().requires_grad_(), PromptLearner(clip, target.classes.prompts, 4)
    adam = torch.optim.AdamW([v], eps=1e-4)
    synthetic = SyntheticFeatures(torch.arange(5), maker.sample, seeded_rng(0, MADE).initial_seed())
    losses = []
    for step, rate in enumerate((0.05, 0.025)):  # half a cosine
        x, c = synthetic.batch(step, 7)
        probabilities = (clip.logit_scale.detach() * x @ learner.features(v).T).log_softmax(1)
        loss = -probabilities[torch.arange(7), c].mean()
        adam.zero_grad()
        loss.backward(inputs=[v])
        adam.param_groups[0]["lr"] = rate
        adam.step()
        losses.append(float(loss.detach()))
    found_losses = [row["transfer_loss"] for row in log if "transfer_loss" in row]
    assert found_losses == pytest.approx(losses, rel=1e-5)
    assert torch.allclose(found.weights, learner.all_features(v.detach()), atol=1e-5)
    assert found.classes_ == list(target.classes.names)
    assert found.method == "ship"


def test_transfer__is_drawn_by_the_seed_and_goes_on_after_a_kill(
    fit: Fit, clip: Backbone, target: ImageDataset, source: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    how = replace(SHIP, source=str(source[0]), transfer_steps=9, transfer_lr=0.05)
    first, again, other = (fit(how, target, seed=seed)[0].weights for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    monkeypatch.setattr("anyclass.training.loop.monotonic", count(step=100).__next__)

    def log(**row: Any) -> None:
        if row.get("done") == 5:
            raise Killed

    torch.manual_seed(0)
    with pytest.raises(Killed):
        how.fit(clip, target, log, tmp_path / "scratch")
    assert torch.equal(fit(how, target, scratch=tmp_path / "scratch")[0].weights, first)


def test_transfer__has_controls_too(
    fit: Fit, clip: Backbone, target: ImageDataset, source: Any
) -> None:
    how = replace(SHIP, source=str(source[0]), transfer_steps=3, transfer_lr=0.05, controls=True)
    found = fit(how, target)[0]
    text, none = (found.record["controls"][name].weights for name in ("text", "none"))
    assert torch.equal(none, fit(replace(how, transfer_steps=0), target)[0].weights)
    assert torch.equal(text, fit(replace(how, synthetic="text"), target)[0].weights)
    assert not torch.allclose(text, found.weights, atol=1e-4)


def test_transfer__can_be_a_source_itself(
    fit: Fit, clip: Backbone, target: ImageDataset, source: Any, tmp_path: Path
) -> None:
    how = replace(SHIP, source=str(source[0]), transfer_steps=3, transfer_lr=0.05)
    found = fit(how, target)[0]
    found.record["files"][GENERATOR](tmp_path / "next" / "model" / GENERATOR)
    how = replace(how, source=str(tmp_path / "next"), transfer_steps=0)
    assert torch.allclose(fit(how, target)[0].weights, found.weights, atol=1e-6)


def test_transfer__of_a_run_without_coop_starts_from_its_words(
    fit: Fit, clip: Backbone, known: ImageDataset, target: ImageDataset, tmp_path: Path
) -> None:
    found = fit(replace(SHIP, then=THEN["clip-adapter"]), known)[0]
    found.record["files"][GENERATOR](tmp_path / "model" / GENERATOR)
    how = Ship(then=Gda(), source=str(tmp_path), transfer_steps=0)  # the generator has 3 places
    learner = PromptLearner(clip, target.classes.prompts, 4)
    usual = learner.all_features(learner.spoken("a photo of a"))
    assert torch.allclose(fit(how, target)[0].weights, usual, atol=1e-6)


def test_transfer__to_the_same_names(fit: Fit, dataset: ImageDataset, source: Any) -> None:
    how = replace(SHIP, source=str(source[0]), transfer_steps=0)
    assert torch.allclose(fit(how, dataset)[0].weights, source[1].weights, atol=1e-6)


def test_source__that_is_none_is_refused_before_images_are_embedded(
    clip: Backbone, known: ImageDataset, tmp_path: Path, tiny_clip: Callable[..., str], source: Any
) -> None:
    log = list[Any]()
    with pytest.raises(ModelError, match="is missing"):
        replace(SHIP, source=str(tmp_path)).fit(clip, known, lambda **row: log.append(row))
    other = Backbone.load(tiny_clip("timm"), engine="torch")
    with pytest.raises(ModelError, match="another model"):
        replace(SHIP, source=str(source[0])).fit(other, known, lambda **row: log.append(row))
    assert log == []


def test_run__leaves_generator_and_controls_and_serves_as_source(
    shapes: dict[str, Any], tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    rows = [f"red square/{i}.{'png' if i % 2 else 'jpg'},red square" for i in range(4)]
    rows += [f"green ring/{i}.{'png' if i % 2 else 'jpg'},green ring" for i in range(3)]
    table.write_text("\n".join(["file_name,label", *rows]) + "\n")
    how, out = replace(SHIP, controls=True), tmp_path / "run"
    metrics = anyclass.fit(how, out=out, **(shapes | {"labels": str(table)}))
    assert (out / "model" / GENERATOR).is_file()
    assert set(metrics["controls"]) == {"text", "none"}
    assert {"kl", "spread", "agree"} <= set(metrics["facts"])
    named = shapes | {"labels": None, "classes": ("big dog", "art", "kite-7")}
    how = replace(SHIP, source=str(out), transfer_steps=2)
    assert anyclass.fit(how, out=tmp_path / "other", **named)["n"] == 14
    table = tmp_path / "predictions.csv"
    assert anyclass.predict(tmp_path / "other", shapes["images"], out=table)["n"] == 14
