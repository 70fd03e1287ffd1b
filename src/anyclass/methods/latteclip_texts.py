"""LatteCLIP's texts: the class prompts, and captions of images and of groups of images.

Letters as in `latteclip.py`: N images, C classes, D dimensions, B batch, K kinds of text.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.captioning import CaptionRequest
from anyclass.captioning.captions import Answers, CaptionRequests, Captions, TextFeatures
from anyclass.data import ImageDataset
from anyclass.features.domains import domain
from anyclass.features.precomputed import AnyFeatures
from anyclass.features.text import fill
from anyclass.log import Log
from anyclass.methods.latteclip_equations import margin_weights, nearest_prototype

if TYPE_CHECKING:
    import anyclass.methods.latteclip

TEXTS_AT_ONCE = 1024
"""Texts that are encoded together for their weights after training."""


class TrainingTexts(NamedTuple):
    """Texts of all classes, images and groups, and their features by the current text tower."""

    captions: Captions
    """The texts, as indices into one list."""
    encode: TextFeatures
    """Features of texts by their index."""
    pool: Int[Tensor, " N"]
    """Class from whose groups each image gets its group text."""

    @classmethod
    def ask(
        cls,
        settings: "anyclass.methods.latteclip.LatteClip",
        tuned: Backbone,
        answers: Answers,
        dataset: ImageDataset,
        c_zs: Int[Tensor, " N"],
        pool: Int[Tensor, " N"],
        seed: int,
    ) -> "TrainingTexts":
        """Draw the groups by `pool` and ask for all captions; only new ones are requested."""
        prompts = dataset.classes.prompts
        class_texts = [fill(settings.template, prompt) for prompt in prompts]
        asked = requests_of_classes(settings, prompts, c_zs, pool, seed)
        captions = Captions.of(class_texts, asked, answers)
        tuning = settings.tuning
        encode = TextFeatures(
            tuned, captions.strings, tuning.tune, settings.freeze_text, tuning.micro_batch
        )
        return cls(captions, encode, pool.clone())

    def draw(
        self,
        settings: "anyclass.methods.latteclip.LatteClip",
        index: Int[Tensor, " B"],
        c: Int[Tensor, "2 B"],
        rng: torch.Generator,
    ) -> Int[Tensor, "2 K B"]:
        """Draw one text of each kind per sample, for both branches."""
        pools = self.pool[index][None]
        if settings.group_label == "ft":
            pools = torch.cat([pools, c[1:]])
        return self.captions.draw(index, c, pools, settings.texts, rng)

    @torch.no_grad()
    def weights(self, p: Float[Tensor, "C D"], floor: float) -> list[float]:
        """Weight of each text for prototypes p."""
        weights = []
        for numbers in torch.arange(len(self.captions.strings)).split(TEXTS_AT_ONCE):
            v = self.encode(numbers).expand(2, 1, -1, -1)
            c = torch.zeros(2, len(numbers), dtype=torch.long)
            present = torch.ones(2, 1, len(numbers), dtype=torch.bool, device=v.device)
            weights += margin_weights(v, p, c, present, "unsigned", floor)[0, 0].tolist()
        return weights


def caption_requests(
    settings: "anyclass.methods.latteclip.LatteClip", data: AnyFeatures, log: Log, seed: int
) -> CaptionRequests:
    """Caption requests of a fit; without class names, about images alone."""
    if not len(data.dataset.classes):
        topic = domain(settings.domain, settings.plural)
        question = topic.ask_image()
        rows = range(len(data.dataset))
        return CaptionRequests([[CaptionRequest((i,), question, topic.noun)] for i in rows], [])
    p0 = data.class_features([settings.template], log)
    c_zs = nearest_prototype(data.image_features("head", log), p0)
    return requests_of_classes(settings, data.dataset.classes.prompts, c_zs, c_zs, seed)


def requests_of_classes(
    settings: "anyclass.methods.latteclip.LatteClip",
    prompts: tuple[str, ...],
    c_zs: Int[Tensor, " N"],
    pool: Int[Tensor, " N"],
    seed: int,
) -> CaptionRequests:
    """Caption requests for each image and for the groups of each class.

    Args:
        settings: the method.
        prompts: prompts of the C classes.
        c_zs: zero-shot class of each image.
        pool: class whose groups an image may be in.
        seed: random seed of the groups.
    """
    images = _image_requests(settings, prompts, c_zs)
    return CaptionRequests(images, _group_requests(settings, len(prompts), pool, seed))


def _image_requests(
    settings: "anyclass.methods.latteclip.LatteClip",
    prompts: tuple[str, ...],
    c_zs: Int[Tensor, " N"],
) -> list[list[CaptionRequest]]:
    """Caption requests for each image; empty lists without image texts."""
    if "image" not in settings.texts:
        return [[] for _ in c_zs]
    topic = domain(settings.domain, settings.plural)
    variants = range(settings.image_captions)
    found = []
    for i, c in enumerate(c_zs.tolist()):
        question = topic.ask_image(prompts[c] if settings.class_in_prompt else "")
        found.append([CaptionRequest((i,), question, topic.noun, r) for r in variants])
    return found


def _group_requests(
    settings: "anyclass.methods.latteclip.LatteClip",
    classes: int,
    pool: Int[Tensor, " N"],
    seed: int,
) -> list[list[CaptionRequest]]:
    """Caption requests for the groups of each class; empty lists without group texts."""
    if "group" not in settings.texts:
        return [[] for _ in range(classes)]
    topic = domain(settings.domain, settings.plural)
    question = topic.ask_group()
    found = []
    for groups in settings.grouped(pool, classes, seed):
        found.append([CaptionRequest(rows, question, topic.noun) for rows in groups])
    return found
