"""Images per second of anyclass's `embed`, compared with a plain open_clip loop in the same run.

    python benchmarks/speed.py [--images 512]

Both read the same JPEG files and compute unit features. The plain loop is that of open_clip's
README: open, preprocess, batch, `encode_image`. Ratios are measured in one run on one machine.
"""

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from anyclass.backbone import Backbone
from anyclass.data import ImageDataset
from anyclass.features.cache import Embedding
from anyclass.features.extract import BATCH, image_features
from anyclass.features.store import embed

RESULTS = Path(__file__).parent / "results" / "speed.json"


def images(folder: Path, count: int) -> ImageDataset:
    """Create JPEG files of 400 x 300 pixels, smooth enough to compress like photographs."""
    rng = np.random.default_rng(0)
    for i in range(count):
        small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((400, 300)).save(folder / f"{i:05}.jpg", quality=90)
    return ImageDataset.read(folder)


def backbone(name: str) -> Backbone:
    """Load the starter, or create an open_clip architecture with random weights."""
    if name == "starter":
        return Backbone.load(name)
    import open_clip

    torch.manual_seed(0)
    return Backbone(open_clip.create_model(name), open_clip.get_tokenizer(name), name)


@torch.no_grad()
def plain_loop(clip: Backbone, dataset: ImageDataset) -> torch.Tensor:
    """Unit features as in open_clip's README."""
    from open_clip import image_transform

    model = copy.deepcopy(clip.model).to(memory_format=torch.contiguous_format)
    p = clip.preprocessing
    preprocess = image_transform(p.size, False, p.mean, p.std, p.resize_mode, p.interpolation)
    parts = []
    for start in range(0, len(dataset), BATCH):
        rows = range(start, min(start + BATCH, len(dataset)))
        batch = torch.stack([preprocess(Image.open(dataset.path(i))) for i in rows])
        parts.append(model.encode_image(batch, normalize=True))
    return torch.cat(parts)


def ours(clip: Backbone, dataset: ImageDataset) -> torch.Tensor:
    """The same features through `embed`: worker processes, the fastest engine, the cache."""
    return image_features(clip, embed(clip, dataset, Embedding(), lambda **_: None), "head")


def rate(run: Callable[[], torch.Tensor], count: int) -> tuple[float, torch.Tensor]:
    """Images per second, and the features."""
    start = time.perf_counter()
    features = run()
    return count / (time.perf_counter() - start), features


def measure(name: str, count: int) -> dict[str, float | str]:
    """One line of the table."""
    clip = backbone(name)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        os.environ["ANYCLASS_CACHE"] = cache
        dataset = images(Path(folder), count)
        ours(clip, dataset[:BATCH])  # exports the encoder; warm-up of both
        plain_loop(clip, dataset[:BATCH])
        plain, wanted = rate(lambda: plain_loop(clip, dataset), count)
        fast, found = rate(lambda: ours(clip, dataset), count)
        again, _ = rate(lambda: ours(clip, dataset), count)
    agreement = torch.nn.functional.cosine_similarity(wanted, found).min()
    return {
        "tower": name,
        "plain_open_clip_per_second": round(plain, 1),
        "anyclass_per_second": round(fast, 1),
        "ratio": round(fast / plain, 2),
        "from_cache_ratio": round(again / plain, 1),
        "least_cosine": round(float(agreement), 6),
    }


def main() -> None:
    """Run the benchmark and write `results/speed.json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=512, help="number of images")
    count = parser.parse_args().images
    starter = Backbone.load("starter")  # assembled in the user's cache before that is replaced
    del starter
    lines = []
    for name in ("starter", "ViT-B-32"):
        os.environ.pop("ANYCLASS_CACHE", None)
        lines.append(measure(name, count))
        print(json.dumps(lines[-1]))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"threads": torch.get_num_threads(), "rows": lines}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
