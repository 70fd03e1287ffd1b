"""Train the bridge of the starter model: from package registries to one safetensors file.

    python scripts/train_starter.py --work DIR [--out src/anyclass/backbone/starter.safetensors]

Needs `npm` and, for WordNet and clip art, Debian's `apt-get` and `dpkg-deb`. Downloads and image
features are kept in DIR. First, a bridge is trained without a fifth of the concepts, to validate it
on unknown names and to set the temperature; then the bridge that is shipped, on all concepts. With
`--without`, `--share` or `--set`, for ablations, the scores are on the same fifth, and the file is
trained on the remaining data. `benchmarks/starter.py` measures a bridge on real images.
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
    evidence_of,
    initial_bridge,
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
"""Views of each drawing: one on white, and five random ones."""

SIDE = 224
"""Height and width of a view in pixels."""

LARGEST = 20_000_000
"""Most pixels of a clip art file; some are decompression bombs."""

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
"""Subgroups of Unicode's emoji -> their class names in a validation set."""


@dataclass(frozen=True)
class Material:
    """All training data."""

    concepts: Sequence[Concept]
    """ImageNet's classes first, then emoji and clip art."""
    relatives: Sequence[tuple[str, str, list[int]]]
    """Other nouns of ImageNet-21k: name, gloss, ImageNet classes."""
    drawings: Sequence[Drawing]
    """N drawings."""
    features: Float[Tensor, "N V W"]
    """Image features of V views of each drawing."""
    photographs: Photographs
    """Statistics of photographs."""
    rows: Float[Tensor, "K W"]
    """Weights of the image encoder's classifier."""
    biases: Float[Tensor, " K"]
    """Biases of the image encoder's classifier."""
    clip: Backbone
    """Image and text encoder without a bridge."""

    @cached_property
    def drawn_concepts(self) -> list[Concept]:
        """Concept of each drawing."""
        concept_of = {one.key: one for one in self.concepts if one.source != "imagenet"}
        return [concept_of[drawing.key] for drawing in self.drawings]

    @cached_property
    def texts(self) -> tuple[dict[str, int], Float[Tensor, "M F T"]]:
        """Row of each text, and the pooled features of all texts in every template."""
        plain = {t for c in self.concepts for kind in KINDS[:-1] for t in c.words.get(kind, ())}
        glosses = {t for c in self.concepts for t in c.words.get("gloss", ())} - plain
        forms = [fill(t, text) for text in sorted(plain) for t in TEMPLATES]
        forms += [text for text in sorted(glosses) for _ in TEMPLATES]
        rows = {text: i for i, text in enumerate([*sorted(plain), *sorted(glosses)])}
        return rows, self.pooled(forms).unflatten(0, (-1, len(TEMPLATES)))

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
        """Pooled features of the relatives in the first two templates, and of their glosses."""
        forms = [[fill(PLAIN, n), n, gloss] for n, gloss, _ in self.relatives]
        rows = self.pooled([form for some in forms for form in some])
        return rows.view(-1, 3, rows.shape[1])


