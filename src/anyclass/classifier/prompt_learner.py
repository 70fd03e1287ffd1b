"""Prompt learner: class prompts with learned context vectors before the class name.

    [SOS] v_1 ... v_L {name}. [EOS]        CoOp, Zhou et al., IJCV 2022, arXiv 2109.01134

Letters: C classes, L context positions, T tokens, W width of an embedding, S texts.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.backbone import Backbone, Words
from anyclass.errors import ModelError, RequestError

FILLERS = (("X", "Y"), ("a", "of"), ("photo", "the"), ("one", "two"), ("red", "blue"))
"""Candidate pairs of placeholder words, one token each: texts with either word of a pair differ at
the context positions alone."""

AT_ONCE = 256
"""Batch size of the text encoder without gradients."""


class PromptLearner:
    """Prompts of C classes with L context positions before the name; embeddings are cached."""

    def __init__(self, clip: Backbone, prompts: Sequence[str], length: int) -> None:
        """Tokenise `X ... X {prompt}.` with `length` context positions.

        Args:
            clip: the model.
            prompts: class prompts.
            length: L, number of context positions.

        Raises:
            RequestError: prompts of that length do not fit into the model.
            ModelError: the tokenizer has no two placeholder words of one token each.
        """
        self._clip = clip
        self._prompts = list(prompts)
        self.length = length
        self._filler, self.place, self._words = self._find_positions()

    def __len__(self) -> int:
        """C, number of classes."""
        return len(self._prompts)

    def with_context(self, context: Float[Tensor, "S L W"], c: Int[Tensor, " S"]) -> Words:
        """Token embeddings of classes `c` with context vectors, cut to the longest of the texts.

        Args:
            context: context vectors of each text.
            c: classes.
        """
        ids = self._words.ids
        c = c.to(ids.device)
        longest = int(self._lengths[c].max())
        embeddings = self._words.embeddings[c, :longest]
        first = self.place
        parts = [embeddings[:, :first], context, embeddings[:, first + self.length :]]
        return Words(ids[c, :longest], torch.cat(parts, dim=1))

    def features(
        self, context: Float[Tensor, "L W"], c: Int[Tensor, " S"] | None = None
    ) -> Float[Tensor, "S D"]:
        """Unit text features of classes (None: all) with one shared context."""
        c = torch.arange(len(self._prompts)) if c is None else c
        return self.encode(context.expand(len(c), -1, -1), c)

    def encode(self, context: Float[Tensor, "S L W"], c: Int[Tensor, " S"]) -> Float[Tensor, "S D"]:
        """Unit text features of classes `c`, each with its own context."""
        return self._clip.prompts(self.with_context(context, c))

    @torch.no_grad()
    def embed_words(self, words: str) -> Float[Tensor, "L W"]:
        """Context vectors of the embeddings of `words`.

        Raises:
            RequestError: the words are not `length` tokens.
        """
        tokens = self._clip.words([f"{words} {self._prompts[0]}."])
        ids = self._words.ids[:1]
        length = int(self._lengths[0])
        inside = slice(self.place, self.place + self.length)
        outside = torch.ones(length, dtype=torch.bool, device=ids.device)
        outside[inside] = False
        short = tokens.ids[0, :length]
        if len(short) < length or not torch.equal(short[outside], ids[0, :length][outside]):
            raise RequestError(
                f"{words!r} is not {self.length} tokens of this model; give as many as there are "
                "context vectors, or initialise with random vectors"
            )
        return tokens.embeddings[0, inside].clone()

    @torch.no_grad()
    def all_features(self, context: Float[Tensor, "L W"]) -> Float[Tensor, "C D"]:
        """Unit text features of all classes with one shared context, in batches, no gradients."""
        parts = torch.arange(len(self)).split(AT_ONCE)
        return torch.cat([self.features(context, c) for c in parts])

    @property
    def width(self) -> int:
        """W, width of a token embedding."""
        return self._words.embeddings.shape[-1]

    @property
    def device(self) -> torch.device:
        """Device of the embeddings."""
        return self._words.embeddings.device

    @property
    def cut_short(self) -> list[str]:
        """Prompts that may exceed the context length: a longer one gives the same tokens."""
        return [
            prompt
            for prompt in self._prompts
            if self._token_ids(prompt) == self._token_ids(f"{prompt} x")
        ]

    def _token_ids(self, prompt: str) -> list[int]:
        """Token ids of one prompt."""
        ids: list[int] = self._clip.words([self._text(self._filler, prompt)]).ids[0].tolist()
        return ids

    @cached_property
    def _lengths(self) -> Int[Tensor, " C"]:
        """Number of tokens of each prompt."""
        return self._clip.text_lengths(self._words.ids)

    @torch.no_grad()
    def _find_positions(self) -> tuple[str, int, Words]:
        """Find the placeholder word, its first position, and the tokenised texts."""
        for filler, other in FILLERS:
            words = self._tokenise(filler)
            other_words = self._tokenise(other)
            if words.ids.shape != other_words.ids.shape:
                continue
            differ = words.ids != other_words.ids
            places = differ[0].nonzero()[:, 0].tolist()
            same_places = bool((differ == differ[0]).all())
            if not (places and same_places and places == list(range(places[0], places[-1] + 1))):
                continue
            if len(places) == self.length:
                return filler, places[0], words
            if len(places) < self.length:
                raise RequestError(
                    f"{self._clip.model_id} has room for at most {len(places)} context vectors "
                    f"before a name, not {self.length}"
                )
        raise ModelError(
            f"the tokenizer of {self._clip.model_id} does not support {self.length} context vectors"
        )

    def _tokenise(self, filler: str) -> Words:
        """Tokenise the prompts of all classes with a placeholder word."""
        return self._clip.words([self._text(filler, prompt) for prompt in self._prompts])

    def _text(self, filler: str, prompt: str) -> str:
        """Prompt with placeholder words at the context positions."""
        return " ".join([filler] * self.length + [f"{prompt}."])
