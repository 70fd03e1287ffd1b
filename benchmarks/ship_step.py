"""Time of a training step of SHIP's generator, compared with encoding images and full texts.

    python benchmarks/ship_step.py [--batch 32] [--device cuda]

Plain: the images of a batch through the image encoder, texts of 77 tokens through the text encoder.
Here: features embedded once, texts cut to the longest of the batch. ViT-B/16 with random weights,
100 class names, forward and backward, the same VAE encoder and bias network.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import open_clip
import torch
from torch.nn.functional import normalize

from anyclass.backbone import Backbone, Words
from anyclass.data import Classes
from anyclass.features.text import PLAIN, class_features
from anyclass.methods.ship_vae import Generator, Vae, frozen, kl_to_normal, squared_distance

RESULTS = Path(__file__).parent / "results" / "ship_step.json"
NAME, CLASSES = "ViT-B-16", 100


def seconds(loss: Callable[[], torch.Tensor], inputs: list[torch.Tensor]) -> float:
    """Time of forward and backward pass."""
    start = time.perf_counter()
    loss().backward(inputs=inputs)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Count tokens and measure times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=32, help="batch size")
    parser.add_argument("--device", default="cpu", help="torch device")
    asked = parser.parse_args()
    draw = random.Random(0)
    b = asked.batch
    kinds = json.loads(files("anyclass.captioning").joinpath("vocabulary.json").read_text("utf-8"))
    words = sorted({word for some in kinds.values() for word in some})
    classes = Classes.of(draw.sample(words, CLASSES))
    model = open_clip.create_model(NAME).to(asked.device)
    clip = Backbone(model, open_clip.get_tokenizer(NAME), NAME)
    with torch.no_grad():
        t = class_features(clip, classes.prompts, [PLAIN])
    maker = Generator(Vae(), clip, classes, t, seed=0)
    pixels = torch.randn(b, 3, 224, 224, device=asked.device)
    x = normalize(torch.randn(b, t.shape[1], device=asked.device), dim=-1)
    c = torch.tensor([draw.randrange(CLASSES) for _ in range(b)])
    ids = clip._tokenizer([f"X X X X {classes.prompts[i]}." for i in c.tolist()]).to(asked.device)
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
        seconds(here, inputs)  # warm-up
        times = [(seconds(plain, inputs), seconds(here, inputs)) for _ in range(3)]
    slow, fast = (min(some) for some in zip(*times, strict=True))
    row = {
        "batch": b,
        "device": asked.device,
        "tokens_plain": b * ids.shape[1],
        "tokens_here": b
        * int(maker.learner.with_context(maker.prompts(encode(x)[0]), c).ids.shape[1]),
        "images_plain": b,
        "images_here": 0,
        "seconds_plain": round(slow, 2),
        "seconds_here": round(fast, 2),
        "times_faster": round(slow / fast, 1),
    }
    print(json.dumps(row))
    RESULTS.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
