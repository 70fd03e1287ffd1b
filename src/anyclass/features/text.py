"""Prompt templates, and class names turned into text features.

A template holds the place of the class as `{}` or `{c}`; it is filled by replacing that literal,
never by formatting.
"""

from collections.abc import Sequence
from functools import cache
from typing import Annotated, NamedTuple

from jaxtyping import Float
from pydantic import AfterValidator
from torch import Tensor, nn

from anyclass.backbone import Backbone
from anyclass.errors import RequestError

PLAIN = "a photo of a {}."
"""The template of CLIP's paper, and LatteCLIP's for class texts and all baselines."""

BRIEFLY = "concisely, less than 20 words."
"""How every question to a captioner ends, in LatteCLIP's official scripts."""


class Domain(NamedTuple):
    """How to speak of one kind of image."""

    image: str
    """What a captioner is asked about in one image; `{c}` is the class, where it is named."""
    group: str
    """What it is asked about in several images."""
    template: str
    """Class template of LatteCLIP's official scripts for the set."""

    @property
    def noun(self) -> str:
        """What an image shows, in a word or a few: "object"."""
        return self.image.removeprefix("the ").replace("{c} ", "").split(" in the ")[0]

    def ask_image(self, prompt: str = "") -> str:
        """The question about one image; with `prompt` it names the class, where it has a place.

        As in: Describe the object in the photo concisely, less than 20 words.
        """
        about = self.image.replace("{c} ", prompt and f"{prompt} ")
        return f"Describe {about} {BRIEFLY}"

    def ask_group(self) -> str:
        """The question about several images at once."""
        return f"Describe the common visual attributes of {self.group} {BRIEFLY}"


DOMAINS = {
    "eurosat": Domain(
        "the land use in the satellite image", "the land use in all the satellite images", PLAIN
    ),
    "sun397": Domain("the scene in the photo", "the scenes in all the photos", PLAIN),
    "food101": Domain(
        "the {c} food in the photo",
        "the foods in all the photos",
        "a photo of a {c}, a type of food.",
    ),
    "flowers102": Domain(
        "the {c} flower in the photo",
        "the flowers in all the photos",
        "a photo of a {c}, a type of flower.",
    ),
    "dtd": Domain("the texture in the photo", "the textures in all the photos", "{c} texture."),
    "fgvc_aircraft": Domain(
        "the aircraft in the photo",
        "the aircrafts in all the photos",
        "a photo of a {c}, a type of aircraft.",
    ),
    "oxford_pets": Domain("the pet in the photo", "the pets in all the photos", PLAIN),
    "stanford_cars": Domain("the car in the photo", "the cars in all the photos", PLAIN),
    "ucf101": Domain(
        "the action of the person in the photo",
        "the person's actions in all the photos",
        "a photo of a person doing {c}",
    ),
    "caltech101": Domain("the object in the photo", "the objects in all the photos", PLAIN),
}
"""The ten sets of LatteCLIP's paper: phrases A and B of its prompts, and its templates."""


def domain(name: str, plural: str = "") -> Domain:
    """A known set of LatteCLIP's paper, or any noun: "bird" asks about "the bird in the photo"."""
    plural = plural or f"{name}s"
    return DOMAINS.get(name) or Domain(
        f"the {{c}} {name} in the photo", f"the {plural} in all the photos", PLAIN
    )


def fill(template: str, prompt: str) -> str:
    """Put a class prompt into a template, literally.

    Raises:
        RequestError: the template has no place for the class, or braces that are neither `{}` nor
            `{c}`.
    """
    bare = template.replace("{}", "").replace("{c}", "")
    if bare == template or "{" in bare or "}" in bare:
        raise RequestError(
            f"template {template!r}: mark the place of the class with {{}}, and use no other brace"
        )
    place = "{c}" if "{c}" in template else "{}"
    return template.replace(place, prompt)


def _checked(template: str) -> str:
    """The template, if a class can be put into it."""
    fill(template, "class")
    return template


Template = Annotated[str, AfterValidator(_checked)]
"""A template that is refused where it is given, not where it is used."""


@cache
def openai_templates() -> tuple[str, ...]:
    """The 80 templates that OpenAI published for ImageNet, as open_clip carries them."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


def class_features(
    clip: Backbone, prompts: Sequence[str], templates: Sequence[str]
) -> Float[Tensor, "C D"]:
    """Unit text feature of each class: the mean over templates of unit features, made unit again.

    Args:
        clip: the model.
        prompts: the texts that stand for the C classes.
        templates: one template, or an ensemble.
    """
    texts = [fill(template, prompt) for prompt in prompts for template in templates]
    features = clip.texts(texts).reshape(len(prompts), len(templates), -1)
    return nn.functional.normalize(features.mean(1), dim=-1)
