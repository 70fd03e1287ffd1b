"""Groups, pools, drawing and encoding of texts."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.captioning import CaptionContext, CaptionRequest
from anyclass.captioning.captions import (
    NONE,
    Answers,
    CaptionRequests,
    Captions,
    TextFeatures,
    draw_groups,
)
from anyclass.data import Classes, ImageDataset
from anyclass.log import Log

LABELS = torch.tensor([2, 0, 2, 2, 0, 2, 4, 2, 4, 2, 4])  # 2, 0, 6, 0 and 3 images of 5 classes


@pytest.fixture(scope="module")
def clip(tiny_clip: Callable[..., str]) -> Backbone:
    return Backbone.load(tiny_clip("causal"), engine="torch")


class Clerk:
    """Answers with what it is told to, and remembers the questions."""

    def __init__(self, answers: dict[CaptionRequest, str | None]) -> None:
        self.answers = answers
        self.asked: list[list[CaptionRequest]] = []

    def describe(
        self, requests: Sequence[CaptionRequest], context: CaptionContext, log: Log
    ) -> list[str | None]:
        self.asked.append(list(requests))
        return [self.answers[request] for request in requests]


def context(clip: Backbone, images: int) -> CaptionContext:
    dataset = ImageDataset.of([f"{i}.png" for i in range(images)])
    return CaptionContext(dataset, clip, torch.zeros(images, 24))


def silent(**_: object) -> None:
    """A log."""


# --- groups


@pytest.mark.parametrize("size", [1, 3, 4])
def test_draw_groups__members_number_and_repeats(size: int) -> None:
    groups = draw_groups(LABELS, 5, size, 4, seed=0)
    wanted = {1: [2, 0, 4, 0, 3], 3: [1, 0, 4, 0, 1], 4: [1, 0, 4, 0, 1]}
    assert [len(pool) for pool in groups] == wanted[size]  # min(4, images), or one of all
    for c, pool in enumerate(groups):
        members = set((LABELS == c).nonzero()[:, 0].tolist())
        for rows in pool:
            assert len(rows) == len(set(rows)) == min(size, len(members))
            assert set(rows) <= members


def test_draw_groups__no_image_twice_and_none_alone() -> None:
    labels = torch.tensor([1, 0, 2, 2, 0, 2, 0, 0, 0, 3, 3, 3, 3])  # 5, 1, 3 and 4 images
    groups = draw_groups(labels, 4, 4, 32, seed=1)
    assert [len(pool) for pool in groups] == [5, 0, 1, 1]
    assert groups[2] == [(2, 3, 5)], "three images, not four with one of them twice"
    assert sorted(groups[3][0]) == [9, 10, 11, 12]
    assert draw_groups(labels, 4, 1, 32, seed=1)[1] == [(0,)], "groups of one were asked for"


def test_draw_groups__uniform_and_seeded() -> None:
    drawn = [rows for seed in range(300) for rows in draw_groups(LABELS, 5, 2, 4, seed)[2]]
    for row in (0, 2, 3, 5, 7, 9):
        share = sum(row in rows for rows in drawn) / len(drawn)
        assert share == pytest.approx(2 / 6, abs=0.05)
    assert draw_groups(LABELS, 5, 2, 4, 7) == draw_groups(LABELS, 5, 2, 4, 7)
    assert draw_groups(LABELS, 5, 2, 4, 7) != draw_groups(LABELS, 5, 2, 4, 8)


# --- questions and answers

IMAGES = [[CaptionRequest((i,), "?", "thing", r) for r in range(2)] for i in range(3)]
GROUPS = [[CaptionRequest((0, 1), "??", "thing"), CaptionRequest((1, 0), "??", "thing")], []]
SAID: dict[CaptionRequest, str | None] = {
    IMAGES[0][0]: "a red toy",
    IMAGES[0][1]: "a big kite",
    IMAGES[1][0]: None,
    IMAGES[1][1]: "a red toy",
    IMAGES[2][0]: "",
    IMAGES[2][1]: None,
    GROUPS[0][0]: "many toys",
    GROUPS[0][1]: None,
}


@pytest.fixture
def captions(clip: Backbone) -> Captions:
    answers = Answers(Clerk(SAID), context(clip, 3), silent)
    return Captions.of(["a dog", "a ring"], CaptionRequests(IMAGES, GROUPS), answers)


def test_captions__number_distinct_texts_and_leave_gaps(captions: Captions) -> None:
    assert captions.strings == ["a dog", "a ring", "a red toy", "a big kite", "many toys"]
    assert captions.classes.tolist() == [0, 1]
    assert captions.images.tolist() == [[2, 3], [NONE, 2], [NONE, NONE]]
    assert captions.groups.tolist() == [[4, NONE], [NONE, NONE]]


def test_answers__ask_for_nothing_twice(clip: Backbone) -> None:
    clerk = Clerk(SAID)
    answers = Answers(clerk, context(clip, 3), silent)
    answers.to(IMAGES[0])
    known = answers.to([*IMAGES[0], *IMAGES[1]])
    answers.to(IMAGES[1])
    assert clerk.asked == [IMAGES[0], IMAGES[1]]
    assert [known[request] for request in IMAGES[1]] == [None, "a red toy"]
    assert CaptionRequests([*IMAGES, IMAGES[0]], GROUPS).requests == list(SAID)


def test_rows__say_what_each_text_is_about(captions: Captions) -> None:
    files, unlabelled = ("x.png", "y.png", "z.png"), np.full(3, -1)
    rows = captions.rows(ImageDataset(Path(), files, unlabelled, Classes.of(["dog", "ring"])))
    assert rows[:3] == [
        {"kind": "class", "class": "dog", "text": "a dog"},
        {"kind": "class", "class": "ring", "text": "a ring"},
        {"kind": "image", "file_name": "x.png", "text": "a red toy"},
    ]
    assert [row["text"] for row in rows[4:8]] == [None, "a red toy", None, None]
    group = {"kind": "group", "class": "dog", "files": ["y.png", "x.png"], "text": None}
    assert rows[8:] == [group | {"files": ["x.png", "y.png"], "text": "many toys"}, group]


# --- drawing


def drawn(captions: Captions, pools: list[list[int]], kinds: tuple[str, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    index, labels = torch.tensor([2, 0, 1, 0]), torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]])
    return captions.draw(index, labels, torch.tensor(pools), kinds, generator)


def test_draw__texts_of_both_branches(captions: Captions) -> None:
    numbers = drawn(captions, [[0, 1, 0, 1]], ("class", "image", "group"), 0)
    assert numbers.shape == (2, 3, 4)
    assert numbers[:, 0].tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]
    assert torch.equal(numbers[0, 1:], numbers[1, 1:])
    assert numbers[0, 1, [0, 2]].tolist() == [NONE, 2]  # of two answers the one that is there
    assert numbers[0, 2].tolist() == [4, NONE, 4, NONE]  # an empty pool drops the text alone


def test_draw__each_of_several_texts_comes_up(captions: Captions) -> None:
    seen = [int(drawn(captions, [[0] * 4], ("image",), seed)[0, 0, 1]) for seed in range(100)]
    assert set(seen) == {2, 3}
    assert 30 < seen.count(2) < 70


def test_draw__second_pool_falls_back_to_the_first(captions: Captions) -> None:
    numbers = drawn(captions, [[0, 1, 0, 1], [1, 0, 0, 1]], ("group",), 0)
    assert numbers[:, 0].tolist() == [[4, NONE, 4, NONE], [4, 4, 4, NONE]]


def test_draw__two_pools_are_drawn_from_apart() -> None:
    pool = torch.arange(6).expand(2, 6)
    captions = Captions(
        CaptionRequests([], []), [], torch.tensor([0, 1]), torch.empty(4, 0).long(), pool
    )
    apart = [drawn(captions, [[0] * 4, [0] * 4], ("group",), seed) for seed in range(20)]
    assert any(not torch.equal(numbers[0], numbers[1]) for numbers in apart)


def test_draw__never_leaves_the_pool_of_the_label(clip: Backbone) -> None:
    """Group texts say which class they were drawn for."""
    pools = draw_groups(LABELS, 5, 2, 3, 0)
    groups = [[CaptionRequest(rows, "?", "thing") for rows in pool] for pool in pools]
    said = {request: f"of {LABELS[request.rows[0]]}" for pool in groups for request in pool}
    answers = Answers(Clerk(said), context(clip, 11), silent)
    captions = Captions.of(list("abcde"), CaptionRequests([[] for _ in LABELS], groups), answers)
    for seed in range(20):
        generator, index = torch.Generator().manual_seed(seed), torch.arange(11)
        labels = LABELS.expand(2, 11)
        numbers = captions.draw(index, labels, LABELS[None], ("group",), generator)[0, 0]
        assert [captions.strings[n] for n in numbers] == [f"of {c}" for c in LABELS]


# --- features


@pytest.mark.parametrize(
    ("kind", "part"),
    [("causal", "head"), ("causal", "all"), ("siglip", "tail"), ("huggingface", "tail")],
)
def test_text_features__equal_one_by_one_in_value_and_gradient(
    tiny_backbone: Callable[..., Backbone], kind: str, part: str
) -> None:
    clip = tiny_backbone(kind)
    strings = ["a dog", "a photo of a large yellow kite on old paper", "two red rings", "it"]
    numbers = torch.tensor([[[2, 0, NONE], [0, 0, 1]], [[2, 3, 2], [NONE, 1, 0]]])
    probe = torch.randn(2, 2, 3, clip.texts(["it"]).shape[1], generator=torch.manual_seed(0))
    features = TextFeatures(clip, strings, part, frozen=False)(numbers)
    one_by_one = torch.stack(
        [clip.texts([strings[n]])[0] if n >= 0 else 0 * probe[0, 0, 0] for n in numbers.flatten()]
    ).reshape(probe.shape)
    assert torch.allclose(features, one_by_one, atol=1e-5)
    assert not features[numbers == NONE].any()
    trained = [p for name, p in clip.parameters(part).items() if "visual" not in name]
    slopes = [
        torch.autograd.grad((probe * some).sum(), trained, allow_unused=True)
        for some in (features, one_by_one)
    ]
    for fast, slow in zip(*slopes, strict=True):
        assert (fast is None) == (slow is None)
        assert fast is None or torch.allclose(fast, slow, atol=1e-4, rtol=1e-4)


def test_text_features__encode_each_distinct_text_once(
    clip: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, seen = clip.text_tail, []
    monkeypatch.setattr(clip, "text_tail", lambda h, part: seen.append(len(h)) or encode(h, part))
    features = TextFeatures(clip, ["a dog", "a kite", "a ring"], "all", frozen=False)
    features(torch.tensor([[2, 0, 2], [0, 0, 2]]))
    assert seen == [2]


def test_text_features__frozen_have_no_gradient(clip: Backbone) -> None:
    strings = ["a dog", "a big red kite"]
    features = TextFeatures(clip, strings, "all", frozen=True)(torch.tensor([1, NONE, 0]))
    assert not features.requires_grad
    assert torch.allclose(features[[2, 0]], clip.texts(strings), atol=1e-6)


def test_text_features__short_texts_do_not_pay_for_long_ones(
    clip: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two texts at once, of like length, each pair cut to its own; in the order asked for."""
    monkeypatch.setattr("anyclass.captioning.captions.TEXTS_AT_ONCE", 2)
    strings = ["a red toy on a big kite", "a", "a dog", "a photo of a green ring in water"]
    read: list[int] = []
    text = clip._open.text
    whole = text.pooled
    monkeypatch.setattr(text, "pooled", lambda ids: read.append(ids.shape[1]) or whole(ids))
    features = TextFeatures(clip, strings, "all", frozen=False)(torch.tensor([3, 1, 0, 2]))
    assert read[0] < read[1]
    monkeypatch.undo()
    with torch.no_grad():
        wanted = torch.cat([clip.texts([strings[i]]) for i in (3, 1, 0, 2)])
    assert torch.allclose(features, wanted, atol=1e-5)
