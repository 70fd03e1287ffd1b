"""Learned words before a name: filled with words that exist they are that text, on every tower.

C = 7 names of other lengths, L = 4 places or others, contexts of 16 tokens.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.errors import ModelError, RequestError

NAMES = ("dog", "big dog", "t-rex 7", "art_2", "zq", "soft red paper", "747-200b")


@pytest.fixture(scope="module")
def clip(every_backbone: Backbone) -> Backbone:
    return every_backbone


def embed_words(learner: PromptLearner, words: str, c: Tensor) -> Tensor:
    return learner.embed_words(words).expand(len(c), -1, -1)


def test_filled__with_words_is_the_text(clip: Backbone) -> None:
    everyone = torch.arange(len(NAMES))
    for words in ("art", "a photo of a", "a large photo of the"):
        learner = PromptLearner(clip, NAMES, len(words.split()))
        with torch.no_grad():
            context = embed_words(learner, words, everyone)
            found = clip.prompts(learner.with_context(context, everyone))
            wanted = torch.cat([clip.texts([f"{words} {name}."]) for name in NAMES])
        assert torch.allclose(found, wanted, atol=1e-5), words


def test_filled__a_subset_is_cut_to_its_longest(clip: Backbone) -> None:
    learner = PromptLearner(clip, NAMES, 4)
    some = torch.tensor([1, 0, 1])  # a class may come twice, in any order
    with torch.no_grad():
        words = learner.with_context(embed_words(learner, "a photo of a", some), some)
        everyone = learner.features(learner.embed_words("a photo of a"))
        assert torch.allclose(clip.prompts(words), everyone[some], atol=1e-5)
    lengths = [int(clip.text_lengths(clip.words([f"X X X X {n}."]).ids)) for n in NAMES[:2]]
    assert words.ids.shape[1] == words.embeddings.shape[1] == max(lengths)


def test_filled__each_text_has_a_context_of_its_own(clip: Backbone) -> None:
    learner = PromptLearner(clip, NAMES, 3)
    context = torch.randn(2, 3, learner.width, generator=torch.Generator().manual_seed(0))
    c = torch.tensor([5, 2])
    with torch.no_grad():
        found = clip.prompts(learner.with_context(context, c))
        for i in range(2):
            assert torch.allclose(found[i], learner.features(context[i], c[[i]])[0], atol=1e-5)
        assert torch.allclose(learner.all_features(context[0])[5], found[0], atol=1e-5)


def test_features__reach_every_word_and_the_model_gets_no_gradient(clip: Backbone) -> None:
    learner = PromptLearner(clip, NAMES, 4)
    v = learner.embed_words("a photo of a").requires_grad_()
    (slope,) = torch.autograd.grad(learner.features(v, torch.tensor([3, 1])).sum(), v)
    assert slope.shape == (4, learner.width)
    assert (slope.abs().sum(1) > 0).all()
    assert torch.isfinite(slope).all()
    assert all(parameter.grad is None for parameter in clip.model.parameters())


def test_all_features__few_at_a_time_without_a_graph(
    clip: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = PromptLearner(clip, NAMES, 4)
    v = learner.embed_words("a photo of a").requires_grad_()
    wanted = learner.features(v)
    monkeypatch.setattr("anyclass.classifier.prompt_learner.AT_ONCE", 3)
    found = learner.all_features(v)
    assert wanted.requires_grad
    assert not found.requires_grad
    assert torch.allclose(found, wanted, atol=1e-5)
    assert len(learner) == len(found) == 7


def test_spoken__other_counts_of_words_are_refused(causal: Backbone) -> None:
    learner = PromptLearner(causal, NAMES, 4)
    for words in ("a photo", "a large photo of the", "photo of a zq", "", "a photo of"):
        with pytest.raises(RequestError, match="is not 4 tokens of this model"):
            learner.embed_words(words)


def test_cut_short__names_that_the_model_does_not_read_to_the_end(clip: Backbone) -> None:
    long = "a " * 14 + "dog"
    assert PromptLearner(clip, (*NAMES, long), 4).cut_short == [long]
    assert PromptLearner(clip, NAMES, 4).cut_short == []


@pytest.fixture(scope="module")
def causal(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    return tiny_backbone()


def test_slots__other_fillers_where_the_first_are_several_tokens(
    causal: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = PromptLearner(causal, NAMES, 4).features(
        PromptLearner(causal, NAMES, 4).embed_words("a photo of a")
    )
    monkeypatch.setattr(
        "anyclass.classifier.prompt_learner.FILLERS", (("zz", "yy"), ("red", "blue"))
    )
    learner = PromptLearner(causal, NAMES, 4)
    assert torch.allclose(learner.features(learner.embed_words("a photo of a")), wanted, atol=1e-6)
    monkeypatch.setattr("anyclass.classifier.prompt_learner.FILLERS", (("zz", "yy"),))
    with pytest.raises(ModelError, match="does not support 4 context vectors"):
        PromptLearner(causal, NAMES, 4)


def test_slots__more_places_than_the_model_reads(causal: Backbone) -> None:
    """A context of 16 tokens with start and end: 14 places leave no room for the name."""
    assert PromptLearner(causal, NAMES, 14).cut_short == list(NAMES)
    for length in (15, 16, 40):
        with pytest.raises(RequestError, match="context vectors before a name"):
            PromptLearner(causal, NAMES, length)


def test_slots__one_name_may_be_a_filler(clip: Backbone) -> None:
    learner: Any = PromptLearner(clip, ("X", "Y", "X X", "a"), 2)
    with torch.no_grad():
        found, wanted = (
            learner.features(learner.embed_words("a photo")),
            clip.texts([f"a photo {name}." for name in ("X", "Y", "X X", "a")]),
        )
    assert torch.allclose(found, wanted, atol=1e-5)
