"""What images show, in words: a noun, or a data set of LatteCLIP's paper with its settings."""

import re
from difflib import get_close_matches
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

from anyclass.errors import RequestError
from anyclass.features.text import PLAIN

BRIEFLY = "concisely, less than 20 words."
"""End of each question to a captioner, as in LatteCLIP's official scripts."""

NEAR = 0.85
"""Similarity from which a word counts as a misspelt name of a data set."""


class Domain(NamedTuple):
    """Phrases for one kind of image, and what the paper trains with on a data set."""

    image: str
    """Subject of a question about one image; `{c}` marks the place of the class, if any."""
    group: str
    """Subject of a question about several images."""
    template: str
    """Class template of LatteCLIP's official scripts."""
    class_in_prompt: bool = False
    """Whether the question about an image names the zero-shot class."""
    lr: float | None = None
    """Learning rate of the whole model; None: the paper's for most sets."""
    weight_decay: float | None = None
    """Weight decay of the whole model; None: that of most scripts."""

    @property
    def noun(self) -> str:
        """Noun phrase for what an image shows, such as "object"."""
        return self.image.removeprefix("the ").replace("{c} ", "").split(" in the ")[0]

    def ask_image(self, prompt: str = "") -> str:
        """Question about one image, with the class `prompt` if the phrase has a place for it.

        Example: Describe the object in the photo concisely, less than 20 words.
        """
        about = self.image.replace("{c} ", prompt and f"{prompt} ")
        return f"Describe {about} {BRIEFLY}"

    def ask_group(self) -> str:
        """Question about several images at once."""
        return f"Describe the common visual attributes of {self.group} {BRIEFLY}"


DOMAINS = {
    "eurosat": Domain(
        "the land use in the satellite image", "the land use in all the satellite images", PLAIN
    ),
    "sun397": Domain("the scene in the photo", "the scenes in all the photos", PLAIN, lr=1e-6),
    "food101": Domain(
        "the {c} food in the photo",
        "the foods in all the photos",
        "a photo of a {c}, a type of food.",
        class_in_prompt=True,
        lr=1e-6,
    ),
    "flowers102": Domain(
        "the {c} flower in the photo",
        "the flowers in all the photos",
        "a photo of a {c}, a type of flower.",
        class_in_prompt=True,
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
    "caltech101": Domain(
        "the object in the photo", "the objects in all the photos", PLAIN, weight_decay=1e-7
    ),
}
"""The ten data sets of LatteCLIP's paper: phrases A and B of its prompts, and its settings."""

PRESET = ("template", "class_in_prompt")
"""Fields of a method whose default a data set in its `domain` changes."""

ALIASES = {
    "sun": "sun397",
    "food": "food101",
    "flowers": "flowers102",
    "oxfordflowers": "flowers102",
    "oxfordflowers102": "flowers102",
    "textures": "dtd",
    "describabletextures": "dtd",
    "aircraft": "fgvc_aircraft",
    "fgvc": "fgvc_aircraft",
    "pets": "oxford_pets",
    "oxfordiiitpet": "oxford_pets",
    "cars": "stanford_cars",
    "ucf": "ucf101",
    "caltech": "caltech101",
}
"""Other names of these sets, in lower case, letters and digits alone. A singular such as `car` is
a noun."""


def domain_name(name: str) -> str:
    """The name of a data set of the paper, however it is written; any other noun as it is.

    Raises:
        RequestError: it is blank, or nearly the name of a data set.
    """
    if not name.strip():
        raise RequestError("--domain is empty: give a noun, such as flower")
    bare = re.sub(r"[^a-z0-9]", "", name.lower())
    known = {re.sub(r"[^a-z0-9]", "", own): own for own in DOMAINS} | ALIASES
    if bare in known:
        return known[bare]
    numbered = any(letter.isdigit() for letter in bare)
    names = [word for word in known if numbered or word not in ALIASES]
    if near := get_close_matches(bare, names, n=1, cutoff=NEAR):
        raise RequestError(
            f"--domain {name!r} is no data set of the paper: did you mean {known[near[0]]}? "
            "For images of your own give a noun, such as flower"
        )
    return name


DomainName = Annotated[str, AfterValidator(domain_name)]
"""A noun, or the name of a data set, which may be written in other ways."""


def domain(name: str, plural: str = "") -> Domain:
    """Phrases for a data set of LatteCLIP's paper, or for any noun, such as "bird".

    Args:
        name: name of the data set, or a noun.
        plural: plural of the noun, if irregular.

    Raises:
        RequestError: the name is blank, or nearly that of a data set.
    """
    name = domain_name(name)
    plural = plural or f"{name}s"
    return DOMAINS.get(name) or Domain(
        f"the {{c}} {name} in the photo", f"the {plural} in all the photos", PLAIN
    )
