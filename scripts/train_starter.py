"""Train the bridge of the starter model: from package registries to one safetensors file.

    python scripts/train_starter.py --work DIR [--out src/anyclass/backbone/starter.safetensors]

Needs `npm` and, for WordNet and clip art, Debian's `apt-get` and `dpkg-deb`. Drawing and embedding
are kept in DIR. First a bridge is trained without one concept in five, to see what it makes of
names it has not met and to set the temperature; then the bridge that is shipped, on everything.
With `--without`, `--share` or `--set`, for ablations, the figures are on one concept in five too,
and the file is trained on everything they leave. `benchmarks/starter.py` measures a bridge on real
images.
"""

import argparse
import io
import json
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageEnhance
from safetensors.torch import load_file, save_file
from starter_bridge import (
    KINDS,
    TEMPLATES,
    Bridge,
    LabelledFeatures,
    Photographs,
    Settings,
    TrainingSet,
    beginning,
    evidence_of,
    likeliest_scale,
    text_map,
    train,
)
from starter_sources import (
    Concept,
    Drawing,
    WordNet,
    clipart,
    emoji,
    emoji_drawings,
    fetch,
    imagenet,
    relatives,
)
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.backbone.engine import engine
from anyclass.backbone.starter import BRIDGE, class_units, towers
from anyclass.features.text import PLAIN, fill
from anyclass.files import atomic_write

VIEWS = 6
"""Of each drawing: as it is on white, and five at random."""

SIDE = 224
"""Pixels a drawing is made of."""

LARGEST = 20_000_000
"""Pixels of a file of clip art; some are decompression bombs."""

SUBGROUPS = {
    "animal-mammal": "mammal",
    "animal-bird": "bird",
    "animal-marine": "sea animal",
    "animal-bug": "insect",
    "animal-reptile": "reptile",
    "food-fruit": "fruit",
    "food-vegetable": "vegetable",
    "food-sweet": "dessert",
    "food-prepared": "meal",
    "drink": "drink",
    "transport-ground": "vehicle",
    "transport-water": "boat",
    "transport-air": "aircraft",
    "clothing": "clothing",
    "place-building": "building",
    "sport": "sport",
    "time": "clock",
    "plant-flower": "flower",
    "plant-other": "plant",
    "tool": "tool",
    "musical-instrument": "musical instrument",
    "face-smiling": "smiling face",
    "hand-fingers-open": "hand",
    "science": "science",
    "household": "household object",
    "book-paper": "book",
    "office": "office supplies",
    "sky-weather": "weather",
}
"""Subgroups of Unicode's emoji that have a plain name: the classes of a held-out question."""


@dataclass(frozen=True)
class Material:
    """Everything that is trained on."""

    concepts: Sequence[Concept]
    """ImageNet's classes first, then emoji and clip art."""
    relatives: Sequence[tuple[str, str, list[int]]]
    """Other nouns of ImageNet-21k: name, gloss, classes that stand for them."""
    drawings: Sequence[Drawing]
    """N drawings."""
    features: Float[Tensor, "N V W"]
    """Of their views."""
    photographs: Photographs
    """What the image tower knows."""
    rows: Float[Tensor, "K W"]
    """Its classifier."""
    biases: Float[Tensor, " K"]
    """And the biases."""
    clip: Backbone
    """The towers; nothing between them."""

    @cached_property
    def features(self) -> list[Concept]:
        """The concept of each drawing."""
        of = {one.key: one for one in self.concepts if one.source != "imagenet"}
        return [of[drawing.key] for drawing in self.drawings]

    @cached_property
    def texts(self) -> tuple[dict[str, int], Float[Tensor, "M F T"]]:
        """Text -> row, and the pooled features of all texts of concepts in every template."""
        plain = {t for c in self.concepts for kind in KINDS[:-1] for t in c.words.get(kind, ())}
        glosses = {t for c in self.concepts for t in c.words.get("gloss", ())} - plain
        forms = [[fill(t, text) for t in TEMPLATES] for text in sorted(plain)]
        forms += [[text] * len(TEMPLATES) for text in sorted(glosses)]
        rows = {text: i for i, text in enumerate([*sorted(plain), *sorted(glosses)])}
        return rows, self.pooled([form for some in forms for form in some]).unflatten(
            0, (-1, len(TEMPLATES))
        )

    @torch.no_grad()
    def pooled(self, texts: Sequence[str]) -> Float[Tensor, "N T"]:
        """Pooled text features, each distinct text encoded once."""
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        parts = [distinct[i : i + 256] for i in range(0, len(distinct), 256)]
        features = torch.cat([self.clip.text_trunk(part, "head") for part in parts])
        row = {text: i for i, text in enumerate(distinct)}
        return features[[row[text] for text in texts]]

    @cached_property
    def relative_texts(self) -> Float[Tensor, "R 3 T"]:
        """Pooled features of the relatives: in the first two templates, and their glosses."""
        forms = [[fill(PLAIN, n), n, gloss] for n, gloss, _ in self.relatives]
        return self.pooled([form for some in forms for form in some]).unflatten(0, (-1, 3))


