"""Captions of images and of groups of images, and their text features.

Group texts form one pool per class: K texts, each about n images of the class, independent of the
number of images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from anyclass.backbone import Backbone, Part
from anyclass.backbone.checkpointing import checkpointed
from anyclass.captioning import CaptionContext, Captioner, CaptionRequest
from anyclass.data import ImageDataset
from anyclass.distributed.gradients import divided
from anyclass.distributed.processes import from_first
from anyclass.log import Log

Text = Literal["class", "image", "group"]
"""Kind of text: made of the class name, about one image, about several images."""

NONE = -1
"""Index of a missing text."""


def draw_groups(
    labels: Int[Tensor, " N"], classes: int, size: int, most: int, seed: int
) -> list[list[tuple[int, ...]]]:
    """Draw groups of images for each class; each group is a tuple of rows.

    K = min(most, images of the class) groups of `size` images, drawn without replacement. A class
    with no more than `size` images has one group, of all of them. A single image is no group, for
    nothing is common to it, unless `size` is 1; a class without images has none.
    """
    generator = torch.Generator().manual_seed(seed)
    groups: list[list[tuple[int, ...]]] = []
    for c in range(classes):
        members = (labels == c).nonzero()[:, 0]
        drawn = [_draw(members, size, generator) for _ in range(min(most, len(members)))]
        if len(members) < 2 <= size:
            drawn = []
        groups.append(drawn if len(members) > size else drawn[:1])
    return groups


def _draw(members: Int[Tensor, " n"], size: int, generator: torch.Generator) -> tuple[int, ...]:
    if len(members) < size:
        torch.randint(len(members), (size,), generator=generator)  # later groups stay as they were
        return tuple(members.tolist())
    return tuple(members[torch.randperm(len(members), generator=generator)[:size]].tolist())


class CaptionRequests(NamedTuple):
    """The caption requests of a run, by image and by class."""

    images: list[list[CaptionRequest]]
    """Requests about each image; empty lists if image texts are not used."""
    groups: list[list[CaptionRequest]]
    """Requests about the groups of each class."""

    @property
    def requests(self) -> list[CaptionRequest]:
        """All distinct requests."""
        return list(
            dict.fromkeys(request for some in self.images + self.groups for request in some)
        )


class Answers:
    """Answers of a captioner; each request is asked only once."""

    def __init__(self, captioner: Captioner, context: CaptionContext, log: Log) -> None:
        """Ask `captioner` about the images of `context`."""
        self._captioner = captioner
        self._context = context
        self._log = log
        self._known: dict[CaptionRequest, str | None] = {}

    def to(self, requests: Sequence[CaptionRequest]) -> Mapping[CaptionRequest, str | None]:
        """All answers so far, including those to `requests`; None or "" if there is no answer."""
        new = [request for request in requests if request not in self._known]
        if new:
            describe = partial(self._captioner.describe, new, self._context, self._log)
            answers = from_first(describe)
            self._known.update(zip(new, answers, strict=True))
        return self._known


@dataclass(frozen=True)
class Captions:
    """All texts of a run, as indices into one list of distinct strings."""

    asked: CaptionRequests
    """The caption requests."""
    strings: list[str]
    """Distinct texts."""
    classes: Int[Tensor, " C"]
    """Class prompt of each class."""
    images: Int[Tensor, "N R"]
    """R texts of each image; -1 where an answer is missing."""
    groups: Int[Tensor, "C K"]
    """Pool of group texts of each class, padded with -1."""

    @classmethod
    def of(cls, class_texts: Sequence[str], asked: CaptionRequests, answers: Answers) -> "Captions":
        """Ask for all answers; missing and empty ones become -1."""
        known = answers.to(asked.requests)
        written = [text for request in asked.requests if (text := known[request])]
        strings = list(dict.fromkeys([*class_texts, *written]))
        index_of = {text: i for i, text in enumerate(strings)}

        def indices(requests: list[CaptionRequest]) -> Int[Tensor, " R"]:
            found = [index_of.get(known[request] or "", NONE) for request in requests]
            return torch.tensor(found, dtype=torch.long)

        def table(requests: list[list[CaptionRequest]]) -> Int[Tensor, "M R"]:
            rows = [indices(some) for some in requests]
            return pad_sequence(rows, batch_first=True, padding_value=NONE)

        classes = torch.tensor([index_of[text] for text in class_texts])
        return cls(asked, strings, classes, table(asked.images), table(asked.groups))

    def draw(
        self,
        index: Int[Tensor, " B"],
        labels: Int[Tensor, "2 B"],
        pools: Int[Tensor, "S B"],
        kinds: Sequence[Text],
        generator: torch.Generator,
    ) -> Int[Tensor, "2 K B"]:
        """Draw the texts of a batch: one of each kind, for each of two branches.

        Args:
            index: rows of the images; both branches get the same text of an image.
            labels: class of each image in each branch.
            pools: class whose pool the group text is drawn from. One row: the same text for both
                branches. Two rows: one per branch; where the second pool is empty, the first's.
            kinds: kinds of text to use.
            generator: random generator for the choice among several texts.
        """
        rows = []
        if "class" in kinds:
            rows.append(self.classes[labels])
        if "image" in kinds:
            rows.append(_pick(self.images[index], generator).expand(2, -1))
        if "group" in kinds:
            drawn = [_pick(self.groups[pool], generator) for pool in pools]
            rows.append(
                torch.stack([drawn[0], torch.where(drawn[-1] == NONE, drawn[0], drawn[-1])])
            )
        return torch.stack(rows, dim=1)

    def rows(
        self, dataset: ImageDataset, weights: Sequence[float] | None = None, author: str = ""
    ) -> list[Mapping[str, Any]]:
        """List all texts for inspection: one mapping per text, with its class or files.

        Args:
            dataset: the images and classes.
            weights: weight of each of `strings`; None: none is listed.
            author: model that wrote the texts of images and groups; empty: none is listed.
        """
        by = {"model": author} if author else {}

        def written(n: int) -> dict[str, Any]:
            weight = {} if weights is None or n == NONE else {"weight": round(weights[n], 6)}
            return {"text": self._text(n)} | weight

        names = dataset.classes.names
        class_texts = zip(names, self.classes.tolist(), strict=True)
        rows: list[Mapping[str, Any]] = [
            {"kind": "class", "class": name} | written(n) for name, n in class_texts
        ]
        for some, numbers in zip(self.asked.images, self.images.tolist(), strict=True):
            for request, n in zip(some, numbers, strict=True):
                file = dataset.files[request.rows[0]]
                rows.append({"kind": "image", "file_name": file} | written(n) | by)
        for name, pool, numbers in zip(names, self.asked.groups, self.groups.tolist(), strict=True):
            for request, n in zip(pool, numbers, strict=False):
                files = [dataset.files[i] for i in request.rows]
                rows.append({"kind": "group", "class": name, "files": files} | written(n) | by)
        return rows

    def _text(self, number: int) -> str | None:
        return None if number == NONE else self.strings[number]


def _pick(numbers: Int[Tensor, "B K"], generator: torch.Generator) -> Int[Tensor, " B"]:
    """Draw one of the indices of each row, ignoring -1; -1 if there is none."""
    scores = torch.rand(numbers.shape, generator=generator).masked_fill(numbers == NONE, -1.0)
    if numbers.shape[1] == 0:
        return torch.full((len(numbers),), NONE)
    return numbers.gather(1, scores.argmax(1, keepdim=True))[:, 0]


TEXTS_AT_ONCE = 64
"""Batch size of the text encoder; texts are sorted by length and cut to the longest of a batch."""


class TextFeatures:
    """Text features by the current weights; each distinct text of a step is encoded once."""

    def __init__(
        self,
        clip: Backbone,
        strings: Sequence[str],
        part: Part,
        frozen: bool,
        micro_batch: int | None = None,
    ) -> None:
        """Run the frozen part once: the text trunk, or the whole encoder with `frozen`.

        `micro_batch` is the number of texts per checkpointed batch (`backbone.checkpointing`).
        """
        self.clip = clip
        self.part = part
        self.frozen = frozen
        self.micro_batch = micro_batch
        size = len(strings) if part == "all" else 256  # token ids are padded to one length
        starts = range(0, len(strings), size)
        with torch.no_grad():
            if frozen:
                self.hidden = clip.texts(strings)
                return
            self.hidden = torch.cat([clip.text_trunk(strings[i : i + size], part) for i in starts])

    def __call__(self, numbers: Int[Tensor, "*s"]) -> Float[Tensor, "*s D"]:
        """Unit features (with gradient unless frozen); those of a missing text (-1) are zero."""
        distinct, place = numbers.clamp_min(0).unique(return_inverse=True)
        hidden = self.hidden[distinct]
        whole = not self.frozen and self.part == "all"  # else a projection, or nothing
        features = divided(self._encoded, hidden) if whole else self._encoded(hidden)
        present = (numbers != NONE).to(features)
        return torch.einsum("...,...d->...d", present, features[place])

    def _encoded(self, hidden: Shaped[Tensor, "n L"]) -> Float[Tensor, "n D"]:
        """Run the trained part; with the whole encoder, in batches of similar length."""
        if self.frozen:
            return hidden
        if self.part != "all":
            return self.clip.text_tail(hidden, self.part)
        encode = partial(self.clip.text_tail, part=self.part)
        if len(hidden) <= TEXTS_AT_ONCE:
            return checkpointed(encode, hidden, self.micro_batch)
        order = self.clip.text_lengths(hidden).argsort(stable=True)
        parts = hidden[order].split(TEXTS_AT_ONCE)
        features = torch.cat([checkpointed(encode, part, self.micro_batch) for part in parts])
        return features[order.argsort()]
