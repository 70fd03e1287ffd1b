"""Images per second of anyclass's `embed`, beside what people use, in one process.

    python benchmarks/embed_speed.py [--images 256] [--way anyclass] [--model ViT-B-32]

All read the same JPEG files and compute features. `open_clip`: the loop of its README: open,
preprocess, batch, `encode_image`. `pybioclip`: its classifier's own features, with the same model;
`transformers`: its pipeline, with a CLIP of the same shape, which only ViT-B-32 has. Each where it
is installed. `--way` runs one of them alone and prints its peak memory.
"""

import argparse
import copy
import importlib.util
import json
import logging
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from side_by_side import multiplied_per_second, seconds

from anyclass.backbone import Backbone
from anyclass.data import ImageDataset
from anyclass.features.cache import Embedding
from anyclass.features.extract import BATCH, image_features
from anyclass.features.store import FeatureStore
from anyclass.files import cache_folder

Way = Callable[[ImageDataset], torch.Tensor]
"""Features of all images."""

HERE, PLAIN = "anyclass", "open_clip"
SAMPLE = 4 * BATCH
"""Images that are decoded alone, to know the bound."""


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
    return Backbone.of(open_clip.create_model(name), open_clip.get_tokenizer(name), name)


def preprocess_of(clip: Backbone) -> Callable[[Image.Image], torch.Tensor]:
    """open_clip's own transforms."""
    from open_clip import image_transform

    p = clip.preprocessing
    made: Callable[[Image.Image], torch.Tensor] = image_transform(
        p.size, False, p.mean, p.std, p.resize_mode, p.interpolation
    )
    return made


def with_open_clip(clip: Backbone) -> Way:
    """Unit features as in open_clip's README."""
    model = copy.deepcopy(clip.model).to(memory_format=torch.contiguous_format)
    preprocess = preprocess_of(clip)

    @torch.no_grad()
    def run(dataset: ImageDataset) -> torch.Tensor:
        parts = []
        for start in range(0, len(dataset), BATCH):
            rows = range(start, min(start + BATCH, len(dataset)))
            batch = torch.stack([preprocess(Image.open(dataset.path(i))) for i in rows])
            parts.append(model.encode_image(batch, normalize=True))
        return torch.cat(parts)

    return run


def with_pybioclip(clip: Backbone) -> Way:
    """Unit features of pybioclip's classifier, whose model is compiled; batches as in its docs."""
    from bioclip.predict import BaseClassifier

    classifier = BaseClassifier.__new__(BaseClassifier)
    torch.nn.Module.__init__(classifier)
    classifier.device = "cpu"
    classifier.model = torch.compile(copy.deepcopy(clip.model))  # as its load_pretrained_model does
    classifier.preprocess = preprocess_of(clip)

    def run(dataset: ImageDataset) -> torch.Tensor:
        parts = []
        for start in range(0, len(dataset), BATCH):
            rows = range(start, min(start + BATCH, len(dataset)))
            batch = [classifier.ensure_rgb_image(str(dataset.path(i))) for i in rows]
            parts.append(classifier.create_image_features(batch))
        return torch.cat(parts)

    return run


