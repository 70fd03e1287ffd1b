"""Captioner without a language model: it combines the words most similar to the image features."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import normalize
from tyro.conf import Suppress

from anyclass.backbone import Backbone
from anyclass.captioning.captioner import CaptionContext, CaptionRequest
from anyclass.captioning.cost import CostEstimate
from anyclass.log import Log


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Vocabulary:
    """Describe images by word lists: colours, materials, textures, shapes, parts, scenes.

    For each kind of word, it takes the one whose text feature is most similar to the image feature
    (for a group, the mean feature). Similarities are standardised over the images of the folder,
    and the kinds with the highest scores make the sentence. No language model is needed, and the
    sentence contains nothing that the backbone does not know.
    """

    kind: Suppress[Literal["vocabulary"]] = "vocabulary"
    """Type of captioner in a saved configuration."""
    most: Annotated[int, Field(gt=0)] = 4
    """Maximum number of words in a description, each of another kind."""
    words: tuple[str, ...] = ()
    """Your own words, as a further kind."""

    def describe(
        self, requests: Sequence[CaptionRequest], context: CaptionContext, log: Log
    ) -> list[str | None]:
        """Return one sentence per request, from the unit features of the images."""
        if not requests:
            return []
        kinds = _shipped_words() | ({"own": self.words} if self.words else {})
        means = torch.stack([context.features[list(r.rows)].mean(0) for r in requests])
        best: dict[str, list[tuple[float, str]]] = {}
        for kind, words in kinds.items():
            scores = self._similarities(kind, words, context.clip, context.features, means)
            best[kind] = _best(words, scores, requests)
        sentences: list[str | None] = []
        for i, request in enumerate(requests):
            words_of = self._highest({kind: rows[i] for kind, rows in best.items()})
            sentences.append(_english(words_of, request.noun))
        return sentences

    @property
    def answered_by(self) -> str:
        """Empty: no language model is used."""
        return ""

    def estimate(self, calls: int) -> CostEstimate:
        """No cost: no language model is used."""
        return CostEstimate()

    @torch.no_grad()
    def _similarities(
        self,
        kind: str,
        words: Sequence[str],
        clip: Backbone,
        features: Float[Tensor, "N D"],
        means: Float[Tensor, "R D"],
    ) -> Float[Tensor, "R V"]:
        """Standardised similarity of each word of one kind to the images of each request."""
        texts = clip.texts([f"a photo of {_PHRASES[kind].replace('{}', word)}." for word in words])
        texts = texts.to(features)
        return _standardised(normalize(means, dim=-1) @ texts.T, features @ texts.T)

    def _highest(self, best: Mapping[str, tuple[float, str]]) -> dict[str, str]:
        """The words of the `most` kinds with the highest scores."""
        kinds = sorted(best, key=lambda kind: -best[kind][0])[: self.most]
        return {kind: best[kind][1] for kind in kinds}


def _best(
    words: Sequence[str], scores: Float[Tensor, "R V"], requests: Sequence[CaptionRequest]
) -> list[tuple[float, str]]:
    """Score and word of each request: the best one, or the (variant + 1)-th best."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    variant = torch.tensor([min(request.variant, len(words) - 1) for request in requests])
    chosen = order.gather(1, variant.to(order)[:, None])
    best = scores.gather(1, chosen)[:, 0].tolist()
    return [(score, words[w]) for score, w in zip(best, chosen[:, 0].tolist(), strict=True)]


_PHRASES = {
    "colours": "something {}",
    "materials": "something made of {}",
    "textures": "something {}",
    "shapes": "something {}",
    "parts": "something with {}",
    "scenes": "a {}",
    "own": "{}",
}


@cache
def _shipped_words() -> dict[str, tuple[str, ...]]:
    """Words of the curated vocabulary, by kind."""
    text = files("anyclass.captioning").joinpath("vocabulary.json").read_text("utf-8")
    return {kind: tuple(words) for kind, words in json.loads(text).items()}


def _standardised(
    similarities: Float[Tensor, "R V"], of_all: Float[Tensor, "N V"]
) -> Float[Tensor, "R V"]:
    """Similarities standardised per word over all images of the folder.

    With a single image there are no statistics: then the mean over the words is subtracted.
    """
    if len(of_all) < 2:
        return similarities - similarities.mean(1, keepdim=True)
    return (similarities - of_all.mean(0)) / of_all.std(0).clamp_min(1e-6)


def _english(words: Mapping[str, str], noun: str) -> str:
    """Sentence such as: a furry, round, brown object made of wool with ears, forest, striped."""
    kinds = [kind for kind in ("textures", "shapes", "colours") if kind in words]
    adjectives = ", ".join(words[kind] for kind in kinds)
    phrase = f"{adjectives} {noun}" if adjectives else noun
    sentence = f"an {phrase}" if phrase.lower().startswith(tuple("aeiou")) else f"a {phrase}"
    sentence += f" made of {words['materials']}" if "materials" in words else ""
    sentence += f" with {words['parts']}" if "parts" in words else ""
    sentence += f", {words['scenes']}" if "scenes" in words else ""
    return sentence + (f", {words['own']}" if "own" in words else "") + "."
