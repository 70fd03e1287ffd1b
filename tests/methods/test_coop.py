"""CoOp: its training against a slow reading of it, both recipes, its start, its refusals.

n = 7 images of 2 of C = 5 classes, K = 3 views, D = 24, L = 4, W = 40.
"""

from collections.abc import Callable
from dataclasses import replace
from math import cos, pi
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone, Words
from anyclass.classifier.classifier import Classifier
from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError
from anyclass.features.text import PLAIN, class_features
from anyclass.methods.coop import RECIPES, CoOp
from anyclass.methods.few_shot import FewShotTask
from anyclass.methods.labelled_features import LabelledFeatures
from anyclass.methods.synthetic_features import SyntheticFeatures
from tests.methods.conftest import unit

NAMES = ("big dog", "kite-7", "red_toy", "art", "soft paper b2")
CLASSES = Classes.of(NAMES, labelled=("kite-7", "art"))
COLUMNS = [1, 3]


@pytest.fixture
def synthetic() -> SyntheticFeatures:
    return SyntheticFeatures(
        torch.tensor([0, 2, 4]),
        lambda c, draw: normalize(torch.randn(len(c), 24, generator=draw) + c[:, None], dim=-1),
        seed=5,
    )


def learn(
    how: CoOp, clip: Backbone, labelled: LabelledFeatures, seed: int = 0, **more: Any
) -> tuple[Classifier, list[float]]:
    """The classifier, and the loss of each step."""
    losses = list[float]()

    def log(**row: Any) -> None:
        losses.extend([row["coop_loss"]] if row.get("stage") == "fit" else [])

    return how.learn(FewShotTask(clip, labelled, CLASSES, seed=seed, **more), log), losses


# --- a slow reading: texts one by one, the optimiser by hand


def text(clip: Backbone, v: Tensor, name: str) -> Tensor:
    """[SOS] v_1 ... v_L {name}. [EOS]: of this tokenizer places 1 to L follow the start."""
    words = clip.words([f"{' '.join(['X'] * len(v))} {name}."])
    spliced = torch.cat([words.embeddings[0, :1], v, words.embeddings[0, 1 + len(v) :]])
    return clip.prompts(Words(words.ids, spliced[None]))[0]


def rate(how: CoOp, step: int, steps: int, per_epoch: int) -> float:
    if how.recipe == "ship":
        return how.lr * (1 + cos(pi * step / steps)) / 2
    epoch = step // per_epoch
    return 1e-5 if epoch == 0 else how.lr * (1 + cos(pi * epoch / how.epochs)) / 2


def truth(
    how: CoOp,
    clip: Backbone,
    labelled: LabelledFeatures,
    columns: list[int],
    synthetic: SyntheticFeatures | None = None,
) -> tuple[Tensor, list[float]]:
    v = clip.words(["a photo of a"]).embeddings[0, 1:5].detach().clone().requires_grad_()
    momentum, decay, size = (0.9, 5e-4, 3) if how.recipe == "coop" else (0.0, 0.0, 3)
    batches = labelled.batches(size, how.epochs, 0, drop_last=how.recipe == "coop")
    moving, losses = torch.zeros_like(v), list[float]()
    for batch in batches.start(0):
        pairs = list(zip(batch.hidden, labelled.c[batch.index].tolist(), strict=True))
        if synthetic is not None:
            x, c = synthetic.batch(batch.step, len(pairs))
            pairs += list(zip(x, c.tolist(), strict=True))
        texts = {c: text(clip, v, CLASSES.prompts[c]) for c in columns}
        terms = []
        for f, c in pairs:
            logits = {k: clip.logit_scale.detach() * f @ texts[k] for k in columns}
            terms.append(torch.stack(list(logits.values())).logsumexp(0) - logits[c])
        loss = torch.stack(terms).mean()
        losses.append(float(loss.detach()))
        (slope,) = torch.autograd.grad(loss, v)
        slope = slope + decay * v.detach()
        moving = momentum * moving + slope if batch.step else slope
        with torch.no_grad():
            v -= rate(how, batch.step, len(batches), batches.per_epoch) * moving
    with torch.no_grad():
        return torch.stack([text(clip, v, prompt) for prompt in CLASSES.prompts]), losses


@pytest.mark.parametrize(
    ("recipe", "also"), [("coop", "labelled"), ("coop", "made"), ("ship", "all"), ("ship", "made")]
)
def test_learn__equals_the_slow_truth(
    clip: Backbone, labelled: LabelledFeatures, synthetic: SyntheticFeatures, recipe: Any, also: str
) -> None:
    how = CoOp(recipe=recipe, epochs=3, batch_size=3, lr=0.5)
    more = {"synthetic": synthetic} if also == "made" else {"over": also}
    found, losses = learn(how, clip, labelled, **more)
    columns = COLUMNS if also == "labelled" else list(range(5))
    wanted, their_losses = truth(
        how, clip, labelled, columns, synthetic if also == "made" else None
    )
    assert len(losses) == (6 if recipe == "coop" else 9)
    assert losses == pytest.approx(their_losses, rel=1e-4)
    assert torch.allclose(found.head.weights, wanted, atol=1e-4)
    start = class_features(clip, CLASSES.prompts, [PLAIN])
    assert not torch.allclose(found.head.weights, start, atol=1e-3)  # it went somewhere


