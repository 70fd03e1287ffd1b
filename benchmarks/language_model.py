"""Zero-shot classification by the language model that writes the captions (LatteCLIP, table 1)."""

import re
from collections.abc import Sequence

from anyclass.backbone import Backbone
from anyclass.captioning import CaptionContext, Captioner, CaptionRequest
from anyclass.data import ImageDataset
from anyclass.features.store import FeatureStore
from anyclass.log import silent

QUESTION = (
    "Select the most appropriate category for the image from the following options: {}. "
    "Write only the category name."
)
"""The paper's question."""


def accuracy(captioner: Captioner, clip: Backbone, test: ImageDataset) -> float:
    """Share of the images whose answer is their class; an answer that is no class is wrong."""
    names = test.classes.prompts
    question = QUESTION.format(", ".join(names))
    requests = [CaptionRequest((i,), question, "object") for i in range(len(test))]
    features = FeatureStore(clip, test).image_features("head", silent)
    answers = captioner.describe(requests, CaptionContext(test, clip, features.cpu()), silent)
    found = [category(answer or "", names) for answer in answers]
    labels: list[int] = test.labels.tolist()
    right = [c == label for c, label in zip(found, labels, strict=True)]
    return sum(right) / len(right)


def category(answer: str, names: Sequence[str]) -> int | None:
    """Class that an answer names: the longest name in it, as whole words; None: there is none."""
    said = f" {_words(answer)} "
    there = [c for c, name in enumerate(names) if f" {_words(name)} " in said]
    return max(there, key=lambda c: len(_words(names[c])), default=None)


def _words(text: str) -> str:
    """Lower-case letters and digits, one space between words."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))
