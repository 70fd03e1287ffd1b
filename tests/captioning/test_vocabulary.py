"""The vocabulary captioner: words by what the model sees, and the sentence made of them."""

import json
from collections.abc import Callable, Sequence
from importlib.resources import files

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.captioning import CaptionContext, Captioner, CaptionRequest, Vocabulary
from anyclass.captioning.vocabulary import _english, _standardised
from anyclass.data import ImageDataset

KINDS: dict[str, list[str]] = json.loads(
    files("anyclass.captioning").joinpath("vocabulary.json").read_text("utf-8")
)
PHRASES = {"materials": "something made of {}", "parts": "something with {}", "scenes": "a {}"}


@pytest.fixture(scope="module")
def clip(tiny_clip: Callable[..., str]) -> Backbone:
    return Backbone.load(tiny_clip("causal"), engine="torch")


@pytest.fixture(scope="module")
def features() -> Tensor:
    """Of 7 images; D = 24."""
    return normalize(torch.randn(7, 24, generator=torch.Generator().manual_seed(0)), dim=1)


def describe(
    captioner: Vocabulary, requests: Sequence[CaptionRequest], clip: Backbone, features: Tensor
) -> list[str | None]:
    """What it says of images that it never opens."""
    context = CaptionContext(
        ImageDataset.of([f"{i}.png" for i in range(len(features))]), clip, features
    )
    return captioner.describe(requests, context, print)


def about(*rows: int, variant: int = 0) -> CaptionRequest:
    return CaptionRequest(rows, "What is it?", "object", variant)


@torch.no_grad()
def slow_scores(clip: Backbone, kind: str, features: Tensor, seen: Tensor) -> dict[str, float]:
    """Standardised nearness of each word to one image or mean of images."""
    scores, phrase = {}, PHRASES.get(kind, "something {}")
    texts = clip.texts([f"a photo of {phrase}.".replace("{}", word) for word in KINDS[kind]])
    for word, text in zip(KINDS[kind], texts, strict=True):
        near = [float(f @ text) for f in features]
        mean = sum(near) / len(near)
        deviation = (sum((x - mean) ** 2 for x in near) / (len(near) - 1)) ** 0.5
        scores[word] = (float(seen / seen.norm() @ text) - mean) / deviation
    return scores


@pytest.mark.parametrize("rows", [(4,), (1, 5, 2)])
def test_vocabulary__takes_the_surest_words(
    clip: Backbone, features: Tensor, rows: tuple[int, ...]
) -> None:
    best = {}
    for kind in KINDS:
        scores = slow_scores(clip, kind, features, features[list(rows)].mean(0))
        word = max(scores, key=lambda word: scores[word])
        best[kind] = (scores[word], word)
    surest = sorted(best, key=lambda kind: -best[kind][0])[:3]
    wanted = _english({kind: best[kind][1] for kind in surest}, "object")
    assert describe(Vocabulary(most=3), [about(*rows)], clip, features) == [wanted]


def test_vocabulary__is_deterministic_and_one_answer_per_request(
    clip: Backbone, features: Tensor
) -> None:
    requests = [about(3), about(0, 1, 2), about(3), about(6)]
    said = describe(Vocabulary(), requests, clip, features)
    assert said == describe(Vocabulary(), requests, clip, features)
    assert said[::-1] == describe(Vocabulary(), requests[::-1], clip, features)
    assert said[0] == said[2]
    assert len(set(said)) == 3
    assert describe(Vocabulary(), [], clip, features) == []


def test_vocabulary__order_of_a_group_is_irrelevant(clip: Backbone, features: Tensor) -> None:
    first, second = describe(Vocabulary(), [about(0, 4, 2), about(2, 0, 4)], clip, features)
    assert first == second


def test_vocabulary__a_variant_takes_the_next_words(clip: Backbone, features: Tensor) -> None:
    scores = slow_scores(clip, "colours", features, features[4])
    ranked = sorted(scores, key=lambda word: -scores[word])
    requests = [about(4, variant=r) for r in range(3)]
    said = describe(Vocabulary(most=6), requests, clip, features)
    for text, colour in zip(said, ranked, strict=False):
        assert f" {colour} object" in str(text)
    last = describe(Vocabulary(words=("kite",), most=7), [about(4, variant=99)], clip, features)
    assert str(last[0]).endswith(", kite.")


def test_vocabulary__words_of_the_users_own(clip: Backbone, features: Tensor) -> None:
    own = ("lichen", "moss", "two red rings")
    near = features @ clip.texts([f"a photo of {word}." for word in own]).detach().T
    scores = (near - near.mean(0)) / near.std(0)
    said = describe(Vocabulary(words=own, most=7), [about(i) for i in range(7)], clip, features)
    for text, row in zip(said, scores, strict=True):
        assert str(text).endswith(f", {own[int(row.argmax())]}.")
    without = describe(Vocabulary(most=7), [about(0)], clip, features)
    assert not str(without[0]).endswith(tuple(f"{word}." for word in own))


def test_vocabulary__a_single_image(clip: Backbone, features: Tensor) -> None:
    """Nothing to compare it with: the word nearest to it, against the other words of its kind."""
    said = describe(Vocabulary(most=6), [about(0)], clip, features[:1])
    texts = [f"a photo of something {word}." for word in KINDS["colours"]]
    nearest = KINDS["colours"][int((clip.texts(texts) @ features[0]).argmax())]
    assert f" {nearest} object" in str(said[0])


def test_vocabulary__images_that_are_all_alike(clip: Backbone, features: Tensor) -> None:
    said = describe(Vocabulary(), [about(0), about(1)], clip, features[:1].expand(4, 24))
    assert said[0] == said[1]


def test_standardised__loop_and_no_deviation() -> None:
    near, everything = torch.rand(2, 3), torch.rand(5, 3)
    everything[:, 1] = 0.25
    found = _standardised(near, everything)
    for v in (0, 2):
        wanted = (near[1, v] - everything[:, v].mean()) / everything[:, v].std()
        assert float(found[1, v]) == pytest.approx(float(wanted), rel=1e-5)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            {
                "colours": "brown",
                "shapes": "round",
                "textures": "furry",
                "materials": "wool",
                "parts": "ears",
                "scenes": "forest",
                "own": "striped",
            },
            "a furry, round, brown object made of wool with ears, forest, striped.",
        ),
        ({"parts": "ears"}, "an object with ears."),
        ({"colours": "orange"}, "an orange object."),
        ({"materials": "wool", "scenes": "beach"}, "an object made of wool, beach."),
        ({}, "an object."),
    ],
)
def test_english__sentence(said: dict[str, str], sentence: str) -> None:
    assert _english(said, "object") == sentence


def test_vocabulary__costs_nothing() -> None:
    assert not any(Vocabulary().estimate(1000))


def test_vocabulary__is_a_describer() -> None:
    assert isinstance(Vocabulary(), Captioner)
    assert set(KINDS) == {"colours", "materials", "textures", "shapes", "parts", "scenes"}
    assert all(len(words) == len(set(words)) for words in KINDS.values())
