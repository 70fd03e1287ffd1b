"""Templates: the strings of the paper letter by letter, and class names filled in literally."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.errors import RequestError
from anyclass.features.domains import DOMAINS, domain
from anyclass.features.openai_templates import OPENAI_TEMPLATES
from anyclass.features.text import (
    PLAIN,
    cached_class_features,
    class_features,
    fill,
)
from anyclass.methods.latteclip import LatteClip
from anyclass.methods.zero_shot import ZeroShot

TABLE = {  # A, B and the template in the code, as the specification prints them
    "eurosat": (
        "the land use in the satellite image",
        "the land use in all the satellite images",
        "a photo of a {}.",
    ),
    "sun397": ("the scene in the photo", "the scenes in all the photos", "a photo of a {}."),
    "food101": (
        "the {c} food in the photo",
        "the foods in all the photos",
        "a photo of a {c}, a type of food.",
    ),
    "flowers102": (
        "the {c} flower in the photo",
        "the flowers in all the photos",
        "a photo of a {c}, a type of flower.",
    ),
    "dtd": ("the texture in the photo", "the textures in all the photos", "{c} texture."),
    "fgvc_aircraft": (
        "the aircraft in the photo",
        "the aircrafts in all the photos",
        "a photo of a {c}, a type of aircraft.",
    ),
    "oxford_pets": ("the pet in the photo", "the pets in all the photos", "a photo of a {}."),
    "stanford_cars": ("the car in the photo", "the cars in all the photos", "a photo of a {}."),
    "ucf101": (
        "the action of the person in the photo",
        "the person's actions in all the photos",
        "a photo of a person doing {c}",
    ),
    "caltech101": (
        "the object in the photo",
        "the objects in all the photos",
        "a photo of a {}.",
    ),
}


def test_domains__are_the_table_of_the_paper() -> None:
    assert {name: tuple(about)[:3] for name, about in DOMAINS.items()} == TABLE
    assert PLAIN == "a photo of a {}."


@pytest.mark.parametrize(
    ("name", "image", "group"),
    [
        ("caltech101", "the object in the photo", "the objects in all the photos"),
        ("food101", "the food in the photo", "the foods in all the photos"),
        ("eurosat", "the land use in the satellite image", "the land use in all the satellite"),
        ("mushroom", "the mushroom in the photo", "the mushrooms in all the photos"),
    ],
)
def test_ask__are_the_questions_of_the_paper(name: str, image: str, group: str) -> None:
    about = domain(name)
    assert about.ask_image() == f"Describe {image} concisely, less than 20 words."
    assert about.ask_group().startswith(f"Describe the common visual attributes of {group}")
    assert about.ask_group().endswith("s concisely, less than 20 words.")


def test_ask_image__names_the_class_where_it_has_a_place() -> None:
    end = "in the photo concisely, less than 20 words."
    assert domain("flowers102").ask_image("{c} rose") == f"Describe the {{c}} rose flower {end}"
    assert domain("bird").ask_image("tree creeper") == f"Describe the tree creeper bird {end}"
    assert domain("oxford_pets").ask_image("beagle") == f"Describe the pet {end}"


def test_domain__of_any_noun() -> None:
    assert domain("leaf", "leaves")[:3] == (
        "the {c} leaf in the photo",
        "the leaves in all the photos",
        "a photo of a {}.",
    )
    nouns = ["land use", "scene", "food", "flower", "texture", "aircraft", "pet", "car"]
    nouns += ["action of the person", "object", "leaf"]
    assert [domain(name).noun for name in [*TABLE, "leaf"]] == nouns


@pytest.mark.parametrize(
    ("template", "prompt", "wanted"),
    [
        ("a photo of a {}.", "red kite", "a photo of a red kite."),
        ("{c} texture.", "banded", "banded texture."),
        ("{} or {}", "cat", "cat or cat"),
        ("{}", "{x}", "{x}"),
        ("a {}.", "{}", "a {}."),
        ("a {c}.", "{c} {}", "a {c} {}."),
        ("a {}.", "{0.__class__}", "a {0.__class__}."),
        ("a {}.", "%s \\1 $x\n", "a %s \\1 $x\n."),
        ("100 % {}", "日本語, a 'b'", "100 % 日本語, a 'b'"),
        ("{}", "", ""),
    ],
)
def test_fill__literally(template: str, prompt: str, wanted: str) -> None:
    assert fill(template, prompt) == wanted


@pytest.mark.parametrize(
    "template",
    [
        *("", "a photo", "{x}", "{0}", "{c.__class__.__mro__}", "{c!r}", "{c:>99999999}", "{{}}"),
        *("{} {x}", "{c} {", "} {}", "{ }", "{c", "{{c}}", "{}.{c.__init__.__globals__}"),
    ],
)
def test_fill__refuses_a_template_that_is_no_sentence(template: str) -> None:
    with pytest.raises(RequestError) as caught:
        fill(template, "dog")
    assert str(caught.value) == (
        f"template {template!r}: mark the place of the class with {{}}, and use no other brace"
    )


def test_openai_templates__are_those_of_open_clip() -> None:
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    templates = OPENAI_TEMPLATES
    assert templates == tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    assert len(set(templates)) == 80
    assert {fill(template, "dog").count("dog") for template in templates} == {1}


@torch.no_grad()
def test_class_features__are_the_mean_over_templates(tiny_clip: Callable[..., str]) -> None:
    clip = Backbone.load(tiny_clip("causal"))
    prompts = ["red square", "blue disc", "kite", "green ring", "kite"]
    templates = ["a photo of a {}.", "{c}", "a drawing of the {} in water"]
    found = class_features(clip, prompts, templates)
    assert found.shape == (5, 24)
    for c, prompt in enumerate(prompts):
        parts = []
        for template in templates:
            text = template.replace("{c}", "{}").replace("{}", prompt)
            parts.append(normalize(clip.model.encode_text(clip._open.tokenizer([text]))[0], dim=0))
        wanted = normalize(torch.stack(parts).mean(0), dim=0)
        torch.testing.assert_close(found[c], wanted, rtol=0, atol=1e-6)


@torch.no_grad()
def test_class_features__of_one_template_are_its_texts(tiny_clip: Callable[..., str]) -> None:
    clip = Backbone.load(tiny_clip("huggingface"))
    found = class_features(clip, ["dog", "house"], [PLAIN])
    wanted = clip.texts(["a photo of a dog.", "a photo of a house."])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", [LatteClip, ZeroShot])
def test_template__is_refused_where_it_is_given(method):
    with pytest.raises(RequestError, match="mark the place of the class"):
        method(template="a photo")
    assert method(template="{c} texture.").template == "{c} texture."


def test_cached_class_features__are_encoded_once(
    tiny_backbone: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path))
    causal = tiny_backbone()
    prompts = ["red square", "kite", "blue disc"]
    templates = [PLAIN, "a drawing of a {}."]
    first = cached_class_features(causal, prompts, templates)
    assert torch.equal(first, class_features(causal, prompts, templates))
    encoded = list[int]()
    encode = causal.texts
    monkeypatch.setattr(
        causal, "texts", lambda texts, **_: encoded.append(len(texts)) or encode(texts)
    )
    assert torch.equal(cached_class_features(causal, prompts, templates), first)
    assert encoded == []
    other = cached_class_features(causal, prompts[::-1], templates)
    assert torch.allclose(other, first.flip(0), atol=1e-6)
    for path in (tmp_path / "texts").glob("*.safetensors"):
        path.write_bytes(b"damaged")
    assert torch.equal(cached_class_features(causal, prompts, templates), first)
    assert encoded == [6, 6]


def test_class_features__are_the_normalised_mean_over_synonyms(
    tiny_backbone: Callable[..., Backbone],
) -> None:
    clip = tiny_backbone()
    prompts = [["red square", "plain red"], "kite", ("blue disc", "round", "ring")]
    templates = [PLAIN, "a drawing of a {}."]
    found = class_features(clip, prompts, templates)
    for c, phrases in enumerate([prompts[0], ["kite"], prompts[2]]):
        texts = [fill(template, phrase) for phrase in phrases for template in templates]
        mean = clip.texts(texts).mean(0)
        assert torch.allclose(found[c], mean / mean.norm(), atol=1e-6)


def test_texts__show_progress_where_there_are_many(
    tiny_backbone: Callable[..., Backbone],
) -> None:
    rows: list[dict[str, Any]] = []
    names = [f"kite {i}" for i in range(11)]
    features = tiny_backbone().texts(names, batch_size=2, log=lambda **row: rows.append(row))
    assert [row["done"] for row in rows] == [0, 2, 4, 6, 8, 10, 11]
    assert {row["total"] for row in rows} == {11}
    assert torch.equal(features, tiny_backbone().texts(names, batch_size=2))


def test_class_features__of_many_texts_are_encoded_some_classes_at_a_time(
    tiny_clip: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Backbone.load(tiny_clip(), engine="torch")
    prompts = ["dog", ["red kite", "kite"], "art", ["soft paper"], "owl", "toy car", "sea"]
    templates = [f"a {i} {{}}." for i in range(5)]
    whole = class_features(clip, prompts, templates)
    seen = list[int]()
    encode = clip.texts

    def texts(some: list[str], log: Any) -> torch.Tensor:
        seen.append(len(some))
        log(stage="texts", done=len(some), total=len(some))
        return encode(some)

    monkeypatch.setattr(clip, "texts", texts)
    monkeypatch.setattr("anyclass.features.text.AT_ONCE", 20)
    said = list[dict[str, Any]]()
    found = class_features(clip, prompts, templates, lambda **row: said.append(row))
    assert torch.allclose(found, whole, atol=1e-6)
    assert seen == [20, 15, 5]
    assert [(row["done"], row["total"]) for row in said] == [(20, 40), (35, 40), (40, 40)]
