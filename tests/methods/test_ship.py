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
from anyclass.classifier.head_formats import class_weights, head_parts
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.commands.fit import fit
from anyclass.data import ImageDataset
from anyclass.errors import ModelError, RequestError
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, class_features
from anyclass.methods.clip_adapter import ClipAdapter
from anyclass.methods.coop import CoOp
from anyclass.methods.few_shot import FewShot, FewShotTask, TrainingSet
from anyclass.methods.gda import Gda
from anyclass.methods.ship import GENERATOR, NOTHING_NAMED, SYNTHETIC_KEY, Ship
from anyclass.methods.ship_training import train_generator
from anyclass.methods.ship_vae import Generator, Vae
from anyclass.methods.synthetic_features import SyntheticFeatures
from anyclass.methods.tip_adapter import TipAdapter
from anyclass.rng import seeded_rng

Fitted = tuple[Classifier, list[dict[str, Any]]]
Fit = Callable[..., Fitted]

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


@pytest.fixture(scope="module")
def default(once: Fit, known: ImageDataset) -> Fitted:
    return once(SHIP, known)


def content(found: Classifier) -> bytes:
    """Every bit that was learned."""
    _, tensors, numbers = head_parts(found.head)
    bits = b"".join(
        tensor.numpy().tobytes() for tensor in [class_weights(found.head), *tensors.values()]
    )
    return bits + json.dumps([numbers, dict(found.record.metrics)]).encode()


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


def test_fit__a_step_has_as_many_made_features_as_real_ones(
    fit: Fit, known: ImageDataset, steps: list[Step]
) -> None:
    fit(SHIP, known)
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
    fit(SHIP, known)
    assert all(torch.equal(a, b) for a, (b, _, _) in zip(first, steps, strict=True))


