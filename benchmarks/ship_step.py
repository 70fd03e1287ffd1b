"""Time of a training step of SHIP's generator, compared with encoding images and full texts.

    python benchmarks/ship_step.py [--batch 32] [--device cuda] [--model ViT-B-16]

Plain: the images of a batch through the image encoder, texts of 77 tokens through the text encoder.
Here: features embedded once, texts cut to the longest of the batch. ViT-B/16 with random weights,
100 class names; forward, backward and SGD; the same VAE encoder and bias network.
"""

import json
import random
from importlib.resources import files
from pathlib import Path
from typing import Any

import open_clip
import torch
from side_by_side import main, side_by_side, step
from torch.nn.functional import normalize

from anyclass.backbone import Backbone, Words
from anyclass.data import Classes
from anyclass.features.text import PLAIN, class_features
from anyclass.methods.ship_equations import kl_to_normal, squared_distance
from anyclass.methods.ship_training import frozen
from anyclass.methods.ship_vae import Generator, Vae

RESULTS = Path(__file__).parent / "results" / "ship_step.json"
CLASSES = 100


def measure(
    batch: int = 32, device: str = "cpu", name: str = "ViT-B-16", repeat: int = 3
) -> list[dict[str, Any]]:
    """The row of a generator step."""
    draw = random.Random(0)
    b = batch
    kinds = json.loads(files("anyclass.captioning").joinpath("vocabulary.json").read_text("utf-8"))
    words = sorted({word for some in kinds.values() for word in some})
    classes = Classes.of(draw.sample(words, CLASSES))
    model = open_clip.create_model(name).to(device)
    tokenizer = open_clip.get_tokenizer(name)
    clip = Backbone.of(model, tokenizer, name)
    with torch.no_grad():
        t = class_features(clip, classes.prompts, [PLAIN])
    maker = Generator(Vae(), clip, classes, t, seed=0)
    pixels = torch.randn(b, 3, 224, 224, device=device)
    x = normalize(torch.randn(b, t.shape[1], device=device), dim=-1)
    c = torch.tensor([draw.randrange(CLASSES) for _ in range(b)])
    ids = tokenizer([f"X X X X {classes.prompts[i]}." for i in c.tolist()]).to(device)
    full = Words(ids, model.token_embedding(ids).detach())
    first = maker.learner.place
    after = first + maker.learner.length

    def encode(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mu, lambda_ = maker.encode(x, c)
        return mu + (lambda_ / 2).exp() * torch.randn_like(mu), kl_to_normal(mu, lambda_)

    def here() -> torch.Tensor:
        z, kl = encode(x)
        return (squared_distance(x, maker.decode(z, c)) + kl).mean()

    def plain() -> torch.Tensor:
        with torch.no_grad():
            features = clip.images(pixels)
        z, kl = encode(features)
        parts = [full.embeddings[:, :first], maker.prompts(z), full.embeddings[:, after:]]
        decoded = clip.prompts(Words(ids, torch.cat(parts, dim=1)))
        return (squared_distance(features, decoded) + kl).mean()

    inputs = list(maker.parameters())
    with frozen(clip):
        found = side_by_side(step(plain, inputs), step(here, inputs), repeat)
    with_context = maker.learner.with_context(maker.prompts(encode(x)[0]), c)
    row = {
        "what": "SHIP, step of the generator",
        "model": name,
        "batch": b,
        "device": device,
        "tokens_plain": b * ids.shape[1],
        "tokens_here": b * int(with_context.ids.shape[1]),
        "images_plain": b,
        "images_here": 0,
    }
    return [row | found.row()]


if __name__ == "__main__":
    main(__doc__, measure, RESULTS, batch=32, model="ViT-B-16")
