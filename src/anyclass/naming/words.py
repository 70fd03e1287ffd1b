"""Candidate words for the names of discovered classes: their list, spellings and text features.

Letters: V words, D dimensions.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.data import Classes
from anyclass.data.nouns import nouns
from anyclass.features.text import cached_class_features
from anyclass.log import Log

Encode = Callable[[Sequence[str]], Tensor]
"""Words -> unit text features (V, D)."""


@lru_cache(maxsize=100_000)
def normal_form(name: str) -> str:
    """Form of a name that ignores case, spaces, `_` and `-`."""
    return " ".join(re.sub(r"[\s_-]+", " ", name).casefold().split())


def first_spellings(names: Sequence[str]) -> list[int]:
    """Indices of the names, in their order, without later spellings of the same name."""
    first: dict[str, int] = {}
    for i, name in enumerate(names):
        first.setdefault(normal_form(name), i)
    return list(first.values())


def read_words(path: Path | None) -> list[str]:
    """Read candidate words from a file, one per line, or return the shipped nouns.

    Raises:
        RequestError: the file cannot be used.
    """
    return list(nouns() if path is None else Classes.read(path).names)


def word_encoder(clip: Backbone, template: str, log: Log) -> Encode:
    """Encoder of words in a template into unit text features, cached on disk."""

    def encode(words: Sequence[str]) -> Float[Tensor, "V D"]:
        return cached_class_features(clip, words, [template], log).cpu().float()

    return encode
