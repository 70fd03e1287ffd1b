"""A LatteCLIP step of the whole model, compared with plain encoding of images and texts.

    python benchmarks/text_step.py [--batch 128] [--device cuda] [--model ViT-B-32]

Plain: the images, and class text twice, image and group text of each image, all 4 B at 77 tokens.
Here: the images, and each distinct text once, in batches of similar length, cut to the longest.
Texts of 8 to 20 words, one in fifty at full length; 10 classes, 32 groups each; ViT-B-32 with
random weights; forward, backward and SGD. The texts alone stand in the second row; in the third the
whole step with `--precision bf16`, on processors that gain by it.
"""

import json
import random
from importlib.resources import files
from pathlib import Path
from typing import Any

import open_clip
import torch
from side_by_side import main, side_by_side, step
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.backbone.engine import multiplies_bf16
from anyclass.captioning.captions import TextFeatures

RESULTS = Path(__file__).parent / "results" / "text_step.json"
CLASSES, GROUPS = 10, 32


def sentence(words: list[str], draw: random.Random) -> str:
    """Random sentence of 8 to 20 words, or rarely 100."""
    length = 100 if draw.random() < 0.02 else draw.randint(8, 20)
    return " ".join(draw.choice(words) for _ in range(length))


def measure(
    batch: int = 32, device: str = "cpu", name: str = "ViT-B-32", repeat: int = 3
) -> list[dict[str, Any]]:
    """Rows of the whole step, and of its texts."""
    draw = random.Random(0)
    b = batch
    kinds = json.loads(files("anyclass.captioning").joinpath("vocabulary.json").read_text("utf-8"))
    words = [word for some in kinds.values() for word in some]
    model = open_clip.create_model(name).to(device)
    tokenizer = open_clip.get_tokenizer(name)
    clip = Backbone.of(model, tokenizer, name)
    strings = [f"a photo of a {words[i]}." for i in range(CLASSES)]
    strings += [sentence(words, draw) for _ in range(CLASSES * GROUPS + b)]
    of_class = torch.tensor([draw.randrange(CLASSES) for _ in range(2 * b)]).view(2, b)
    group = torch.tensor([CLASSES + draw.randrange(CLASSES * GROUPS) for _ in range(b)])
    image = torch.arange(b) + CLASSES * (1 + GROUPS)
    numbers = torch.stack([of_class[0], of_class[1], image, group])
    ours = TextFeatures(clip, strings, "all", frozen=False)
    ids = tokenizer([strings[i] for i in numbers.flatten()]).to(device)
    pixels = torch.randn(b, 3, 224, 224, device=device)
    others = ("visual", "logit_scale")
    of_texts = [p for key, p in model.named_parameters() if not key.startswith(others)]
    of_images = list(model.visual.parameters())

    def plain_texts() -> Tensor:
        return torch.cat([model.encode_text(part) for part in ids.split(64)]).square().sum()

    def texts() -> Tensor:
        return ours(numbers).square().sum()

    def images() -> Tensor:
        encoded: Tensor = model.encode_image(pixels)
        return encoded.square().sum()

    rounded = Backbone.of(model, tokenizer, name, precision="bf16")
    texts_in_bf16 = TextFeatures(rounded, strings, "all", frozen=False)

    def in_bf16() -> Tensor:
        encoded = rounded.projected(pixels, "all")
        return texts_in_bf16(numbers).square().sum() + encoded.square().sum()

    both = of_texts + of_images
    plain = step(lambda: plain_texts() + images(), both)
    here = step(lambda: texts() + images(), both)
    whole = side_by_side(plain, here, repeat, device=device)
    of_text = step(texts, of_texts)
    alone = side_by_side(step(plain_texts, of_texts), of_text, repeat, device=device)
    lengths = clip.text_lengths(ours.hidden[numbers.unique()])
    parts = lengths.sort().values.split(64)
    shape = {"model": name, "batch": b, "device": device}
    counts = {
        "texts_plain": 4 * b,
        "texts_here": len(numbers.unique()),
        "tokens_plain": 4 * b * ids.shape[1],
        "tokens_here": sum(int(part.max()) * len(part) for part in parts),
    }
    rows = [
        {"what": "LatteCLIP, step of the whole model"} | shape | whole.row(),
        {"what": "LatteCLIP, texts of a step"} | shape | counts | alone.row(),
    ]
    if device == "cpu" and multiplies_bf16():
        what = "LatteCLIP, step of the whole model, --precision bf16"
        found = side_by_side(plain, step(in_bf16, both), repeat, torch.bfloat16)
        rows.append({"what": what} | shape | found.row())
    return rows


if __name__ == "__main__":
    main(__doc__, measure, RESULTS, batch=128, model="ViT-B-32")
