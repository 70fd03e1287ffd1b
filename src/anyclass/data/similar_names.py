"""Class names that look alike, so that one of them may be a slip of the other."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from html import unescape
from typing import NamedTuple

MIN_LETTERS = 7
"""Minimum length of names that count as similar by one changed letter: `shirt` and `skirt` do not.

With 7, of the 1,000 class names of ImageNet only `fountain` and `mountain` are reported for it."""


class SimilarNames(NamedTuple):
    """Two names that look alike."""

    first: str
    """The one that stands first in the list."""
    second: str
    """The other one."""
    difference: str
    """What they differ in, in words."""


def similar_names(names: Sequence[str]) -> list[SimilarNames]:
    """Pairs of names that differ in case, spaces, invisible characters, number or one letter.

    Each name is paired with the first one that it resembles, by the smallest difference. The time
    is linear in the number of names.
    """
    found: dict[str, SimilarNames] = {}
    forms = dict(zip(names, names, strict=True))
    for difference, simplify in STEPS:
        forms = {name: simplify(form) for name, form in forms.items()}
        first: dict[str, str] = {}
        for name, form in forms.items():
            other = first.setdefault(form, name)
            if other != name and form and name not in found:
                found[name] = SimilarNames(other, name, difference)
    for other, name in _one_letter_apart(forms):
        found.setdefault(name, SimilarNames(other, name, "one letter"))
    return [found[name] for name in names if name in found]


def _visible(name: str) -> str:
    """A name with plain spaces, without characters that cannot be seen."""
    kept = (letter for letter in name if unicodedata.category(letter) != "Cf")
    return " ".join("".join(kept).split())


def _compatible(name: str) -> str:
    """A name with full-width letters and ligatures as plain letters."""
    return unicodedata.normalize("NFKC", name)


def _joined(name: str) -> str:
    """A name without spaces, `_`, `-` and full stops."""
    return re.sub(r"[\s_.\-\u2010-\u2015]+", "", name)


def _unaccented(name: str) -> str:
    """A name without accents."""
    letters = unicodedata.normalize("NFD", name)
    return "".join(letter for letter in letters if unicodedata.category(letter) != "Mn")


def _singular(name: str) -> str:
    """A name without an English plural at its end."""
    if len(name) < 4 or name.endswith(("ss", "us", "is")):
        return name
    if name.endswith("ies"):
        return name[:-3] + "y"
    if name.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        return name[:-2]
    return name.removesuffix("s")


STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("HTML entities", unescape),
    ("invisible characters or spaces", _visible),
    ("full-width or other variants of letters", _compatible),
    ("case", str.casefold),
    ("spaces, hyphens or underscores", _joined),
    ("accents", _unaccented),
    ("singular and plural", _singular),
)
"""What two names may differ in, and what removes the difference; each builds on those before."""


def _one_letter_apart(forms: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Pairs of names one insertion, deletion, substitution or swap apart, digits aside.

    Two words are at most one edit apart only if they share a form with at most one letter removed.
    """
    by_key: dict[str, list[str]] = defaultdict(list)
    for name, form in forms.items():
        if len(form) < MIN_LETTERS:
            continue
        near: list[str] = []
        for key in {form, *(form[:i] + form[i + 1 :] for i in range(len(form)))}:
            near += by_key[key]
            by_key[key].append(name)
        for other in dict.fromkeys(near):
            if _is_one_edit(form, forms[other]):
                yield other, name
                break


def _is_one_edit(a: str, b: str) -> bool:
    """Whether one edit that touches no digit turns `a` into `b`."""
    if a == b:
        return False
    shortest = min(len(a), len(b))
    start = 0
    while start < shortest and a[start] == b[start]:
        start += 1
    end = 0
    while end < shortest - start and a[-1 - end] == b[-1 - end]:
        end += 1
    old = a[start : len(a) - end]
    new = b[start : len(b) - end]
    swapped = len(old) == 2 and old == new[::-1]
    changed = len(old) <= 1 and len(new) <= 1
    return (swapped or changed) and not any(letter.isdigit() for letter in old + new)
