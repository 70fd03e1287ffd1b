"""Names for discovered classes: against loops, on classes that lie where their words lie."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.captioning import CaptionContext
from anyclass.data import Classes
from anyclass.errors import RequestError
from anyclass.naming.captioner_names import LONGEST, QUESTION, answer_to_name, ask_names
from anyclass.naming.suggest import (
    FEWEST,
    SAME,
    ClassifiedImages,
    assign_words,
    check_known_classes,
    example_images,
    suggest_names,
    threshold,
    word_scores,
)
from anyclass.naming.words import first_spellings, read_words

WORDS = ("ant", "bee", "cow", "duck", "eel", "fox", "goat", "hare", "ibis", "jay", "kite")
D = 24


def feature(word: str) -> Tensor:
    """A direction of its own for each word, in any case, and one that all words share."""
    seed = sum(ord(letter) * 31**i for i, letter in enumerate(word.lower()))
    own = torch.randn(D, generator=torch.Generator().manual_seed(seed))
    return normalize(normalize(own, dim=0) + torch.ones(D) / 3, dim=0)


def encode(words: Sequence[str]) -> Tensor:
    return torch.stack([feature(word) for word in words])


def images(
    names: Sequence[str], each: int = 6, noise: float = 0.15, seed: int = 0
) -> ClassifiedImages:
    """`each` images of every name, all shifted by what images share."""
    draw = torch.Generator().manual_seed(seed)
    z = encode(names).repeat_interleave(each, 0) - torch.arange(D) / D
    z = normalize(z + noise * torch.randn(z.shape, generator=draw), dim=1)
    predicted = torch.arange(len(names)).repeat_interleave(each)
    return ClassifiedImages(z, predicted, torch.rand(len(z), generator=draw))


def classes(names: Sequence[str], labelled: int) -> Classes:
    """The first are labelled, the others discovered."""
    kept = tuple(names[:labelled])
    return Classes(kept, ("labelled",) * labelled, kept, len(names) - labelled).discovered(
        range(labelled)
    )


def test_nearness__is_that_of_a_slow_loop() -> None:
    found, texts = images(["ant", "bee", "cow"], each=4), encode(WORDS)
    pseudo = images(["ant", "bee", "cow"], each=4, seed=3).z
    found = ClassifiedImages(
        found.z, torch.tensor([0, 0, 1, 3, 3, 3, 1, 0, 3, 3, 1, 0]), found.margin, pseudo
    )
    scores = word_scores(found, 4, texts, alpha=0.3)
    for k in range(4):
        for w in range(len(WORDS)):
            total = 0.0
            for z, weight in ((found.z, 0.3), (pseudo, 0.7)):
                mean = sum(row for row in z) / len(z)
                members = [z[i] for i in range(len(z)) if found.predicted[i] == k]
                if members:
                    c = sum(row - mean for row in members)
                    t = texts[w] - sum(row for row in texts) / len(texts)
                    total += weight * float((c / c.norm()) @ (t / t.norm()))
            assert float(scores[k, w]) == pytest.approx(total, abs=1e-5)
    assert (scores[2] == 0).all(), "a class without an image is near to nothing"


def test_suggest__finds_the_words_and_leaves_labelled_names_alone() -> None:
    names = WORDS[:7]
    naming = suggest_names(images(names), classes(names, 4), [], WORDS, encode)
    assert [name.words[0] for name in naming.names] == list(names)
    assert [len(name.words) for name in naming.names] == [1, 1, 1, 1, 5, 5, 5]
    assert naming.check[:3] == (4, 1.0, 1.0)
    assert naming.candidates == len(WORDS) - 4
    for name in naming.names[4:]:
        assert not set(name.words) & set(names[:4])
        assert name.likely == (name.margin >= naming.check.threshold)
        assert name.size == 6
    assert [name.margin for name in naming.names[:4]] == [None] * 4


def test_suggest__a_name_that_a_class_kept_is_not_suggested_again() -> None:
    """Duck has only a name, and keeps it; its images are as near to the word as can be."""
    names = (*WORDS[:4], WORDS[3])
    kept = Classes.of(WORDS[:4], labelled=WORDS[:3], unknown=1).with_discovered()
    naming = suggest_names(images(names), kept, [WORDS[3]], WORDS, encode)
    assert naming.names[3].words == ["duck"]
    assert "duck" not in naming.names[4].words
    assert naming.candidates == len(WORDS) - 4


def test_suggest__the_place_of_a_class_name_in_the_vocabulary_does_not_matter() -> None:
    """Names of classes stand anywhere in the nouns, in any order and spelling."""
    names = WORDS[:7]
    vocabulary = [*WORDS[5:], *(word.upper() for word in WORDS[4::-1])]
    naming = suggest_names(images(names), classes(names, 4), [], vocabulary, encode)
    assert [name.words[0].lower() for name in naming.names] == list(names)
    assert naming.candidates == len(WORDS) - 4
    for name in naming.names[4:]:
        assert not {word.lower() for word in name.words} & set(names[:4])


def test_suggest__names_that_were_listed_come_first() -> None:
    names = WORDS[:6]
    found, about = images(names), classes(names, 3)
    naming = suggest_names(found, about, ["Fox"], [w for w in WORDS if w != "fox"], encode)
    assert [name.words[0] for name in naming.names[3:]] == ["duck", "eel", "Fox"]
    listed = ["duck", "eel", "fox"]
    nearly = ClassifiedImages(
        found.z, found.predicted.roll(2), found.margin
    )  # a third of each is wrong
    naming = suggest_names(nearly, about, listed, [f"{w} bird" for w in WORDS], encode)
    assert {name.words[0] for name in naming.names[3:]} == set(listed)


def test_suggest__empty_classes_no_labels_and_few_words() -> None:
    found = images(["ant", "bee"])
    nameless = Classes((), (), (), 3).discovered(())
    naming = suggest_names(found, nameless, [], ["ant"], encode)
    assert naming.check == (0, None, None, None)
    assert [len(name.words) for name in naming.names] in ([1, 0, 0], [0, 1, 0])
    assert naming.names[2] == (2, 0, [], None, False, [], [])
    assert not any(name.likely for name in naming.names)


def test_choose__shares_words_out_like_the_best_permutation() -> None:
    scores = torch.rand(3, 5, generator=torch.Generator().manual_seed(5))
    chosen = assign_words(scores, [], None)
    best = max(
        permutations(range(5), 3), key=lambda ws: sum(float(scores[r, w]) for r, w in enumerate(ws))
    )
    assert [choice.words[0] for choice in chosen] == list(best)
    for row, choice in zip(scores.tolist(), chosen, strict=True):
        first = choice.words[0]
        rest = sorted((w for w in range(5) if w != first), key=lambda w: -row[w])
        assert choice.words == [first, *rest]
        assert choice.margin == pytest.approx(row[first] - row[rest[0]])


def test_choose__a_given_word_needs_its_margin_unless_there_is_one_for_each() -> None:
    scores = torch.tensor([[0.5, 0.6, 0.1], [0.4, 0.0, 0.2]])
    assert [c.words[0] for c in assign_words(scores, [0], None)] == [1, 0]
    assert [c.words[0] for c in assign_words(scores, [0], -0.2)] == [0, 2]  # 0 fits the first best
    assert [c.words[0] for c in assign_words(scores, [0, 2], None)] == [0, 2]


def test_threshold__the_smallest_margin_that_can_be_trusted() -> None:
    assert threshold([0.9, 0.8, 0.7, 0.6, 0.5], [True, True, True, False, True]) == 0.5
    assert threshold([0.9, 0.8, 0.7, 0.6, 0.5], [True, True, True, False, False]) == 0.7
    assert threshold([0.9, 0.8, 0.7], [False, True, True]) is None
    assert threshold([0.9, 0.8], [True, True]) is None, f"fewer than {FEWEST}"
    assert threshold([], []) is None


def test_trial__counts_first_words_and_first_five() -> None:
    scores = torch.eye(4, 9) + torch.arange(9) / 100
    assert check_known_classes(scores, [0, 1, 2, 3])[:3] == (4, 1.0, 1.0)
    assert check_known_classes(scores, [0, 1, 8, 4])[:3] == (
        4,
        0.5,
        0.75,
    )  # 4 is the sixth of its class


def test_examples__typical_ones_differ_and_doubtful_ones_are_others() -> None:
    found = images(["ant", "bee"], each=20, noise=0.4)
    z = found.z.clone()
    z[1:5] = z[0]  # five that look the same
    found = ClassifiedImages(z, found.predicted, found.margin)
    typical, doubtful = example_images(found, 0)
    rows = range(20)
    centre = normalize(z[:20].mean(0), dim=0)
    order = sorted(rows, key=lambda i: (-float(z[i] @ centre), i))
    kept: list[int] = []
    for i in order:
        if len(kept) < 9 and all(float(z[i] @ z[j]) <= SAME for j in kept):
            kept.append(i)
    assert typical == kept
    assert len(set(typical) & set(range(5))) <= 1
    rest = sorted((i for i in rows if i not in kept), key=lambda i: (float(found.margin[i]), i))
    assert doubtful == rest[:6]
    assert example_images(found, 1)[0][0] >= 20
    assert example_images(ClassifiedImages(z[:0], found.predicted[:0], found.margin[:0]), 0) == (
        [],
        [],
    )


def test_first_spellings__keep_their_order() -> None:
    names = ["Polar bear", "cat", "polar_bear", "ant", "polar-bear", "CAT", "dog"]
    assert first_spellings(names) == [0, 1, 3, 6]


class Says:
    """A captioner that has its answers ready, and notes what it is asked."""

    def __init__(self, *answers: str | None) -> None:
        self.answers, self.requests = list(answers), list[Any]()

    def describe(self, requests: Sequence[Any], context: Any, log: Any) -> list[str | None]:
        self.requests += requests
        return [self.answers.pop(0) for _ in requests]


def test_asked__once_more_where_names_are_alike_then_numbers() -> None:
    says = Says("A Dog.", "the dog", "dog", "An owl", None, "a puppy", "dog!", "Dog")
    typical = {3: [1, 2], 4: [5], 5: [6], 6: [8, 9], 7: [7], 8: []}
    names = ask_names(says, CaptionContext(None, None, None), typical, print)  # type: ignore[arg-type]
    assert names == {3: "puppy", 4: "dog 1", 5: "dog 2", 6: "owl", 7: None, 8: None}
    assert [request.rows for request in says.requests[5:]] == [(1, 2), (5,), (6,)]
    assert {request.variant for request in says.requests[5:]} == {1}
    assert all(request.question.startswith(QUESTION) for request in says.requests)


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("A Golden Retriever.", "golden retriever"),
        ('"the owl"', "owl"),
        ("**Red fox.**", "red fox"),
        ("红狐。", "红狐"),
        ("<think>A dog? Its ears are those of a fox.</think>\n\nA red fox", "red fox"),
        ("  an\n owl\x1b[2J ", "owl[2j"),
        ("gpj\u202eowl", "gpjowl"),
        ("{0.__class__} <b>", "{0.__class__} <b>"),
        ("anteater", "anteater"),
        ("these photos show a kind of dog", None),
        ("x" * (LONGEST + 1), None),
        ("", None),
        ("The", "the"),
        (None, None),
    ],
)
def test_phrase__is_a_short_line_or_nothing(answer: str | None, name: str | None) -> None:
    assert answer_to_name(answer) == name


def test_read_words__of_a_file_and_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufeffpolar bear\r\ncat\n\n", encoding="utf-8")
    assert read_words(path) == ["polar bear", "cat"]
    with pytest.raises(RequestError, match="cannot be read"):
        read_words(tmp_path / "none.txt")


def test_nouns__are_everyday_words_in_order() -> None:
    words = read_words(None)
    assert 3000 <= len(words) <= 8000
    assert words == sorted(set(words))
    for word in words:
        assert re.fullmatch("[a-z]{3,}(-[a-z]+)*( [a-z]+)*", word), word
        assert unicodedata.is_normalized("NFC", word)
    common = "dog airplane ship truck horse frog apple milk shirt cat deer bird automobile boat"
    common += " bicycle guitar rose church bridge mountain beach river tree nurse shoe table"
    assert set(common.split()) <= set(words)
    hurtful = "corpse bitch bastard prostitute slave gypsy nigger savage idiot cunt slut noose"
    assert not set(hurtful.split()) & set(words)
    beside = (Path(__file__).parents[2] / "src/anyclass/data/nouns_licence.txt").read_text()
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in beside
