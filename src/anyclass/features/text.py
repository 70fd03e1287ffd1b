"""Prompt templates, and text features of classes.

A template marks the place of the class with `{}` or `{c}`. The literal is replaced; `str.format` is
not used.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float
from pydantic import AfterValidator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from anyclass.backbone import Backbone
from anyclass.distributed.processes import first_process_first
from anyclass.errors import RequestError
from anyclass.files import cache_folder, write_tensors
from anyclass.log import Log, silent

PLAIN = "a photo of a {}."
"""Template of CLIP's paper; LatteCLIP uses it for class prompts and baselines."""


AT_ONCE = 2**17
"""Maximum number of texts whose features are held in memory: 80 templates of 1,638 classes."""


def fill(template: str, prompt: str) -> str:
    """Insert a class prompt into a template.

    Raises:
        RequestError: the template has no place for the class, or braces other than `{}` and `{c}`.
    """
    bare = template.replace("{}", "").replace("{c}", "")
    if bare == template or "{" in bare or "}" in bare:
        raise RequestError(
            f"template {template!r}: mark the place of the class with {{}}, and use no other brace"
        )
    place = "{c}" if "{c}" in template else "{}"
    return template.replace(place, prompt)


def _checked(template: str) -> str:
    """Validate a template."""
    fill(template, "class")
    return template


Template = Annotated[str, AfterValidator(_checked)]
"""Template that is validated on input."""


Prompts = Sequence[str | Sequence[str]]
"""Prompts of the C classes: one of each, or several."""


class FilledTemplates(NamedTuple):
    """Texts of C classes, T in all: those of a class stand together."""

    texts: list[str]
    """Templates filled with prompts."""
    sizes: list[int]
    """Number of texts of each class."""

    @classmethod
    def of(cls, prompts: Prompts, templates: Sequence[str]) -> "FilledTemplates":
        """Fill each template with each prompt."""
        groups = [(some,) if isinstance(some, str) else some for some in prompts]
        texts = [fill(t, phrase) for some in groups for phrase in some for t in templates]
        return cls(texts, [len(some) * len(templates) for some in groups])

    def mean(self, features: Float[Tensor, "T D"]) -> Float[Tensor, "C D"]:
        """Normalised mean of the unit features of each class; those of single texts as they are."""
        return features if len(self.texts) == len(self.sizes) else self.normalised_mean(features)

    def normalised_mean(self, features: Float[Tensor, "T D"]) -> Float[Tensor, "C D"]:
        """Normalised mean of the features of each class."""
        if len(set(self.sizes)) == 1:
            means = features.reshape(len(self.sizes), self.sizes[0], -1).mean(1)
        else:
            means = torch.stack([some.mean(0) for some in features.split(self.sizes)])
        return nn.functional.normalize(means, dim=-1)


def class_features(
    clip: Backbone, prompts: Prompts, templates: Sequence[str], log: Log = silent
) -> Float[Tensor, "C D"]:
    """Unit text feature of each class: the normalised mean over its texts of unit features.

    Args:
        clip: the model.
        prompts: prompts of the C classes.
        templates: one template, or an ensemble.
        log: gets `stage="texts"`, `done` and `total` where there are many texts.
    """
    groups = [(some,) if isinstance(some, str) else some for some in prompts]
    total = len(templates) * sum(map(len, groups))
    if total <= AT_ONCE:
        texts = FilledTemplates.of(groups, templates)
        return texts.normalised_mean(clip.texts(texts.texts, log=log))
    size = max(1, AT_ONCE * len(groups) // total)
    found = []
    done = 0
    for some in (groups[i : i + size] for i in range(0, len(groups), size)):
        texts = FilledTemplates.of(some, templates)
        features = clip.texts(texts.texts, log=_counted_on(log, done, total))
        found.append(texts.normalised_mean(features))
        done += len(texts.texts)
    return torch.cat(found)


def _counted_on(log: Log, before: int, total: int) -> Log:
    """A log of some of the texts that counts on from those before them."""

    def counted(**row: Any) -> None:
        log(**row | {"done": before + row["done"], "total": total})

    return counted


@torch.no_grad()
def cached_class_features(
    clip: Backbone, prompts: Prompts, templates: Sequence[str], log: Log = silent
) -> Float[Tensor, "C D"]:
    """`class_features` of an untrained model, cached on disk.

    Args:
        clip: the untrained model.
        prompts: prompts of the C classes.
        templates: one template, or an ensemble.
        log: gets the progress of encoding many texts.
    """
    plain = [some if isinstance(some, str) or len(some) > 1 else some[0] for some in prompts]
    key = json.dumps([clip.weights_sha256, list(templates), plain])
    path = cache_folder("texts") / f"{sha256(key.encode()).hexdigest()[:32]}.safetensors"
    with first_process_first():
        return _stored(path, clip, prompts, templates, log)


def _stored(
    path: Path, clip: Backbone, prompts: Prompts, templates: Sequence[str], log: Log
) -> Float[Tensor, "C D"]:
    """Class features from a file, or computed and written into it."""
    try:  # clone: the alignment of memory-mapped tensors changes the rounding of products
        return load_file(path)["features"].clone().to(clip.device)
    except (OSError, SafetensorError, KeyError):
        features = class_features(clip, prompts, templates, log)
    write_tensors(path, {"features": features})
    return features
