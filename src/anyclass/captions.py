"""Machine-written texts of pictures and of groups of pictures, and their features.

Group texts form one pool per class: K texts, each about n pictures that share a label, whatever the
number of pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.backbone import Backbone, Part
from anyclass.data import Photos
from anyclass.describe import Describer, Request

NONE = -1
"""Number of a text that is missing."""


def draw_groups(
    labels: Int[Tensor, " N"], classes: int, size: int, most: int, seed: int
) -> list[list[tuple[int, ...]]]:
    """For each class, the rows of the pictures of each of its groups.

    K = min(most, pictures of the class) groups of `size` pictures, drawn without replacement; with
    it only when the class has fewer than `size`. A class without pictures has no group.
    """
    generator = torch.Generator().manual_seed(seed)
    groups: list[list[tuple[int, ...]]] = []
    for c in range(classes):
        members = (labels == c).nonzero()[:, 0]
        groups.append([_draw(members, size, generator) for _ in range(min(most, len(members)))])
    return groups


def _draw(members: Int[Tensor, " n"], size: int, generator: torch.Generator) -> tuple[int, ...]:
    if len(members) >= size:
        chosen = torch.randperm(len(members), generator=generator)[:size]
    else:
        chosen = torch.randint(len(members), (size,), generator=generator)
    return tuple(members[chosen].tolist())


class Asked(NamedTuple):
    """The questions of one run, and where each answer belongs."""

    images: list[Request]
    """One per picture and variant, picture by picture."""
    groups: list[list[Request]]
    """Of each class."""


@dataclass
class Captions:
    """All texts of a run: numbers into one list of distinct strings."""

    strings: list[str]
    """Distinct texts."""
    classes: Int[Tensor, " C"]
    """Class text of each class."""
    images: Int[Tensor, "N R"]
    """R texts of each picture; -1 where an answer is missing."""
    groups: Int[Tensor, "C K"]
    """Pool of each class, filled up with -1."""

    @classmethod
    def ask(
        cls,
        class_texts: Sequence[str],
        asked: Asked,
        describer: Describer,
        clip: Backbone,
        features: Float[Tensor, "N D"],
    ) -> "Captions":
        """Let the describer answer everything; missing and empty answers stay -1."""
        requests = [*asked.images, *(request for pool in asked.groups for request in pool)]
        answers = describer.describe(requests, clip, features) if requests else []
        strings = list(dict.fromkeys([*class_texts, *(text for text in answers if text)]))
        number = {text: i for i, text in enumerate(strings)}
        numbers = [number.get(text or "", NONE) for text in answers]
        pools, start = [], len(asked.images)
        for pool in asked.groups:
            pools.append(torch.tensor(numbers[start : start + len(pool)], dtype=torch.long))
            start += len(pool)
        images = torch.tensor(numbers[: len(asked.images)], dtype=torch.long).reshape(
            len(features), -1
        )
        groups = torch.nn.utils.rnn.pad_sequence(pools, batch_first=True, padding_value=NONE)
        return cls(strings, torch.tensor([number[text] for text in class_texts]), images, groups)

    def image_text(self, index: Int[Tensor, " B"], generator: torch.Generator) -> Int[Tensor, " B"]:
        """One text of each picture, at random where it has several."""
        return _pick(self.images[index.cpu()], generator)

    def group_text(
        self, labels: Int[Tensor, " B"], generator: torch.Generator
    ) -> Int[Tensor, " B"]:
        """One text of the pool of each label; -1 where the pool is empty."""
        return _pick(self.groups[labels.cpu()], generator)

    def rows(self, photos: Photos, asked: Asked) -> list[Mapping[str, Any]]:
        """What was written, for inspection: one mapping per text with what it is about."""
        names = photos.classes.names
        rows: list[Mapping[str, Any]] = [
            {"kind": "class", "class": name, "text": self.strings[n]}
            for name, n in zip(names, self.classes.tolist(), strict=True)
        ]
        for request, n in zip(asked.images, self.images.flatten().tolist(), strict=True):
            rows.append(
                {
                    "kind": "image",
                    "file_name": photos.files[request.rows[0]],
                    "text": self._text(n),
                }
            )
        for name, pool, numbers in zip(names, asked.groups, self.groups.tolist(), strict=True):
            for request, n in zip(pool, numbers, strict=False):
                files = [photos.files[i] for i in request.rows]
                rows.append({"kind": "group", "class": name, "files": files, "text": self._text(n)})
        return rows

    def _text(self, number: int) -> str | None:
        return None if number == NONE else self.strings[number]


def _pick(numbers: Int[Tensor, "B K"], generator: torch.Generator) -> Int[Tensor, " B"]:
    """One of the present numbers of each row; -1 where there is none."""
    chance = torch.rand(numbers.shape, generator=generator).masked_fill(numbers == NONE, -1.0)
    if numbers.shape[1] == 0:
        return torch.full((len(numbers),), NONE)
    return numbers.gather(1, chance.argmax(1, keepdim=True))[:, 0]


class TextFeatures:
    """Features of texts by the text tower of now: each distinct text of a step is encoded once."""

    def __init__(self, clip: Backbone, strings: Sequence[str], part: Part, frozen: bool) -> None:
        """Run what stays frozen once: the text trunk, or with `frozen` everything."""
        self.clip, self.part, self.frozen = clip, part, frozen
        with torch.no_grad():
            size = len(strings) if part == "all" else 256  # token numbers are padded to one length
            starts = range(0, len(strings), size)
            self.hidden = torch.cat([clip.text_trunk(strings[i : i + size], part) for i in starts])
            self.features = clip.texts(strings) if frozen else None

    def __call__(self, numbers: Int[Tensor, "*s"]) -> Float[Tensor, "*s D"]:
        """Unit features (with gradient unless frozen); those of a missing text (-1) are zero."""
        distinct, place = numbers.clamp_min(0).unique(return_inverse=True)
        if self.features is not None:
            features = self.features[distinct]
        else:
            features = self.clip.text_tail(self.hidden[distinct], self.part)
        present = (numbers != NONE).to(features)
        return torch.einsum("...,...d->...d", present.to(features.device), features[place])
