"""What the few-shot methods have in common: seeds, kills, labels, made features, saving.

13 images of 3 of 4 classes, three of them without a label; n = 7 features of 2 of C = 5 classes,
K = 3 views, D = 24.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.head_formats import class_weights, head_parts
from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError
from anyclass.features.extract import stack_features
from anyclass.methods.clip_adapter import ClipAdapter
from anyclass.methods.cocoop import CoCoOp
from anyclass.methods.coop import CoOp
from anyclass.methods.few_shot import FewShotTask
from anyclass.methods.gda import Gda
from anyclass.methods.labelled_features import LabelledFeatures
from anyclass.methods.synthetic_features import SyntheticFeatures
from anyclass.methods.tip_adapter import TipAdapter
from tests.methods.conftest import unit

Fit = Callable[..., tuple[Classifier, list[dict[str, Any]]]]

TRAINED = {
    "coop": CoOp(epochs=3, batch_size=4, lr=0.1),
    "ship recipe": CoOp(epochs=3, batch_size=4, lr=0.1, recipe="ship"),
    "cocoop": CoCoOp(epochs=2, batch_size=5, lr=0.1),
    "clip-adapter": ClipAdapter(epochs=4, batch_size=4, ratio=0.5),
    "tip-adapter": TipAdapter(epochs=4, batch_size=4),
    "tip_adapter searched": TipAdapter(epochs=4, batch_size=4, search=0.4),
}
ALL = TRAINED | {"tip_adapter untrained": TipAdapter(train=False), "gda": Gda()}

every = pytest.mark.parametrize("how", ALL.values(), ids=ALL)
trained = pytest.mark.parametrize("how", TRAINED.values(), ids=TRAINED)

CLASSES = Classes.of(("big dog", "kite-7", "red_toy", "art", "soft paper b2"))


@pytest.fixture(scope="module")
def known(dataset: ImageDataset) -> ImageDataset:
    """Class "image" has no image with a label."""
    labels = np.array([0, 1, -1, 2, 2, 0, 0, 2, 1, -1, 2, 0, -1])
    return replace(dataset, labels=labels)


def made_of(named: list[int], where: Tensor) -> SyntheticFeatures:
    """Features near `where[c]`: drawn for places in `named`, whatever the numbers of classes."""
    place = {c: i for i, c in enumerate(named)}

    def make(c: Tensor, drawing: torch.Generator) -> Tensor:
        rows = torch.tensor([place[i] for i in c.tolist()])
        return normalize(where[rows] + 0.05 * torch.randn(len(c), 24, generator=drawing), dim=-1)

    return SyntheticFeatures(torch.tensor(named), make, seed=5)


def content(found: Classifier) -> bytes:
    """Every bit that was learned."""
    _, tensors, numbers = head_parts(found.head)
    bits = b"".join(
        tensor.numpy().tobytes() for tensor in [class_weights(found.head), *tensors.values()]
    )
    return bits + json.dumps([numbers, found.fields, repr(found.record)], default=str).encode()


def probabilities(found: Classifier, f: Tensor) -> Tensor:
    """Of unit features; where the tower's own are read, these say nothing."""
    if found.representation.space == "both":
        f = stack_features(f, torch.zeros(len(f), found.representation.width - f.shape[1] - 1))
    return found.probabilities(f)


def losses(log: list[dict[str, Any]]) -> list[float]:
    rows = [row for row in log if row.get("stage") == "fit"]
    return [value for row in rows for name, value in row.items() if name.endswith("_loss")]


@every
def test_fit__learns_from_labelled_images_alone(
    fit: Fit, once: Fit, known: ImageDataset, how: Any
) -> None:
    found, _ = once(how, known)
    assert found.classes_ == list(known.classes.names)
    assert found.predict_proba(known).shape == (13, 4)
    assert content(found) == content(fit(how, known.labelled)[0])
    moved = replace(known, labels=np.where(known.labels == 0, 1, known.labels))
    assert content(found) != content(fit(how, moved)[0])


@every
def test_fit__same_seed_same_bytes_and_the_model_stays(
    fit: Fit, once: Fit, clip: Backbone, known: ImageDataset, how: Any
) -> None:
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    again, other = (fit(how, known, seed=seed)[0] for seed in (0, 4))
    assert content(once(how, known)[0]) == content(again)
    assert content(again) != content(other)
    after = clip.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.grad is not None for parameter in clip.model.parameters())
    assert all(parameter.requires_grad for parameter in clip.model.parameters())


@trained
def test_fit__continued_after_a_kill_equals_an_unbroken_one(
    fit: Fit,
    once: Fit,
    known: ImageDataset,
    tmp_path: Path,
    killed: Callable[..., None],
    how: Any,
) -> None:
    unbroken, rows = once(how, known)
    killed(how, known, tmp_path, "fit", 2)
    continued, later = fit(how, known, scratch=tmp_path)
    assert content(continued) == content(unbroken)
    assert losses(later) == losses(rows)[2:]