def test_learn__recipes_have_batches_of_their_own(clip: Backbone) -> None:
    many = LabelledFeatures(
        unit(70, 1, 24, seed=1), torch.arange(70) % 2, tuple(map(str, range(70)))
    )
    steps = {r: len(learn(CoOp(recipe=r, epochs=2), clip, many)[1]) for r in RECIPES}
    one = {"ship": 2 * 1, "ship-imagenet": 2 * 1}
    assert steps == {"coop": 2 * 2} | one  # 70 = 2 * 32 + 6


def test_learn__adamw_of_ship_for_imagenet(
    clip: Backbone, labelled: LabelledFeatures, synthetic: SyntheticFeatures
) -> None:
    """One step of AdamW by hand from the gradient that the step of SGD shows."""
    start = clip.words(["a photo of a"]).embeddings[0, 1:5].detach()
    sgd = CoOp(recipe="ship", epochs=1, batch_size=99, lr=1.0)
    found = learn(sgd, clip, labelled, synthetic=synthetic)[0].record.context
    assert found is not None
    slope = start - found
    adam = replace(sgd, recipe="ship-imagenet", lr=0.1)
    found = learn(adam, clip, labelled, synthetic=synthetic)[0].record.context
    assert found is not None
    wanted = start * (1 - 0.1 * 0.01) - 0.1 * slope / (slope.abs() + 1e-4)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_learn__nothing_is_zero_shot(every_clip: str) -> None:
    clip = Backbone.load(every_clip, engine="torch")
    d = clip.fingerprint().shape[1]
    labelled = LabelledFeatures(unit(3, 1, d, seed=2), torch.tensor([0, 1, 1]), ("a", "b", "c"))
    found = CoOp(epochs=0).learn(FewShotTask(clip, labelled, CLASSES), lambda **_: None)
    wanted = class_features(clip, CLASSES.prompts, [PLAIN])
    assert torch.allclose(found.head.weights, wanted, atol=1e-5)
    assert not found.head.weights.requires_grad


def test_learn__texts_in_parts_are_the_same(clip: Backbone, labelled: LabelledFeatures) -> None:
    one, other = (
        learn(CoOp(epochs=2, lr=0.1, at_once=size), clip, labelled, over="all")[0]
        for size in (None, 2)
    )
    assert torch.allclose(one.head.weights, other.head.weights, atol=1e-5)


def test_learn__other_classes_get_the_words_with_their_name(
    clip: Backbone, labelled: LabelledFeatures
) -> None:
    """What was learned does not depend on names that were not among the columns."""
    how = CoOp(epochs=2, lr=0.5)
    found = learn(how, clip, labelled)[0].head.weights
    swapped = Classes.of((*NAMES[:4], "old hand"), labelled=("kite-7", "art"))
    again = how.learn(FewShotTask(clip, labelled, swapped), lambda **_: None).head.weights
    assert torch.allclose(found[:4], again[:4], atol=1e-6)
    assert not torch.allclose(found[4], again[4], atol=1e-2)


def test_learn__random_words_are_drawn_by_the_seed(
    clip: Backbone, labelled: LabelledFeatures
) -> None:
    how = CoOp(words=None, length=6, epochs=0)
    first, again, other = (learn(how, clip, labelled, seed)[0].head.weights for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-4)


def test_learn__one_labelled_class_is_said(clip: Backbone, labelled: LabelledFeatures) -> None:
    alone = replace(labelled, c=torch.full((7,), 3))
    log = list[dict[str, Any]]()
    CoOp(epochs=1).learn(FewShotTask(clip, alone, CLASSES), lambda **row: log.append(row))
    assert any("cannot separate classes" in row.get("warning", "") for row in log)


@pytest.mark.parametrize("words", ["a photo", "photography of a b2 zz"])
def test_fit__refuses_words_that_are_not_as_many_as_places(
    fit: Callable[..., Any], dataset: ImageDataset, words: str
) -> None:
    with pytest.raises(RequestError, match="not 4 tokens of this model"):
        fit(CoOp(words=words), dataset)


@pytest.mark.parametrize(("count", "more"), [(1, ""), (3, ""), (9, " and 6 more")])
def test_fit__says_which_names_are_cut_in_one_line(
    fit: Callable[..., Any], dataset: ImageDataset, count: int, more: str
) -> None:
    """Of 10,000 long names there were 10,000 lines, on the screen and in the report."""
    cut = ["a " * 20 + f"dog {i}" for i in range(count)]
    long = ImageDataset.read(dataset.root, ["art", *cut])
    labelled = replace(long, labels=long.labels * 0)
    log = fit(CoOp(epochs=1), labelled)[1]
    warned = [row["warning"] for row in log if "warning" in row]
    (said,) = [text for text in warned if "may not read the end" in text]
    assert said.startswith(f"the model may not read the end of {count} class name")
    assert said.count("'a a a a") == min(count, 3)
    assert said.endswith(f"'{more}")
