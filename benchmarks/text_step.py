"""Time of the texts of a LatteCLIP step of the whole model, compared with plain encoding.

    python benchmarks/text_step.py [--batch 128] [--device cuda]

Plain: class text twice, image and group text of each image, all 4 B at 77 tokens. Here: each
distinct text once, in batches of similar length, cut to the longest. Texts of 8 to 20 words, one in
fifty at full length; 10 classes, 32 groups each; the text encoder of ViT-B-32 with random weights;
forward and backward.
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

from anyclass.backbone import Backbone
from anyclass.captioning.captions import TextFeatures

RESULTS = Path(__file__).parent / "results" / "text_step.json"
CLASSES, GROUPS, IMAGES = 10, 32, 20_000


def sentence(words: list[str], draw: random.Random) -> str:
    """Random sentence of 8 to 20 words, or rarely 100."""
    length = 100 if draw.random() < 0.02 else draw.randint(8, 20)
    return " ".join(draw.choice(words) for _ in range(length))


def seconds(features: Callable[[], torch.Tensor]) -> float:
    """Time of forward and backward pass."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    features().square().sum().backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Count tokens and measure times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=128, help="batch size")
    parser.add_argument("--device", default="cpu", help="torch device")
    asked = parser.parse_args()
    draw = random.Random(0)
    b = asked.batch
    kinds = json.loads(files("anyclass.captioning").joinpath("vocabulary.json").read_text("utf-8"))
    words = [word for some in kinds.values() for word in some]
    model = open_clip.create_model("ViT-B-32").to(asked.device)
    clip = Backbone(model, open_clip.get_tokenizer("ViT-B-32"), "ViT-B-32")
    strings = [f"a photo of a {words[i]}." for i in range(CLASSES)]
    strings += [sentence(words, draw) for _ in range(CLASSES * GROUPS + b)]
    of_class = torch.tensor([[draw.randrange(CLASSES) for _ in range(b)] for _ in range(2)])
    group = torch.tensor([CLASSES + draw.randrange(CLASSES * GROUPS) for _ in range(b)])
    image = torch.arange(b) + CLASSES * (1 + GROUPS)
    numbers = torch.stack([of_class[0], of_class[1], image, group])
    ours = TextFeatures(clip, strings, "all", frozen=False)
    ids = clip._tokenizer([strings[i] for i in numbers.flatten()]).to(asked.device)
    ours(numbers[:, :2]).sum().backward()  # warm-up
    plain = []
    here = []
    for _ in range(3):
        plain.append(seconds(lambda: torch.cat([model.encode_text(p) for p in ids.split(64)])))
        here.append(seconds(lambda: ours(numbers)))
    lengths = clip.text_lengths(ours.hidden[numbers.unique()])
    parts = [part for part in lengths.sort().values.split(64)]
    row = {
        "batch": b,
        "device": asked.device,
        "texts_plain": 4 * b,
        "texts_here": len(numbers.unique()),
        "tokens_plain": 4 * b * ids.shape[1],
        "tokens_here": sum(int(part.max()) * len(part) for part in parts),
        "seconds_plain": round(min(plain), 2),
        "seconds_here": round(min(here), 2),
        "ratio": round(min(here) / min(plain), 3),
    }
    print(json.dumps(row))
    RESULTS.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
