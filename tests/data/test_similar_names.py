"""Class names that look alike: what differs is named, and different words stay apart."""

from itertools import combinations

import pytest

from anyclass.data import similar_names


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ("AT&T", "AT&amp;T", "HTML entities"),
        ("goldfish", "gold\u200bfish", "invisible characters or spaces"),
        ("gold fish", "gold\u00a0fish", "invisible characters or spaces"),
        ("cat", "\uff43\uff41\uff54", "full-width or other variants of letters"),
        ("cat", "Cat", "case"),
        ("Stra\u00dfe", "STRASSE", "case"),
        ("red panda", "red-panda", "spaces, hyphens or underscores"),
        ("red_panda", "Redpanda", "spaces, hyphens or underscores"),
        ("caf\u00e9", "cafe", "accents"),
        ("dog", "Dogs", "singular and plural"),
        ("daisy", "daisies", "singular and plural"),
        ("box", "boxes", "singular and plural"),
        ("sunflower", "sunflwoer", "one letter"),
        ("sunflower", "sunfower", "one letter"),
        ("sunflower", "sunfllower", "one letter"),
        ("sunflower", "sunfiower", "one letter"),
    ],
)
def test_similar_names__says_what_differs(first: str, second: str, difference: str) -> None:
    assert similar_names(["kite", first, "boat", second]) == [(first, second, difference)]


@pytest.mark.parametrize(
    "names",
    [
        ("shirt", "skirt"),
        ("BMW 320 sedan", "BMW 330 sedan"),
        ("glass", "glas"),
        ("bus", "bu"),
        ("longsleeve", "longslvve"),
        ("dog", "cat"),
    ],
)
def test_similar_names__leaves_different_words_alone(names: tuple[str, str]) -> None:
    assert similar_names(names) == []


def test_similar_names__pairs_each_name_with_the_first_one() -> None:
    names = ["Red Panda", "dog", "red-panda", "red pandas", "RED_PANDA"]
    assert [pair[:2] for pair in similar_names(names)] == [
        ("Red Panda", "red-panda"),
        ("Red Panda", "red pandas"),
        ("Red Panda", "RED_PANDA"),
    ]


def test_similar_names__finds_every_pair_that_a_loop_over_edits_finds() -> None:
    """Words of 7 letters out of two: all single edits, against all pairs."""
    words = ["".join("ab"[n >> i & 1] for i in range(7)) for n in range(0, 128, 5)]
    alike = {
        (a, b)
        for a, b in combinations(words, 2)
        if b in {a[:i] + letter + a[i + 1 :] for i in range(7) for letter in "ab"}
        or b in {a[:i] + a[i + 1] + a[i] + a[i + 2 :] for i in range(6)}
    }
    found = {pair[:2] for pair in similar_names(words)}
    assert found <= alike
    assert {b for _, b in found} == {b for _, b in alike}