def test_fit__named_classes_are_drawn_uniformly(
    fit: Fit, known: ImageDataset, steps: list[Step]
) -> None:
    fit(replace(SHIP, then=replace(THEN["coop"], epochs=30), synthetic="text"), known)
    drawn = torch.cat([c[len(c) // 2 :] for _, c, _ in steps]).bincount(minlength=4)
    assert drawn[[1, 3]].tolist() == [0, 0]
    expected = int(drawn.sum()) / 2
    assert expected == 150
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
    assert found.record.artefacts == ()


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


@pytest.mark.parametrize(("ratio", "sizes"), [(0.5, [2, 2, 1]), (None, [4, 4, 2])])
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
    tensors = head_parts(found.head).tensors
    weights = torch.bincount(tensors["labels"].long(), tensors["weights"])
    assert weights.tolist() == [5, 5, 5, 5]


# --- what comes out


def test_fit__same_seed_same_bytes_and_the_model_stays(
    fit: Fit, default: Fitted, clip: Backbone, known: ImageDataset
) -> None:
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    first = default[0]
    again, other = (fit(SHIP, known, seed=seed)[0] for seed in (0, 4))
    assert (first.method, first.fields["generator"]["latent"]) == ("ship", 6)
    assert content(first) == content(again)
    assert content(first) != content(other)
    after = clip.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.grad is not None for parameter in clip.model.parameters())
    assert all(parameter.requires_grad for parameter in clip.model.parameters())


def test_fit__learns_from_labelled_images_alone(
    fit: Fit, default: Fitted, known: ImageDataset
) -> None:
    found = default[0]
    assert content(found) == content(fit(SHIP, known.labelled)[0])
    assert found.record.trained_on == known.labelled.files


def test_fit__the_classifier_is_that_of_its_parts(
    default: Fitted, clip: Backbone, known: ImageDataset
) -> None:
    """Eq. 2, then the companion on what the generator makes; done here by hand."""
    found, log = default
    labelled = DATA.labelled_features(FeatureStore(clip, known), lambda **_: None, 3, 0)
    rows = list[dict[str, Any]]()
    maker = train_generator(
        VAE, clip, labelled, known.classes, texts(clip, known), lambda **row: rows.append(row)
    )
    seed = seeded_rng(0, SYNTHETIC_KEY).initial_seed()
    synthetic = SyntheticFeatures(torch.tensor([0, 2]), maker.sample, seed)
    then = THEN["coop"].learn(
        FewShotTask(clip, labelled, known.classes, synthetic, "all"), lambda **_: None
    )
    torch.testing.assert_close(class_weights(found.head), class_weights(then.head))
    ship = [row for row in log if row.get("stage") == "ship"]
    assert [row["epoch"] for row in ship] == [0, 1, 2]
    for mine, others in zip(ship, [r for r in rows if r.get("stage") == "ship"], strict=True):
        assert {**mine, "stage": 0} == pytest.approx({**others, "stage": 0}, rel=1e-5, abs=1e-6)
    metrics = maker.metrics | {"labelled_images": 10}
    assert found.record.metrics == pytest.approx(metrics, rel=1e-5, abs=1e-6)


def test_fit__controls_stand_beside_it(fit: Fit, once: Fit, known: ImageDataset) -> None:
    how = replace(SHIP, then=THEN["tip-adapter"])
    found = fit(replace(how, controls=True), known)[0]
    plain = once(how, known)[0]
    assert content(found) == content(plain)
    assert list(found.record.baselines) == ["text", "none"]
    for name, control in found.record.baselines.items():
        alone = fit(replace(how, synthetic=name), known)[0]
        assert content(control) == content(alone)
        assert content(control) != content(found)
    assert plain.record.baselines == {}


def test_fit__a_control_is_fitted_once(fit: Fit, known: ImageDataset, steps: list[Step]) -> None:
    found = fit(replace(SHIP, synthetic="text", controls=True), known)[0]
    assert len(steps) == 2 * 9
    assert content(found.record.baselines["text"]) == content(found)


@pytest.mark.parametrize("then", [THEN["clip-adapter"], THEN["gda"]], ids=["clip-adapter", "gda"])
def test_save__and_load_are_the_same(
    fit: Fit, known: ImageDataset, tmp_path: Path, then: Any
) -> None:
    found = fit(replace(SHIP, then=then), known)[0]
    found.save(tmp_path)
    again = Classifier.load(tmp_path, engine="torch")
    assert (again.method, again.fields["then"]["kind"]) == ("ship", then.kind)
    assert np.array_equal(again.predict_proba(known), found.predict_proba(known))


@pytest.mark.parametrize("kind", ["siglip", "huggingface"])
def test_fit__other_models(
    tiny_backbone: Callable[..., Backbone], known: ImageDataset, kind: str
) -> None:
    clip = tiny_backbone(kind)
    how = Ship(
        then=replace(THEN["coop"], epochs=1, batch_size=None),
        generator=replace(VAE, epochs=1, batch_size=256),
    )
    found = how.fit(FeatureStore(clip, known), lambda **_: None)
    assert np.allclose(found.predict_proba(known).sum(1), 1, atol=1e-5)
    start = PromptLearner(clip, known.classes.prompts, 4)
    assert not torch.equal(
        found.head.weights, start.all_features(start.embed_words("a photo of a"))
    )


@pytest.mark.parametrize("synthetic", ["mean", "none"])
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


@pytest.mark.parametrize(("name", "views"), [("coop", 0), ("clip-adapter", 3), ("gda", 3)])
def test_fit__without_a_named_class_is_the_plain_companion(
    fit: Fit, once: Fit, everyone: ImageDataset, name: str, views: int
) -> None:
    then = replace(THEN[name], data=FewShot(views=views))
    found, log = fit(replace(SHIP, then=then, controls=True), everyone)
    plain = once(then, everyone)[0]
    assert content(replace(found, record=plain.record)) == content(plain)
    assert np.array_equal(found.predict_proba(everyone), plain.predict_proba(everyone))
    assert [row["warning"] for row in log if "warning" in row] == [NOTHING_NAMED]
    assert found.record.baselines == {}
    assert len(found.record.artefacts) == 1, "the generator, for other classes"
    assert found.method == "ship"


def test_fit__refuses(fit: Fit, dataset: ImageDataset) -> None:
    with pytest.raises(RequestError, match="which need only class names"):
        fit(SHIP, dataset)
    with pytest.raises(RequestError, match="two or more class names"):
        fit(SHIP, ImageDataset.read(dataset.root, ["only one"]))


def test_fit__words_are_refused_before_anything_is_learned(
    clip: Backbone, known: ImageDataset
) -> None:
    how, log = replace(SHIP, then=replace(THEN["coop"], words="a photo")), list[Any]()
    with pytest.raises(RequestError, match="not 4 tokens of this model"):
        how.fit(FeatureStore(clip, known), lambda **row: log.append(row))
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


@pytest.mark.parametrize("at", [2, 12])
def test_fit__continued_after_a_kill_equals_an_unbroken_one(
    fit: Fit,
    once: Fit,
    clip: Backbone,
    known: ImageDataset,
    tmp_path: Path,
    dies: Callable[..., None],
    at: int,
) -> None:
    """Steps 1 to 6 are the generator's, then come 9 of each classifier."""
    how = replace(SHIP, controls=True)
    unbroken, rows = once(how, known)
    done = count(1)
    dies(
        lambda log: how.fit(FeatureStore(clip, known), log, tmp_path),
        lambda row: row.get("stage") == "fit" and next(done) == at,
    )
    assert all(parameter.requires_grad for parameter in clip.model.parameters())
    continued, later = fit(how, known, scratch=tmp_path)
    assert content(continued) == content(unbroken)
    for name in ("text", "none"):
        assert content(continued.record.baselines[name]) == content(unbroken.record.baselines[name])
    steps = [
        [
            {key: value for key, value in row.items() if key != "loop"}
            for row in some
            if row.get("stage") == "fit"
        ]
        for some in (rows, later)
    ]
    assert steps[1] == steps[0][at - 1 :]


# --- a source


@pytest.fixture(scope="module")
def source(default: Fitted, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Classifier]:
    """A run folder as far as SHIP reads it, and its classifier."""
    found, run = default[0], tmp_path_factory.mktemp("source")
    found.record.write_artefacts(run / "model")
    return run, found


def test_source__generator_is_taken_instead_of_learned(
    fit: Fit, known: ImageDataset, source: Any
) -> None:
    """With the same images and seed the result is the same."""
    again, log = fit(replace(SHIP, source=str(source[0])), known)
    assert torch.equal(again.head.weights, source[1].head.weights)
    assert not any("reconstruction_loss" in row for row in log)
    other = fit(replace(SHIP, source=str(source[0])), known, seed=1)[0]
    assert not torch.equal(other.head.weights, source[1].head.weights)


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
    words = source[1].record.context
    assert not words.requires_grad
    assert not torch.allclose(words, learner.embed_words("a photo of a"), atol=1e-2)
    assert torch.allclose(found.head.weights, learner.all_features(words), atol=1e-6)
    assert torch.allclose(
        found.head.weights[1], source[1].head.weights[2], atol=1e-6
    )  # "art" in both
    found, _ = fit(replace(how, transfer_start="words"), target)
    usual = learner.all_features(learner.embed_words("a photo of a"))
    assert torch.allclose(found.head.weights, usual, atol=1e-6)


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
    synthetic = SyntheticFeatures(
        torch.arange(5), maker.sample, seeded_rng(0, SYNTHETIC_KEY).initial_seed()
    )
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
    assert torch.allclose(found.head.weights, learner.all_features(v.detach()), atol=1e-5)
    assert found.classes_ == list(target.classes.names)
    assert found.method == "ship"


def test_transfer__is_drawn_by_the_seed_and_goes_on_after_a_kill(
    fit: Fit, target: ImageDataset, source: Any, killed: Callable[..., None], tmp_path: Path
) -> None:
    how = replace(SHIP, source=str(source[0]), transfer_steps=9, transfer_lr=0.05)
    first, again, other = (fit(how, target, seed=seed)[0].head.weights for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    killed(how, target, tmp_path / "scratch", "fit", 4)
    assert torch.equal(fit(how, target, scratch=tmp_path / "scratch")[0].head.weights, first)


def test_transfer__has_controls_too(
    fit: Fit, clip: Backbone, target: ImageDataset, source: Any
) -> None:
    how = replace(SHIP, source=str(source[0]), transfer_steps=3, transfer_lr=0.05, controls=True)
    found = fit(how, target)[0]
    text, none = (found.record.baselines[name].head.weights for name in ("text", "none"))
    assert torch.equal(none, fit(replace(how, transfer_steps=0), target)[0].head.weights)
    assert torch.equal(text, fit(replace(how, synthetic="text"), target)[0].head.weights)
    assert not torch.allclose(text, found.head.weights, atol=1e-4)


def test_transfer__from_a_run_with_a_label_for_every_class(
    fit: Fit, once: Fit, everyone: ImageDataset, target: ImageDataset, tmp_path: Path
) -> None:
    """The paper's experiment across data sets: all classes of the source are labelled."""
    found = once(SHIP, everyone)[0]
    found.record.write_artefacts(tmp_path / "model")
    how = replace(SHIP, source=str(tmp_path), transfer_steps=2, transfer_lr=0.05)
    moved = fit(how, target)[0]
    start = fit(replace(how, transfer_steps=0), target)[0]
    assert moved.classes.names == target.classes.names
    assert not torch.allclose(moved.head.weights, start.head.weights, atol=1e-4)


def test_template__of_the_companion_makes_the_zero_shot_prompts(
    fit: Fit, once: Fit, known: ImageDataset
) -> None:
    then = replace(THEN["gda"], template="a drawing of {}")
    assert fit(replace(SHIP, then=then), known)[0].template == "a drawing of {}"
    assert once(SHIP, known)[0].template == PLAIN


def test_transfer__can_be_a_source_itself(
    fit: Fit, clip: Backbone, target: ImageDataset, source: Any, tmp_path: Path
) -> None:
    how = replace(SHIP, source=str(source[0]), transfer_steps=3, transfer_lr=0.05)
    found = fit(how, target)[0]
    found.record.write_artefacts(tmp_path / "next" / "model")
    how = replace(how, source=str(tmp_path / "next"), transfer_steps=0)
    assert torch.allclose(fit(how, target)[0].head.weights, found.head.weights, atol=1e-6)


def test_transfer__of_a_run_without_coop_starts_from_its_words(
    fit: Fit, clip: Backbone, known: ImageDataset, target: ImageDataset, tmp_path: Path
) -> None:
    found = fit(replace(SHIP, then=THEN["clip-adapter"]), known)[0]
    found.record.write_artefacts(tmp_path / "model")
    how = Ship(source=str(tmp_path), transfer_steps=0)  # the generator has 3 places
    learner = PromptLearner(clip, target.classes.prompts, 4)
    usual = learner.all_features(learner.embed_words("a photo of a"))
    assert torch.allclose(fit(how, target)[0].head.weights, usual, atol=1e-6)


def test_transfer__is_of_coop_alone(fit: Fit, target: ImageDataset, source: Any) -> None:
    how = Ship(then=Gda(), source=str(source[0]))
    with pytest.raises(RequestError, match="then SHIP trains CoOp alone: leave --then gda out"):
        fit(how, target)


def test_transfer__to_the_same_names(fit: Fit, dataset: ImageDataset, source: Any) -> None:
    how = replace(SHIP, source=str(source[0]), transfer_steps=0)
    assert torch.allclose(fit(how, dataset)[0].head.weights, source[1].head.weights, atol=1e-6)


def test_source__that_is_none_is_refused_before_images_are_embedded(
    clip: Backbone,
    known: ImageDataset,
    tmp_path: Path,
    tiny_backbone: Callable[..., Backbone],
    source: Any,
) -> None:
    log = list[Any]()
    with pytest.raises(ModelError, match="is missing"):
        replace(SHIP, source=str(tmp_path)).fit(
            FeatureStore(clip, known), lambda **row: log.append(row)
        )
    other = tiny_backbone("timm")
    with pytest.raises(ModelError, match="another model"):
        replace(SHIP, source=str(source[0])).fit(
            FeatureStore(other, known), lambda **row: log.append(row)
        )
    assert log == []


def test_run__leaves_generator_and_controls_and_serves_as_source(
    shapes: dict[str, Any], tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    rows = [f"red square/{i}.{'png' if i % 2 else 'jpg'},red square" for i in range(4)]
    rows += [f"green ring/{i}.{'png' if i % 2 else 'jpg'},green ring" for i in range(3)]
    table.write_text("\n".join(["file_name,label", *rows]) + "\n")
    how, out = replace(SHIP, controls=True), tmp_path / "run"
    metrics = fit(how, out=out, **(shapes | {"labels": str(table)})).metrics
    assert (out / "model" / GENERATOR).is_file()
    assert set(metrics["controls"]) == {"text", "none"}
    assert {"kl", "spread", "agree"} <= set(metrics["facts"])
    named = shapes | {"labels": None, "classes": ("big dog", "art", "kite-7")}
    how = replace(SHIP, source=str(out), transfer_steps=2)
    assert fit(how, out=tmp_path / "other", **named).metrics["n"] == 14
    table = tmp_path / "predictions.csv"
    assert anyclass.predict(tmp_path / "other", shapes["images"], out=table)["n"] == 14