def with_transformers(clip: Backbone) -> Way:
    """Features of the pipeline of transformers, by a CLIP of the shape of ViT-B/32."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, pipeline

    model = CLIPVisionModel(CLIPVisionConfig(patch_size=32)).eval()
    extract = pipeline("image-feature-extraction", model, image_processor=CLIPImageProcessor())

    def run(dataset: ImageDataset) -> torch.Tensor:
        paths = [str(dataset.path(i)) for i in range(len(dataset))]
        found = extract(paths, batch_size=BATCH, pool=True, return_tensors=True)
        return torch.cat(list(found))

    return run


def with_anyclass(clip: Backbone) -> Way:
    """The features through `embed`: worker processes, the fastest engine, the cache."""

    def run(dataset: ImageDataset) -> torch.Tensor:
        return image_features(
            clip, FeatureStore(clip, dataset).embed(Embedding(), lambda **_: None), "head"
        )

    return run


WAYS: Mapping[str, Callable[[Backbone], Way]] = {
    PLAIN: with_open_clip,
    "pybioclip": with_pybioclip,
    "transformers": with_transformers,
    HERE: with_anyclass,
}


def ways_for(model: str) -> list[str]:
    """What can embed with a model here."""
    found = [PLAIN, HERE]
    if importlib.util.find_spec("bioclip"):
        found.append("pybioclip")
    if model == "ViT-B-32":
        found.append("transformers")
    return found


def forget() -> None:
    """Empty the cache of features; exported encoders stay, as for a user."""
    shutil.rmtree(cache_folder("features"))


def measure(model: str, count: int = 256, repeat: int = 3) -> list[dict[str, Any]]:
    """Rows of one model: images per second of each way, in turns; the bounds of this machine."""
    clip = backbone(model)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        os.environ["ANYCLASS_CACHE"] = cache
        dataset = images(Path(folder), count)
        ways = {name: WAYS[name](clip) for name in ways_for(model)}
        wanted = {name: way(dataset[:BATCH]) for name, way in ways.items()}  # compiles, exports
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeat):
            for name, way in ways.items():
                forget()
                rates[name].append(count / seconds(partial(way, dataset)))
        ways[HERE](dataset)
        again = count / seconds(lambda: ways[HERE](dataset))
        decoding = decoded_per_second(clip, dataset[:SAMPLE])
    cosine = torch.nn.functional.cosine_similarity(wanted[PLAIN], wanted[HERE]).min()
    here = rates[HERE]
    rows = []
    for name, found in rates.items():
        times = [a / b for a, b in zip(here, found, strict=True)]
        rows.append(
            {
                "what": f"embed, {model}, beside {name}" if name != HERE else f"embed, {model}",
                "model": model,
                "images_per_second": round(statistics.median(found), 1),
                "times_faster": round(statistics.median(times), 2),
                "least": round(min(times), 2),
                "most": round(max(times), 2),
                "peak_mib": peak_mib(model, name),
            }
        )
    arithmetic = multiplied_per_second() / flops_of(clip)
    bounds = {
        "from_cache_per_second": round(again),
        "least_cosine": round(float(cosine), 6),
        "bound_decoding_per_second": round(decoding, 1),
        "bound_arithmetic_per_second": round(arithmetic, 1),
    }
    return [row | (bounds if row["what"] == f"embed, {model}" else {}) for row in rows]


def decoded_per_second(clip: Backbone, dataset: ImageDataset) -> float:
    """Images that all cores together decode and resize in a second, and do nothing else."""
    preprocess = preprocess_of(clip)
    start = time.perf_counter()
    for i in range(len(dataset)):
        preprocess(Image.open(dataset.path(i)))
    return len(dataset) / (time.perf_counter() - start) * torch.get_num_threads()


def flops_of(clip: Backbone) -> int:
    """Floating-point operations of the image encoder for one image; a multiply-add counts twice."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        clip.model.encode_image(torch.zeros(1, 3, *clip.preprocessing.size))
    return int(counter.get_total_flops())


def peak_mib(model: str, way: str, count: int = 2 * BATCH) -> int | None:
    """Peak memory of one way alone, in a process of its own, without the workers that it forks."""
    words = [__file__, "--images", str(count), "--model", model, "--way", way]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ANYCLASS_")}
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, check=True
    )
    peak: int | None = json.loads(done.stdout.splitlines()[-1])["peak_mib"]
    return peak


def run_alone(model: str, way: str, count: int) -> None:
    """Embed with one way, and print the peak memory of this process; Linux alone tells it."""
    clip = backbone(model)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        os.environ["ANYCLASS_CACHE"] = cache
        WAYS[way](clip)(images(Path(folder), count))
    status = Path("/proc/self/status").read_text("utf-8")
    kib = re.search(r"VmHWM:\s+(\d+) kB", status)  # getrusage would count the parent's, too
    print(json.dumps({"peak_mib": int(kib[1]) // 1024 if kib else None}))


def main() -> None:
    """Measure and print."""
    logging.disable(logging.WARNING)  # of exporters
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=256, help="number of images")
    parser.add_argument("--model", default="starter", help="starter, or an open_clip architecture")
    parser.add_argument("--way", choices=WAYS, help="run one alone")
    asked = parser.parse_args()
    if asked.way:
        run_alone(asked.model, asked.way, asked.images)
        return
    for row in measure(asked.model, asked.images):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