def main() -> None:
    """Fetch, embed, train, save; figures go to standard output as one JSON line a bridge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="kept between runs")
    parser.add_argument("--out", type=Path, default=BRIDGE)
    parser.add_argument("--without", nargs="*", default=[], help="sources or kinds to leave out")
    parser.add_argument("--share", type=float, default=1.0, help="of the drawings")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="settings")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    settings = changed(Settings(), asked.set)
    fetch(asked.work)
    with TemporaryDirectory() as place:
        material = read(asked.work, Path(place))
    _, figures = attempt(material, settings, asked, held_out=True)
    print(json.dumps({"asked": vars(asked) | {"work": None, "out": None}} | figures), flush=True)
    final, _ = attempt(material, settings, asked, held_out=False)
    with atomic_write(asked.out) as path:
        save_file(final.tensors(figures["scale"]), path)


def changed(settings: Settings, pairs: Sequence[str]) -> Settings:
    """Settings with some numbers replaced: `quiet=10`."""
    kinds = {field.name: type(getattr(settings, field.name)) for field in fields(settings)}
    values = dict(pair.split("=", 1) for pair in pairs)
    return replace(settings, **{name: kinds[name](value) for name, value in values.items()})


def read(work: Path, place: Path) -> Material:
    """Concepts, drawings and the towers."""
    wordnet = WordNet(work / "usr/share/wordnet")
    model, tokenizer, rows, biases = towers(place)
    clip = Backbone(model, tokenizer, "towers")
    characters = emoji(work, wordnet)
    pieces, drawings = clipart(work, wordnet)
    drawings = [*emoji_drawings(work, characters), *drawings]
    norm = model.visual.trunk.bn2
    return Material(
        [*imagenet(wordnet), *characters, *pieces],
        relatives(wordnet),
        *embedded(clip, drawings, work / "features.safetensors"),
        Photographs.of(rows, norm.bias.detach(), norm.weight.detach()),
        rows,
        biases,
        clip,
    )


def embedded(
    clip: Backbone, drawings: Sequence[Drawing], path: Path
) -> tuple[list[Drawing], Float[Tensor, "N V W"]]:
    """The drawings that can be drawn and the features of their views; kept at `path`."""
    if not path.is_file():
        run, features, drawn = engine(clip, "head").run, [], []
        with ProcessPoolExecutor() as pool:
            for index, seen in enumerate(pool.map(views, drawings, chunksize=16)):
                if seen is not None:
                    pixels = clip.preprocessing.normalise(torch.from_numpy(seen).movedim(3, 1))
                    features.append(run(pixels).half())
                    drawn.append(index)
                if index % 500 == 0:
                    print(f"drawn and embedded: {index} of {len(drawings)}", flush=True)
        save_file({"features": torch.stack(features), "drawn": torch.tensor(drawn)}, path)
    kept = load_file(path)
    return [drawings[i] for i in kept["drawn"].tolist()], kept["features"]


def views(drawing: Drawing) -> Any:
    """uint8 pixels (V, H, W, 3); None for what cannot be read or is too large."""
    chance = random.Random(f"{drawing.vendor} {drawing.key}")
    try:
        image = opened(drawing.content)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return np.stack([on_white(image), *(varied(image, chance) for _ in range(VIEWS - 1))])


def opened(content: str | Path) -> Image.Image:
    """A drawing with its transparency, the longer side about `SIDE` pixels.

    Raises:
        ValueError: it is not to be drawn, or too large.
    """
    from resvg_py import svg_to_bytes

    if isinstance(content, str):
        png = svg_to_bytes(content, width=SIDE, height=SIDE, skip_system_fonts=True)
        return Image.open(io.BytesIO(png)).convert("RGBA")
    image = Image.open(content, formats=["PNG"])
    if image.width * image.height > LARGEST:
        raise ValueError("too large")
    image = image.convert("RGBA")
    image.thumbnail((SIDE * 3 // 2, SIDE * 3 // 2), Image.Resampling.BICUBIC)
    return image


def on_white(image: Image.Image) -> Any:
    """As a model is tested: the whole drawing on white, its shorter side filled and cut."""
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    scale = SIDE / min(white.size)
    width, height = (max(SIDE, round(side * scale)) for side in white.size)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    resized = white.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)))


def varied(image: Image.Image, chance: random.Random) -> Any:
    """Placed, turned, mirrored, on a coloured ground, with other colours, or small and blurred."""
    if chance.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if chance.random() < 0.4:
        angle = chance.uniform(-20, 20)
        image = image.rotate(angle, expand=True, resample=Image.Resampling.BICUBIC)
    scale = chance.uniform(0.5, 1.15) * SIDE / max(image.size)
    size = (max(8, int(image.width * scale)), max(8, int(image.height * scale)))
    image = image.resize(size, Image.Resampling.BICUBIC)
    darkest = chance.choice([255, 255, 255, 120, 120, 0])
    ground = Image.new("RGB", (SIDE, SIDE), tuple(chance.randint(darkest, 255) for _ in range(3)))
    spare = [(min(0, SIDE - side), max(0, SIDE - side)) for side in size]
    ground.paste(image, tuple(chance.randint(*span) for span in spare), image)
    if chance.random() < 0.5:
        for change, low, high in (
            (ImageEnhance.Brightness, 0.6, 1.3),
            (ImageEnhance.Contrast, 0.5, 1.3),
            (ImageEnhance.Color, 0.2, 1.5),
        ):
            ground = change(ground).enhance(chance.uniform(low, high))
    if chance.random() < 0.3:
        small = chance.choice([32, 32, 48, 64, 96])
        ground = ground.resize((small, small), Image.Resampling.BICUBIC)
        ground = ground.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    if chance.random() < 0.1:
        ground = ground.convert("L").convert("RGB")
    return np.asarray(ground)


def attempt(
    material: Material, settings: Settings, asked: argparse.Namespace, held_out: bool
) -> tuple[Bridge, dict[str, Any]]:
    """Train a bridge; with `held_out` without one concept in five, and score it on those."""
    start = time.monotonic()
    torch.manual_seed(asked.seed)
    own = [one for one in material.concepts if one.source == "imagenet"]
    own = [one for one in own if not (held_out and one.held_out)]
    classes = torch.tensor([int(one.key) for one in own])
    units = class_units(material.rows, material.biases)
    evidence = evidence_of(material.photographs, units, classes, settings.evidence)
    names, texts = material.texts
    centre = texts[[names[one.words["name"][0]] for one in own]].mean((0, 1))
    lessons = list(taught(material, settings, set(classes.tolist()), asked.without))
    mapped = text_map(lessons, evidence, centre, settings.ridge)
    features = drawings_of(material, held_out, asked)
    bridge = beginning(
        material.photographs,
        units,
        (mapped, centre),
        features.features[:, :3].flatten(0, 1).float(),
        settings,
    )
    losses = train(bridge, features, material.photographs, settings, asked.seed)
    bridge.requires_grad_(False)
    figures: dict[str, Any] = {"drawings": len(features.words), "loss": np.mean(losses[-100:])}
    if held_out:
        questions = dict(asked_of(material, bridge, settings))
        figures |= {name: accuracy(*question) for name, question in questions.items()}
        figures["scale"] = likeliest_scale(list(questions.values()))
    return bridge, figures | {"seconds": round(time.monotonic() - start)}


def taught(
    material: Material, settings: Settings, classes: set[int], without: Sequence[str]
) -> Iterator[TrainingSet]:
    """Texts that stand for ImageNet's classes: their own words, and their relatives'."""
    names, texts = material.texts
    for kind, weight in zip(KINDS, settings.weights, strict=True):
        of: dict[str, list[int]] = {}
        for i in sorted(classes):
            for text in material.concepts[i].words.get(kind, ()):
                of.setdefault(text, []).append(i)
        if of and weight and kind not in without:
            index = [names[text] for text in of]
            yield TrainingSet(texts[index], list(of.values()), torch.full((len(of),), weight))
    if "relatives" not in without:
        some = [[i for i in own if i in classes] for *_, own in material.relatives]
        index = [i for i, own in enumerate(some) if own]
        weights = [settings.relatives / len(some[i]) for i in index]
        chosen = material.relative_texts[index]
        yield TrainingSet(chosen, [some[i] for i in index], torch.tensor(weights))


def drawings_of(material: Material, held_out: bool, asked: argparse.Namespace) -> LabelledFeatures:
    """Drawings of concepts that have a word, and these words; `held_out` leaves one in five."""
    names, texts = material.texts
    out = set(asked.without)
    index, words = [], []
    chance = np.random.default_rng(0)
    for i, (drawing, concept) in enumerate(zip(material.drawings, material.features, strict=True)):
        if {concept.source, drawing.vendor} & out or (held_out and concept.held_out):
            continue
        kept = {k: [names[t] for t in w] for k, w in concept.words.items() if w and k not in out}
        if kept and chance.random() < asked.share:
            index.append(i)
            words.append(kept)
    return LabelledFeatures(material.features[index], words, texts)


Question = tuple[Float[Tensor, "N C"], Int[Tensor, " N"]]
"""Cosines of N images with C names, and the right columns."""


@torch.no_grad()
def asked_of(
    material: Material, bridge: Bridge, settings: Settings
) -> Iterator[tuple[str, Question]]:
    """Questions about concepts that were held out, with "a photo of a {}."."""

    def ask(images: Tensor, right: Sequence[str], names: Sequence[str]) -> Question:
        prompts = material.pooled([fill(PLAIN, name) for name in names])
        texts = normalize(bridge.text(prompts), dim=1)
        truth = torch.tensor([names.index(name) for name in right])
        return normalize(bridge.image(images.float()), dim=1) @ texts.T, truth

    held = [one for one in material.concepts if one.held_out]
    own = [one for one in held if one.source == "imagenet"]
    classes = torch.tensor([int(one.key) for one in own]).repeat(20)
    drawn = [i for i, one in enumerate(material.features) if one.held_out]
    clutter = material.features[drawn].flatten(0, 1)
    made_up = material.photographs.made_up(classes, clutter, settings, np.random.default_rng(5))
    names = [one.words["name"][0] for one in own]
    yield "made-up photographs, their names", ask(made_up, names * 20, names)
    of = [material.features[i] for i in drawn]
    plain = material.features[drawn][:, 0]
    for source, place in (("emoji", "emoji, their names"), ("clipart", "clip art, their titles")):
        some = [i for i, one in enumerate(of) if one.source == source and one.words["name"]]
        right = [of[i].words["name"][0] for i in some]
        yield place, ask(plain[some], right, sorted(set(right)))
    some = [i for i, one in enumerate(of) if one.group in SUBGROUPS]
    right = [SUBGROUPS[of[i].group] for i in some]
    yield "emoji, their groups", ask(plain[some], right, list(SUBGROUPS.values()))


def accuracy(cosines: Float[Tensor, "N C"], right: Int[Tensor, " N"]) -> float:
    """Per cent of rows whose largest column is the right one."""
    return round(100 * float((cosines.argmax(1) == right).float().mean()), 1)


if __name__ == "__main__":
    main()