def test_fit__refuses(fit: Fit, dataset: ImageDataset) -> None:
    for how in ALL.values():
        with pytest.raises(RequestError, match="no image has a label"):
            fit(how, dataset)
        with pytest.raises(RequestError, match="two or more class names"):
            fit(how, ImageDataset.read(dataset.root, ["only one"]))


@every
def test_save__and_load_are_the_same(
    once: Fit, known: ImageDataset, tmp_path: Path, how: Any
) -> None:
    found = once(how, known)[0]
    found.save(tmp_path)
    again = Classifier.load(tmp_path, engine="torch")
    assert (again.method, again.fields["data"]["views"]) == (found.method, 10)
    assert torch.equal(class_weights(again.head), class_weights(found.head))
    assert np.array_equal(again.predict_proba(known), found.predict_proba(known))


@pytest.mark.parametrize(
    ("name", "also"), list(zip(TRAINED, ["nothing", "made", "all"] * 2, strict=True))
)
def test_learn__lowers_its_loss(
    clip: Backbone, labelled: LabelledFeatures, name: str, also: str
) -> None:
    how: Any = TRAINED[name]
    synthetic = made_of([4, 0, 2], unit(3, 24, seed=1)) if also == "made" else None
    over, log = "all" if also == "all" else "labelled", list[dict[str, Any]]()
    how = replace(how, epochs=40, batch_size=7, lr=max(how.lr, 0.01))
    one_view = replace(labelled, x=labelled.x[:, :1])
    task = FewShotTask(clip, one_view, CLASSES, synthetic, over)
    how.learn(task, lambda **row: log.append(row))
    terms = losses(log)
    assert np.mean(terms[-3:]) < np.mean(terms[:3]) - 1e-3


@trained
def test_learn__a_batch_has_as_many_made_features_as_real_ones(
    clip: Backbone, labelled: LabelledFeatures, how: Any
) -> None:
    """Also the last, smaller batch; labels are those of named classes."""
    asked = list[tuple[int, int]]()
    named = made_of([0, 2, 4], unit(3, 24, seed=1))

    class Spy(SyntheticFeatures):
        def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
            asked.append((step, size))
            return super().batch(step, size)

    spy = Spy(named.named, named.sample, named.seed)
    how.learn(FewShotTask(clip, labelled, CLASSES, spy), lambda **_: None)
    n = 4 if getattr(how, "search", 0) else 7  # of 4 and of 3 images 2 and 1 are held out
    whole = isinstance(how, CoCoOp) or (isinstance(how, CoOp) and how.recipe == "coop")
    size = how.batch_size
    sizes = [min(size, n - i) for i in range(0, n - size + 1 if whole else n, size)]
    assert asked == list(enumerate(sizes * how.epochs))


@pytest.mark.parametrize(
    ("name", "also"),
    [(name, "made") for name in ALL if "searched" not in name]
    + [("coop", "nothing"), ("coop", "all"), ("clip-adapter", "all"), ("tip-adapter", "nothing")],
)
def test_learn__the_order_of_classes_does_not_matter(
    clip: Backbone, labelled: LabelledFeatures, name: str, also: str
) -> None:
    """Class c is number to[c] afterwards; one batch is everything."""
    how: Any = ALL[name]
    to = torch.tensor([3, 0, 4, 1, 2])
    names, where = CLASSES.prompts, unit(3, 24, seed=1)
    moved = Classes.of([names[int((to == i).nonzero())] for i in range(5)])
    how = replace(how, batch_size=7) if hasattr(how, "batch_size") else how
    found = []
    for classes, c, named in (
        (CLASSES, labelled.c, [0, 2, 4]),
        (moved, to[labelled.c], to[torch.tensor([0, 2, 4])].tolist()),
    ):
        synthetic = made_of(named, where) if also == "made" else None
        over = "all" if also == "all" else "labelled"
        task = FewShotTask(clip, replace(labelled, c=c), classes, synthetic, over)
        learned = how.learn(task, lambda **_: None)
        found.append(probabilities(learned, unit(6, 24, seed=2)))
    assert torch.allclose(found[1][:, to], found[0], atol=2e-5)


@pytest.mark.parametrize("how", [how for name, how in ALL.items() if "searched" not in name])
def test_learn__made_features_are_learned(
    clip: Backbone, labelled: LabelledFeatures, how: Any
) -> None:
    """What lies where features of a named class were made becomes likelier to be of it."""
    where = unit(3, 24, seed=1)
    how = how if isinstance(how, Gda) else replace(how, epochs=25)
    plain = how.learn(FewShotTask(clip, labelled, CLASSES), lambda **_: None)
    with_made = how.learn(
        FewShotTask(clip, labelled, CLASSES, made_of([0, 2, 4], where)), lambda **_: None
    )
    own = torch.tensor([0, 2, 4])
    before, after = (probabilities(found, where)[range(3), own] for found in (plain, with_made))
    assert after.mean() > before.mean() + 1e-3
