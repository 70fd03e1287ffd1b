"""Common nouns of visible things, from WordNet: possible names of classes, and negative texts."""

from functools import cache
from importlib.resources import files


@cache
def nouns() -> tuple[str, ...]:
    """All nouns, in alphabetical order."""
    return tuple((files("anyclass.data") / "nouns.txt").read_text("utf-8").split("\n")[:-1])


def some_nouns(count: int) -> tuple[str, ...]:
    """About `count` nouns, at equal distances in the alphabet."""
    step = max(1, len(nouns()) // max(1, count))
    return nouns()[::step][:count]
