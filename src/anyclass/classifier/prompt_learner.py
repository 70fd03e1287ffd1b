"""Learned words before a class name: texts with places that are filled with vectors.

    [SOS] v_1 ... v_L {name}. [EOS]        CoOp, Zhou et al., IJCV 2022, arXiv 2109.01134

Letters: C classes, L places, T tokens, W width of a word, S texts at once.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.backbone import Backbone, Words
from anyclass.errors import ModelError, RequestError

FILLERS = (("X", "Y"), ("a", "of"), ("photo", "the"), ("one", "two"), ("red", "blue"))
"""Pairs of words that may stand for a place: of a pair that is one token each, places are where
two texts differ."""

AT_ONCE = 256
"""Texts that are encoded at once where nothing is learned."""


class PromptLearner:
    """Texts of C classes with L places before the name; tokenised and embedded once."""

    def __init__(self, clip: Backbone, prompts: Sequence[str], length: int) -> None:
        """Texts `X ... X {prompt}.` with `length` places.

        Raises:
            RequestError: the model reads no text of that length.
            ModelError: the tokenizer has no two words that are one token each.
        """
        self._clip, self._prompts, self.length = clip, list(prompts), length
        self._filler, self.place, self._words = self._find()

    def __len__(self) -> int:
        """C."""
        return len(self._prompts)

    def filled(self, context: Float[Tensor, "S L W"], c: Int[Tensor, " S"]) -> Words:
        """Texts of classes `c`, their places filled, cut to the longest of them.

        Args:
            context: vectors of the places, of each text.
            c: classes.
        """
        ids, c = self._words.ids, c.to(self._words.ids.device)
        longest = int(self._lengths[c].max())
        embeddings = self._words.embeddings[c, :longest]
        first = self.place
        parts = [embeddings[:, :first], context, embeddings[:, first + self.length :]]
        return Words(ids[c, :longest], torch.cat(parts, dim=1))

    def features(
        self, context: Float[Tensor, "L W"], c: Int[Tensor, " S"] | None = None
    ) -> Float[Tensor, "S D"]:
        """Unit features of classes (None: all) that share one context."""
        c = torch.arange(len(self._prompts)) if c is None else c
        return self._clip.prompts(self.filled(context.expand(len(c), -1, -1), c))

    @torch.no_grad()
    def spoken(self, words: str) -> Float[Tensor, "L W"]:
        """Vectors of the places that say `words`.

        Raises:
            RequestError: the words are not `length` tokens.
        """
        said = self._clip.words([f"{words} {self._prompts[0]}."])
        ids = self._words.ids[:1]
        length = int(self._lengths[0])
        inside = slice(self.place, self.place + self.length)
        outside = torch.ones(length, dtype=torch.bool, device=ids.device)
        outside[inside] = False
        short = said.ids[0, :length]
        if len(short) < length or not torch.equal(short[outside], ids[0, :length][outside]):
            raise RequestError(
                f"{words!r} is not {self.length} words of this model; say as many as there are "
                "places, or start from random vectors"
            )
        return said.embeddings[0, inside].clone()

    @torch.no_grad()
    def all_features(self, context: Float[Tensor, "L W"]) -> Float[Tensor, "C D"]:
        """Unit features of all classes that share one context, few at a time, without a graph."""
        parts = torch.arange(len(self)).split(AT_ONCE)
        return torch.cat([self.features(context, c) for c in parts])

    @property
    def width(self) -> int:
        """W."""
        return self._words.embeddings.shape[-1]

    @property
    def device(self) -> torch.device:
        """Where the texts lie."""
        return self._words.embeddings.device

    @property
    def cut_short(self) -> list[str]:
        """Prompts so long that the model may not read their end: a longer one reads the same."""
        return [
            prompt for prompt in self._prompts if self._reads(prompt) == self._reads(f"{prompt} x")
        ]

    def _reads(self, prompt: str) -> list[int]:
        ids: list[int] = self._clip.words([self._text(self._filler, prompt)]).ids[0].tolist()
        return ids

    @cached_property
    def _lengths(self) -> Int[Tensor, " C"]:
        return self._clip.text_lengths(self._words.ids)

    @torch.no_grad()
    def _find(self) -> tuple[str, int, Words]:
        """What stands in the places, the first of them, and the texts."""
        for pair in FILLERS:
            ours, theirs = (
                self._clip.words([self._text(filler, p) for p in self._prompts]) for filler in pair
            )
            if ours.ids.shape != theirs.ids.shape:
                continue
            differ = ours.ids != theirs.ids
            places = differ[0].nonzero()[:, 0].tolist()
            alike = bool((differ == differ[0]).all())
            if not (places and alike and places == list(range(places[0], places[-1] + 1))):
                continue
            if len(places) == self.length:
                return pair[0], places[0], ours
            if len(places) < self.length:
                raise RequestError(
                    f"{self._clip.model_id} reads {len(places)} words at most before a name, "
                    f"not {self.length}"
                )
        raise ModelError(
            f"{self._clip.model_id}: its tokenizer leaves no place for {self.length} learned words"
        )

    def _text(self, filler: str, prompt: str) -> str:
        return " ".join([filler] * self.length + [f"{prompt}."])
