"""How LatteCLIP behaves: zero steps, labels, seeds, kills, questions, metrics, refusals."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from anyclass.backbone import Backbone
from anyclass.captioning.captions import Captions
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.features.store import FeatureStore
from anyclass.methods.latteclip import LatteClip
from anyclass.methods.zero_shot import ZeroShot
from anyclass.training.tuning import Tuning

Fitted = tuple[Classifier, list[dict[str, Any]]]
Small = Callable[..., LatteClip]
Fit = Callable[..., Fitted]


def content(classifier: Classifier) -> bytes:
    """Every bit that training decided: prototypes, trained parameters, what is on record."""
    tensors = [
        classifier.head.weights,
        *classifier.clip.parameters(classifier.representation.part or "all").values(),
    ]
    numbers = b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)
    return numbers + repr(classifier.record).encode()


def steps(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the name of the loop, which only a loop with a checkpoint has."""
    rows = [row for row in log if row.get("stage") == "fit"]
    return [{key: value for key, value in row.items() if key != "loop"} for row in rows]


# --- zero-shot is the start


STILL = {"lr": 0.0, "alpha": 1.0, "mu": 1.0, "steps": 3}


@pytest.mark.parametrize(
    ("tune", "still"), [("head", {"steps": 0}), ("tail", STILL), ("all", STILL)], ids=str
)
def test_fit__that_trains_nothing_equals_zero_shot(
    fit: Fit, once: Fit, dataset: ImageDataset, small: Small, tune: str, still: dict[str, Any]
) -> None:
    adapted = fit(small(tune=tune, **still))[0].predict_proba(dataset)
    zero_shot = once(ZeroShot())[0].predict_proba(dataset)
    assert np.allclose(adapted, zero_shot, atol=1e-6)
    assert adapted.argmax(1).tolist() == zero_shot.argmax(1).tolist()
    assert len(set(adapted.argmax(1))) == 4


def test_fit__zero_shot_labels_are_on_record(
    fit: Fit, once: Fit, dataset: ImageDataset, small: Small
) -> None:
    classifier, _ = fit(small())
    zero_shot = once(ZeroShot())[0].predict_proba(dataset).argmax(1)
    assert classifier.record.zero_shot_labels == zero_shot.tolist()
    assert classifier.predict_proba(dataset).argmax(1).tolist() != zero_shot.tolist()


# --- gradients and what stays


def test_fit__gradient_of_the_text_tower_scales_with_one_minus_alpha(
    fit: Fit, small: Small
) -> None:
    """At the first step, where p is the same; t itself moves by a hundredth, so nearly."""
    how, slopes = small(tune="all", steps=1, weight_decay=0.0), {}
    for alpha in (0.99, 0.98, 1.0):
        clip = fit(replace(how, alpha=alpha))[0].clip
        slopes[alpha] = clip.model.text_projection.grad.norm().item()
    assert slopes[0.98] / slopes[0.99] == pytest.approx(2, rel=0.05)
    assert slopes[1.0] == 0


def test_fit__absent_classes_stay_to_the_bit(fit: Fit, dataset: ImageDataset, small: Small) -> None:
    still, how = (small(steps=n, batch_size=1, relabel="never") for n in (0, 1))
    start, moved = fit(still)[0].head.weights, fit(how)[0].head.weights
    assert (moved != start).any(1).sum() == 1


def test_fit__leaves_the_model_as_it_is(fit: Fit, clip: Backbone, small: Small) -> None:
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    tuned = fit(small(tune="all"))[0].clip
    after = clip.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(tuned.model.visual.proj, clip.model.visual.proj)
    assert not any(parameter.grad is not None for parameter in clip.model.parameters())


@pytest.mark.parametrize("tune", ["all"])
def test_fit__freeze_text_leaves_the_text_tower(
    fit: Fit, clip: Backbone, small: Small, tune: str
) -> None:
    for freeze in (True, False):
        tuned = fit(small(tune=tune, freeze_text=freeze))[0].clip
        same = torch.equal(tuned.texts(["a red toy"]), clip.texts(["a red toy"]))
        assert same == freeze