def main() -> None:
    """Download, embed, train and save; print the scores as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder, kept between runs")
    parser.add_argument("--out", type=Path, default=BRIDGE, help="file of the bridge")
    parser.add_argument("--without", nargs="*", default=[], help="sources or kinds to exclude")
    parser.add_argument("--share", type=float, default=1.0, help="share of the drawings")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="settings")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    asked = parser.parse_args()
    settings = changed(Settings(), asked.set)
    fetch(asked.work)
    with TemporaryDirectory() as folder:
        material = read(asked.work, Path(folder))
    _, figures = train_bridge(material, settings, asked, held_out=True)
    print(json.dumps({"asked": vars(asked) | {"work": None, "out": None}} | figures), flush=True)
    final, _ = train_bridge(material, settings, asked, held_out=False)
    with atomic_write(asked.out) as path:
        save_file(final.tensors(figures["scale"]), path)


def changed(settings: Settings, pairs: Sequence[str]) -> Settings:
    """Settings with some values replaced, as in `quiet=10`."""
    kinds = {field.name: type(getattr(settings, field.name)) for field in fields(settings)}
    values = dict(pair.split("=", 1) for pair in pairs)
    return replace(settings, **{name: kinds[name](value) for name, value in values.items()})


def read(work: Path, folder: Path) -> Material:
    """Read concepts and drawings, and assemble image and text encoder in `folder`."""
    wordnet = WordNet(work / "usr/share/wordnet")
    model, tokenizer, rows, biases = towers(folder)
    clip = Backbone.of(model, tokenizer, "towers")
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
    """Readable drawings, and the features of their views; cached at `path`."""
    if not path.is_file():
        run = engine(clip, "head").run
        features = []
        drawn = []
        with ProcessPoolExecutor() as pool:
            for index, images in enumerate(pool.map(views, drawings, chunksize=16)):
                if images is not None:
                    pixels = clip.preprocessing.normalise(torch.from_numpy(images).movedim(3, 1))
                    features.append(run(pixels).half())
                    drawn.append(index)
                if index % 500 == 0:
                    print(f"embedding drawings: {index} of {len(drawings)}", flush=True)
        save_file({"features": torch.stack(features), "drawn": torch.tensor(drawn)}, path)
    kept = load_file(path)
    return [drawings[i] for i in kept["drawn"].tolist()], kept["features"]


def views(drawing: Drawing) -> Any:
    """uint8 pixels (V, H, W, 3); None for a drawing that cannot be read or is too large."""
    chance = random.Random(f"{drawing.vendor} {drawing.key}")
    try:
        image = opened(drawing.content)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return np.stack([on_white(image), *(varied(image, chance) for _ in range(VIEWS - 1))])


def opened(content: str | Path) -> Image.Image:
    """Render a drawing with transparency, the longer side about `SIDE` pixels.

    Raises:
        ValueError: it cannot be rendered, or is too large.
    """
    from resvg_py import svg_to_bytes

    if isinstance(content, str):
        png = svg_to_bytes(content, width=SIDE, height=SIDE, skip_system_fonts=True)
        return Image.open(io.BytesIO(png)).convert("RGBA")
    opened = Image.open(content, formats=["PNG"])
    if opened.width * opened.height > LARGEST:
        raise ValueError("too large")
    image = opened.convert("RGBA")
    image.thumbnail((SIDE * 3 // 2, SIDE * 3 // 2), Image.Resampling.BICUBIC)
    return image


def on_white(image: Image.Image) -> Any:
    """Test view: the drawing on white, resized by its shorter side and cropped."""
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    scale = SIDE / min(white.size)
    width, height = (max(SIDE, round(side * scale)) for side in white.size)
    left = (width - SIDE) // 2
    top = (height - SIDE) // 2
    resized = white.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)))


def varied(image: Image.Image, chance: random.Random) -> Any:
    """Random view: moved, rotated, mirrored, on a coloured background, with changed colours."""
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
    left, top = (chance.randint(*span) for span in spare)
    ground.paste(image, (left, top), image)
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


def train_bridge(
    material: Material, settings: Settings, asked: argparse.Namespace, held_out: bool
) -> tuple[Bridge, dict[str, Any]]:
    """Train a bridge; with `held_out`, exclude a fifth of the concepts and score it on them."""
    start = time.monotonic()
    torch.manual_seed(asked.seed)
    own = [one for one in material.concepts if one.source == "imagenet"]
    own = [one for one in own if not (held_out and one.held_out)]
    classes = torch.tensor([int(one.key) for one in own])
    units = class_units(material.rows, material.biases)
    evidence = evidence_of(material.photographs, units, classes, settings.evidence)
    names, texts = material.texts
    centre = texts[[names[one.words["name"][0]] for one in own]].mean((0, 1))
    training_sets = list(class_texts(material, settings, set(classes.tolist()), asked.without))
    mapped = text_map(training_sets, evidence, centre, settings.ridge)
    features = drawings_of(material, held_out, asked)
    bridge = initial_bridge(
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
        datasets = dict(validation_sets(material, bridge, settings))
        figures |= {name: accuracy(*dataset) for name, dataset in datasets.items()}
        figures["scale"] = likeliest_scale(list(datasets.values()))
    return bridge, figures | {"seconds": round(time.monotonic() - start)}


def class_texts(
    material: Material, settings: Settings, classes: set[int], without: Sequence[str]
) -> Iterator[TrainingSet]:
    """Texts for ImageNet's classes: their own words, and those of their relatives."""
    names, texts = material.texts
    for kind, weight in zip(KINDS, settings.weights, strict=True):
        classes_of: dict[str, list[int]] = {}
        for i in sorted(classes):
            for text in material.concepts[i].words.get(kind, ()):
                classes_of.setdefault(text, []).append(i)
        if classes_of and weight and kind not in without:
            index = [names[text] for text in classes_of]
            weights = torch.full((len(classes_of),), weight)
            yield TrainingSet(texts[index], list(classes_of.values()), weights)
    if "relatives" not in without:
        index = []
        some = []
        for row, (*_, own) in enumerate(material.relatives):
            if kept := [i for i in own if i in classes]:
                index.append(row)
                some.append(kept)
        weights = torch.tensor([settings.relatives / len(kept) for kept in some])
        yield TrainingSet(material.relative_texts[index], some, weights)


