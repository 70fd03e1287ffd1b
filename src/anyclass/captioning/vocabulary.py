"""The captioner that needs no language model.

It writes with the words that the backbone finds nearest to what it sees.
"""

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
    """Writes with the nearest words of a list: colours, materials, textures, shapes, parts, scenes.

    No language model is asked: for each kind of word it takes the one whose text feature is nearest
    to the image, or to the mean feature of a group, counted from how near it is to the average
    image of the folder; the surest kinds make the sentence. It knows nothing that the backbone
    does not know, and says it in words the text tower reads.
    """

    kind: Suppress[Literal["vocabulary"]] = "vocabulary"
    """Tells captioners apart in a saved configuration."""
    most: Annotated[int, Field(gt=0)] = 4
    """Words in a description, each of another kind."""
    words: tuple[str, ...] = ()
    """Words of your own, a further kind."""

    def describe(
        self, requests: Sequence[CaptionRequest], context: CaptionContext, log: Log
    ) -> list[str | None]:
        """One sentence for each request, from the unit features of the images."""
        if not requests:
            return []
        clip, features = context.clip, context.features
        kinds = _shipped_words() | ({"own": self.words} if self.words else {})
        seen = torch.stack([features[list(r.rows)].mean(0) for r in requests])
        ranked = {
            kind: _ranked(words, self._near(kind, words, clip, features, seen), requests)
            for kind, words in kinds.items()
        }
        return [
            _english(self._surest({kind: best[i] for kind, best in ranked.items()}), request.noun)
            for i, request in enumerate(requests)
        ]

    def estimate(self, calls: int) -> CostEstimate:
        """No language model is asked: nothing."""
        return CostEstimate()

    @torch.no_grad()
    def _near(
        self,
        kind: str,
        words: Sequence[str],
        clip: Backbone,
        features: Float[Tensor, "N D"],
        seen: Float[Tensor, "R D"],
    ) -> Float[Tensor, "R V"]:
        """How near each word of one kind is to what each request is about."""
        spoken = clip.texts([f"a photo of {_PHRASES[kind].replace('{}', word)}." for word in words])
        spoken = spoken.to(features)
        return _standardised(normalize(seen, dim=-1) @ spoken.T, features @ spoken.T)

    def _surest(self, best: Mapping[str, tuple[float, str]]) -> dict[str, str]:
        """The words of the kinds that are surest, `most` of them."""
        surest = sorted(best, key=lambda kind: -best[kind][0])[: self.most]
        return {kind: best[kind][1] for kind in surest}


def _ranked(
    words: Sequence[str], scores: Float[Tensor, "R V"], requests: Sequence[CaptionRequest]
) -> list[tuple[float, str]]:
    """For each request its nearest word (a variant: one of the next ones) and the score."""
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
    """The curated vocabulary, by kind of word."""
    text = files("anyclass.captioning").joinpath("vocabulary.json").read_text("utf-8")
    return {kind: tuple(words) for kind, words in json.loads(text).items()}


def _standardised(
    near: Float[Tensor, "R V"], all_near: Float[Tensor, "N V"]
) -> Float[Tensor, "R V"]:
    """How much nearer a word is to a request than to the folder, in standard deviations.

    With a single image there is nothing to compare with: then nearness among the words counts.
    """
    if len(all_near) < 2:
        return near - near.mean(1, keepdim=True)
    return (near - all_near.mean(0)) / all_near.std(0).clamp_min(1e-6)


def _english(said: Mapping[str, str], noun: str) -> str:
    """As in: a furry, round, brown object made of wool with ears, forest, striped."""
    adjectives = ", ".join(said[kind] for kind in ("textures", "shapes", "colours") if kind in said)
    what = f"{adjectives} {noun}" if adjectives else noun
    sentence = f"an {what}" if what.lower().startswith(tuple("aeiou")) else f"a {what}"
    sentence += f" made of {said['materials']}" if "materials" in said else ""
    sentence += f" with {said['parts']}" if "parts" in said else ""
    sentence += f", {said['scenes']}" if "scenes" in said else ""
    return sentence + (f", {said['own']}" if "own" in said else "") + "."