# --- labels, seeds, kills


def test_fit__never_reads_a_label(fit: Fit, dataset: ImageDataset, small: Small) -> None:
    noise = np.random.default_rng(1)
    labels = noise.integers(0, 4, len(dataset))
    known = [replace(dataset, labels=some) for some in (labels, noise.permutation(labels))]
    for how in (small(), small(tune="all", relabel="epoch", regroup="once")):
        (first, log), (again, other) = (fit(how, images) for images in known)
        assert content(again) == content(first)
        assert other == log


def test_fit__same_seed_same_bytes(fit: Fit, small: Small) -> None:
    how = small(image_captions=2, groups=3, group_label="ft")
    first, again, other = (fit(how, seed=seed) for seed in (3, 3, 4))
    assert content(first[0]) == content(again[0])
    assert steps(first[1]) == steps(again[1])
    assert content(first[0]) != content(other[0])


def test_fit__groups_and_drawn_texts_follow_the_seed(
    fit: Fit, small: Small, teller: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = small(captioner=teller, image_captions=2)
    groups, columns, draw = [], [], Captions.draw

    def spy(captions: Captions, index: torch.Tensor, *rest: Any) -> torch.Tensor:
        """Notes for each place of the batch which of its image's two texts was drawn."""
        numbers = draw(captions, index, *rest)
        columns[-1] += (numbers[0, 1] == captions.images[index, 1]).tolist()
        return numbers

    monkeypatch.setattr(Captions, "draw", spy)
    for seed in (0, 1, 1):
        teller.asked.clear()
        columns.append([])
        fit(how, seed=seed)
        groups.append([request.rows for request in teller.asked if len(request.rows) > 1])
    assert groups[0] != groups[1] == groups[2]
    assert columns[1] == columns[2]
    assert len(columns[0]) == 30
    unlike = sum(a != b for a, b in zip(*columns[:2], strict=True))
    assert unlike > 8  # the images without a text alone make 3


KILLED = {  # what is fitted -> the step it is killed after; texts are drawn at random
    "epochs": ({"relabel": "epoch", "weight_prototypes": "epoch"}, 3),
    "regroup": ({"regroup": "once", "groups": 3}, 4),
    "all": ({"tune": "all", "relabel_view": "weak"}, 1),
    "frozen": ({"tune": "tail", "freeze_text": True}, 2),
}


@pytest.mark.parametrize(("option", "step"), KILLED.values(), ids=KILLED)
def test_fit__continued_after_a_kill_equals_an_unbroken_one(
    fit: Fit,
    once: Fit,
    dataset: ImageDataset,
    small: Small,
    tmp_path: Path,
    killed: Callable[..., None],
    option: dict[str, Any],
    step: int,
) -> None:
    """The first loop stops in the log of the step after `step`, whose checkpoint is on disk."""
    how = small(image_captions=2, **option)
    unbroken, rows = once(how)
    killed(how, dataset, tmp_path, "fit", step)
    continued, later = fit(how, scratch=tmp_path)
    assert content(continued) == content(unbroken)
    assert steps(later) == steps(rows)[step:]


def test_fit__continued_after_the_last_step_is_the_same(
    fit: Fit, small: Small, tmp_path: Path, save_every_step: None
) -> None:
    first, _ = fit(small(), scratch=tmp_path)
    again, log = fit(small(), scratch=tmp_path)
    assert content(again) == content(first)
    assert not steps(log)


# --- what is asked


def test_fit__asks_for_nothing_twice(fit: Fit, small: Small, teller: Any) -> None:
    how = small(captioner=teller, image_captions=2, groups=3, regroup="once")
    classifier, _ = fit(how)
    assert len(teller.asked) == len(set(teller.asked))
    of_images = [request for request in teller.asked if len(request.rows) == 1]
    assert [r.rows[0] for r in of_images] == [i for i in range(13) for _ in range(2)]
    assert [r.variant for r in of_images] == [0, 1] * 13
    zero_shot = classifier.record.zero_shot_labels
    groups = {request.rows for request in teller.asked if len(request.rows) > 1}
    pure = {rows for rows in groups if len({zero_shot[i] for i in rows}) == 1}
    assert len(pure) >= 8  # of the first drawing all, of the second some
    assert groups - pure  # c_ft has moved images between classes


@pytest.mark.parametrize(
    ("texts", "sizes"), [(("class",), set()), (("image",), {1}), (("group", "class"), {2})]
)
def test_fit__asks_only_for_the_texts_in_use(
    fit: Fit, small: Small, teller: Any, texts: tuple[str, ...], sizes: set[int]
) -> None:
    classifier, _ = fit(small(captioner=teller, texts=texts, steps=1))
    assert {len(request.rows) for request in teller.asked} == sizes
    weights = [name for name in classifier.record.metrics if name.startswith("weight_")]
    assert sorted(weights) == sorted(f"weight_{kind}" for kind in texts)


def test_fit__questions_name_domain_and_class(fit: Fit, small: Small, teller: Any) -> None:
    how = small(captioner=teller, domain="mouse", plural="mice", steps=0)
    classifier, _ = fit(replace(how, class_in_prompt=True))
    names = [classifier.classes.names[c] for c in classifier.record.zero_shot_labels]
    asked = [request.question for request in teller.asked if len(request.rows) == 1]
    assert asked == [
        f"Describe the {name} mouse in the photo concisely, less than 20 words." for name in names
    ]
    teller.asked.clear()
    fit(how)
    plain = {request.question for request in teller.asked if len(request.rows) == 1}
    assert plain == {"Describe the mouse in the photo concisely, less than 20 words."}
    groups = {request.question for request in teller.asked if len(request.rows) > 1}
    assert groups == {
        "Describe the common visual attributes of the mice in all the photos concisely, "
        "less than 20 words."
    }
    assert {request.noun for request in teller.asked} == {"mouse"}


def test_fit__template_makes_class_texts_and_start(fit: Fit, clip: Backbone, small: Small) -> None:
    classifier, _ = fit(small(template="{c} texture.", steps=0))
    wanted = clip.texts([f"{name} texture." for name in classifier.classes.names])
    assert torch.allclose(classifier.head.weights, wanted, atol=1e-6)
    texts = [row["text"] for row in classifier.record.descriptions if row["kind"] == "class"]
    assert texts == ["two texture.", "orange texture.", "art texture.", "image texture."]


def test_fit__two_captions_are_both_used(fit: Fit, small: Small, teller: Any) -> None:
    """With the same seed the batches are the same, so it is the text that differs."""
    one, two = (small(texts=("image",), image_captions=n, steps=1) for n in (1, 2))
    drawn = [fit(two, seed=seed)[0].head.weights for seed in range(4)]
    plain = [fit(one, seed=seed)[0].head.weights for seed in range(4)]
    assert any(not torch.allclose(a, b, atol=1e-4) for a, b in zip(drawn, plain, strict=True))


# --- what is said


def test_fit__metrics(fit: Fit, once: Fit, small: Small) -> None:
    classifier, log = fit(small(margin="equal"))
    rows = [row for row in log if row.get("stage") == "latteclip"]
    metrics = classifier.record.metrics
    assert {key: rows[-1][key] for key in metrics} == metrics
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    start = once(small(steps=0))[0]
    drift = 1 - torch.einsum("cd,cd->c", start.head.weights, classifier.head.weights).mean().item()
    assert metrics["prototype_drift"] == pytest.approx(drift, abs=1e-6)
    assert [metrics[f"weight_{kind}"] for kind in ("class", "image", "group")] == [1, 1, 1]
    assert metrics["rows_at_floor"] == 0
    assert 0 < metrics["agreement_with_zero_shot"] < 1
    assert start.record.metrics == {}


def test_fit__rows_at_the_floor_are_those_whose_texts_all_are(fit: Fit, small: Small) -> None:
    how = small(texts=("image",), steps=1, batch_size=13)
    assert fit(replace(how, floor=9.0))[0].record.metrics["rows_at_floor"] == 1
    missing = fit(how)[0].record.metrics["rows_at_floor"]
    assert missing == pytest.approx(2 / 13)  # images 3 and 7 have no text at all


def test_fit__warns_of_a_bold_rate_and_of_drift(fit: Fit, small: Small) -> None:
    def warnings(how: LatteClip) -> list[str]:
        return [row["warning"] for row in fit(how)[1] if "warning" in row]

    assert warnings(small(relabel="never")) == []
    bold = warnings(small(tune="all", lr=1.1e-5, steps=1, relabel="never"))
    assert [text.split()[1] for text in bold] == ["1.1e-05"]
    assert warnings(small(tune="all", lr=None, steps=1, relabel="never")) == []
    torn = small(momentum="none", lr=0.3, batch_size=13)
    classifier, _ = fit(torn)
    left = 1 - classifier.record.metrics["agreement_with_zero_shot"]
    assert left > 0.5
    assert warnings(torn) == [f"{left:.0%} of the last images have left their zero-shot class"]


def test_fit__descriptions_are_on_record(fit: Fit, dataset: ImageDataset, small: Small) -> None:
    rows = fit(small(steps=0))[0].record.descriptions
    assert [row["kind"] for row in rows] == ["class"] * 4 + ["image"] * 13 + ["group"] * 4
    first = {"kind": "image", "file_name": "00.png", "text": "a sketch of red toy"}
    assert {key: value for key, value in rows[4].items() if key != "weight"} == first
    assert rows[7] == {"kind": "image", "file_name": "03.png", "text": None}
    assert [row["class"] for row in rows[-4:]] == list(dataset.classes.names)


def test_fit__descriptions_have_their_weight_after_training(fit: Fit, small: Small) -> None:
    method = small(steps=3)
    classifier = fit(method)[0]
    p = classifier.head.weights  # (C, D)
    for row in classifier.record.descriptions:
        if row["text"] is not None:
            with torch.no_grad():
                v = classifier.representation.clip.texts([row["text"]])[0]
            best, second = sorted((float(v @ prototype) for prototype in p), reverse=True)[:2]
            assert row["weight"] == pytest.approx(best - second + method.floor, abs=2e-6)
    equal = fit(small(steps=0, margin="equal"))[0].record.descriptions
    assert not any("weight" in row for row in equal)


# --- what is refused


def test_fit__one_class_is_refused(fit: Fit, dataset: ImageDataset, small: Small) -> None:
    with pytest.raises(RequestError, match="two or more"):
        fit(small(), ImageDataset.read(dataset.root, ["only one"]))


def test_fit__the_released_mix_needs_batches_as_large_as_features(fit: Fit, small: Small) -> None:
    wanted = "needs batches as large as the features are wide: 24 instead of 6 .--batch-size 24"
    with pytest.raises(RequestError, match=wanted):
        fit(small(released_mix=True))


@pytest.mark.parametrize(
    "wrong",
    [{"texts": ()}, {"branches": ()}, {"alpha": 1.1}, {"tuning": {"lr": -1.0}}, {"alhpa": 0.5}],
    ids=str,
)
def test_latteclip__wrong_fields_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LatteClip(**wrong)


@pytest.mark.parametrize("kind", ["siglip", "coca"])
def test_fit__all_of_other_towers_and_again_from_its_last_step(
    tiny_clip: Callable[..., str],
    dataset: ImageDataset,
    tmp_path: Path,
    save_every_step: None,
    kind: str,
) -> None:
    """Parameters that no loss reaches (SigLIP's bias, CoCa's decoder) do not stop a run."""
    clip = Backbone.load(tiny_clip(kind), engine="torch")
    how = LatteClip(tuning=Tuning(lr=1e-4, steps=2, batch_size=5))
    first, again = (
        how.fit(FeatureStore(clip, dataset), lambda **_: None, tmp_path) for _ in range(2)
    )
    assert np.array_equal(first.predict_proba(dataset), again.predict_proba(dataset))


@pytest.mark.parametrize("tune", ["tail", "all"])
def test_fit__micro_batches_give_the_same_weights(fit: Fit, small: Small, tune: str) -> None:
    """Four of six images, then two; texts as well."""
    lr = {"lr": 1e-3, "tune": tune, "steps": 2}
    whole, parts = (fit(small(**lr, micro_batch=size))[0] for size in (None, 4))
    assert torch.allclose(whole.head.weights, parts.head.weights, atol=1e-5)
    found = parts.clip.parameters(tune)
    for name, parameter in whole.clip.parameters(tune).items():
        assert torch.allclose(parameter, found[name], atol=1e-4), name


def test_latteclip__a_data_set_brings_its_settings_and_fields_override_them(fit: Fit) -> None:
    food = "a photo of a {c}, a type of food."
    how = LatteClip(domain="Food")
    assert (how.domain, how.template, how.class_in_prompt) == ("food101", food, True)
    own = LatteClip(domain="food101", template="{} dish", class_in_prompt=False)
    assert (own.template, own.class_in_prompt) == ("{} dish", False)
    assert replace(own, alpha=0.5) == LatteClip(
        domain="food101", template="{} dish", class_in_prompt=False, alpha=0.5
    )
    assert LatteClip(domain="sun397").class_in_prompt is False
    with pytest.raises(RequestError, match="did you mean flowers102"):
        LatteClip(domain="flower102")
    said = how.workload(9, 3).remarks[-1]
    assert said == (
        f"--domain food101 is a data set of the paper: template '{food}', the class in the "
        "question about an image, learning rate 1e-06, weight decay 0.2"
    )
    assert len(LatteClip(domain="bird").workload(9, 3).remarks) == 1


def test_fit__trains_with_the_learning_rate_of_the_data_set(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def noted(loss: Any, parameters: Any, batches: Any, schedule: Any, *rest: Any) -> None:
        used.append((schedule.rate.peak_lr, schedule.weight_decay))

    monkeypatch.setattr("anyclass.methods.latteclip.optimise", noted)
    for name in ("food101", "caltech101", "bird"):
        fit(LatteClip(domain=name, texts=("class",), tuning=Tuning(steps=1)))
    assert used == [(1e-6, 0.2), (1e-7, 1e-7), (1e-7, 0.2)]


# --- it learns


def test_fit__learns_a_small_set_without_collapse(fit: Fit, small: Small) -> None:
    """50 steps: losses fall, every prototype stays nearest to its own class text."""
    how = {"lr": 1e-3, "alpha": 0.99, "groups": 32, "loss": "classes"}
    start = fit(small(steps=0, **how))[0].head.weights
    classifier, log = fit(small(steps=50, **how))
    rows = [row["zs_loss"] + row["ft_loss"] for row in steps(log)]
    assert np.mean(rows[-5:]) < 0.9 * np.mean(rows[:5])
    assert (classifier.head.weights @ start.T).argmax(1).tolist() == [0, 1, 2, 3]


@pytest.mark.slow
def test_fit__starter_model_with_the_vocabulary(images: Path, names: Path) -> None:
    """On drawings: losses fall, accuracy does not, texts are sentences."""
    clip, dataset = (
        Backbone.load("starter", engine="torch"),
        ImageDataset.read(images, names, "folders"),
    )
    log: list[dict[str, Any]] = []
    how = LatteClip(tuning=Tuning("head", steps=20, views=1))
    classifier = how.fit(FeatureStore(clip, dataset), lambda **row: log.append(row))
    rows = [row["zs_loss"] + row["ft_loss"] for row in steps(log)]
    assert rows[-1] < 0.95 * rows[0]
    zero_shot = np.array(classifier.record.zero_shot_labels)
    adapted = classifier.predict_proba(dataset).argmax(1)
    right = [(labels == dataset.labels).mean() for labels in (adapted, zero_shot)]
    assert right[0] >= right[1] - 0.05
    texts = [row["text"] for row in classifier.record.descriptions]
    counts = np.bincount(zero_shot, minlength=4)
    groups = sum(n if n > how.group_size else n > 1 for n in counts)
    assert len(texts) == 4 + 14 + groups
    assert all(text.startswith(("a ", "an ")) and text.endswith(".") for text in texts)