def drawings_of(material: Material, held_out: bool, asked: argparse.Namespace) -> LabelledFeatures:
    """Drawings of concepts with words; `held_out` excludes a fifth of the concepts."""
    names, texts = material.texts
    out = set(asked.without)
    index = []
    words = []
    chance = np.random.default_rng(0)
    pairs = zip(material.drawings, material.drawn_concepts, strict=True)
    for i, (drawing, concept) in enumerate(pairs):
        if {concept.source, drawing.vendor} & out or (held_out and concept.held_out):
            continue
        kept = {}
        for kind, own in concept.words.items():
            if own and kind not in out:
                kept[kind] = [names[text] for text in own]
        if kept and chance.random() < asked.share:
            index.append(i)
            words.append(kept)
    return LabelledFeatures(material.features[index], words, texts)


ValidationSet = tuple[Float[Tensor, "N C"], Int[Tensor, " N"]]
"""Cosines of N images with C names, and the true columns."""


@torch.no_grad()
def validation_sets(
    material: Material, bridge: Bridge, settings: Settings
) -> Iterator[tuple[str, ValidationSet]]:
    """Validation sets of held-out concepts, with "a photo of a {}."."""

    def cosines(images: Tensor, right: Sequence[str], names: Sequence[str]) -> ValidationSet:
        prompts = material.pooled([fill(PLAIN, name) for name in names])
        texts = normalize(bridge.text(prompts), dim=1)
        truth = torch.tensor([names.index(name) for name in right])
        return normalize(bridge.image(images.float()), dim=1) @ texts.T, truth

    held = [one for one in material.concepts if one.held_out]
    own = [one for one in held if one.source == "imagenet"]
    classes = torch.tensor([int(one.key) for one in own]).repeat(20)
    drawn = [i for i, one in enumerate(material.drawn_concepts) if one.held_out]
    clutter = material.features[drawn].flatten(0, 1)
    random_draw = np.random.default_rng(5)
    photographs = material.photographs.synthetic(classes, clutter, settings, random_draw)
    names = [one.words["name"][0] for one in own]
    yield "made-up photographs, their names", cosines(photographs, names * 20, names)
    concepts = [material.drawn_concepts[i] for i in drawn]
    plain = material.features[drawn][:, 0]
    for source, title in (("emoji", "emoji, their names"), ("clipart", "clip art, their titles")):
        some = [i for i, one in enumerate(concepts) if one.source == source and one.words["name"]]
        right = [concepts[i].words["name"][0] for i in some]
        yield title, cosines(plain[some], right, sorted(set(right)))
    some = [i for i, one in enumerate(concepts) if one.group in SUBGROUPS]
    right = [SUBGROUPS[concepts[i].group] for i in some]
    yield "emoji, their groups", cosines(plain[some], right, list(SUBGROUPS.values()))


def accuracy(cosines: Float[Tensor, "N C"], right: Int[Tensor, " N"]) -> float:
    """Accuracy in percent."""
    return round(100 * float((cosines.argmax(1) == right).float().mean()), 1)


if __name__ == "__main__":
    main()
