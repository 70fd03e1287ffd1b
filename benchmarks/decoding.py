"""What decoding JPEGs at a part of their size changes and saves, on photographs of yours.

    python benchmarks/decoding.py --images FOLDER [--crop 1920x1440] [--model starter]

Prints a row for each bound of the shorter side, in multiples of the model's input: CPU
milliseconds an image, decoded and resized; cosine of the features with those of the full decoding;
images whose best of 1,000 nouns is another one. Last, the same for images that were decoded and
encoded once more, as a measure of what such differences mean. `--crop` cuts three random parts of
that size from each photograph, so that their pixels are those of a camera.
"""

import argparse
import io
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.data import ImageDataset, open_bytes
from anyclass.data.nouns import some_nouns

MULTIPLES = (0, 1, 2, 3, 4)
"""Bounds of the shorter side, as multiples of the model's input; 0: the full size."""

QUALITY = 92
"""Quality of a JPEG that is encoded here."""

Views = UInt8[Tensor, "n 3 H W"]


def encoded(image: Image.Image) -> bytes:
    """A JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def crops(data: bytes, size: tuple[int, int], rng: np.random.Generator) -> list[bytes]:
    """Three random parts of a photograph as JPEGs; none of one that is smaller."""
    width, height = size
    image = open_bytes(data)
    right = image.width - width
    below = image.height - height
    if min(right, below) < 0:
        return []
    corners = [(int(rng.integers(right + 1)), int(rng.integers(below + 1))) for _ in range(3)]
    return [encoded(image.crop((x, y, x + width, y + height))) for x, y in corners]


def views(clip: Backbone, files: list[bytes], multiple: int) -> tuple[Views, float]:
    """Views of the model, and CPU milliseconds an image."""
    least = multiple * max(clip.preprocessing.size)
    start = time.process_time()
    found = [clip.preprocessing.view(open_bytes(data, shorter_side=least)) for data in files]
    return torch.stack(found), 1000 * (time.process_time() - start) / len(files)


@torch.no_grad()
def features(clip: Backbone, pixels: Views) -> Float[Tensor, "n D"]:
    """Unit features."""
    return torch.cat([clip.images(clip.preprocessing.normalise(x)) for x in pixels.split(16)])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of large JPEGs")
    parser.add_argument("--crop", metavar="WIDTHxHEIGHT", help="cut parts of this size")
    parser.add_argument("--model", default="starter")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    clip = Backbone.load(flags.model)
    dataset = ImageDataset.read(flags.images)
    paths = [dataset.path(i) for i in range(len(dataset))]
    files = [path.read_bytes() for path in paths if path.suffix.lower() in (".jpg", ".jpeg")]
    if flags.crop:
        width, height = map(int, flags.crop.split("x"))
        rng = np.random.default_rng(0)
        files = [part for data in files for part in crops(data, (width, height), rng)]
    texts = clip.texts([f"a photo of a {noun}" for noun in some_nouns(1000)])
    whole = features(clip, views(clip, files, 0)[0])

    def line(name: str, pixels: Views, milliseconds: float) -> str:
        x = features(clip, pixels)
        cosine = (x * whole).sum(1)
        other = int(((x @ texts.T).argmax(1) != (whole @ texts.T).argmax(1)).sum())
        return (
            f"| {name} | {milliseconds:.1f} | {float(cosine.min()):.4f} | "
            f"{float(cosine.mean()):.5f} | {other} of {len(files)} |"
        )

    print("| shorter side at least | CPU ms an image | least cosine | mean | other noun |")
    print("|---|---|---|---|---|", flush=True)
    for multiple in MULTIPLES:
        pixels, milliseconds = views(clip, files, multiple)
        print(line(f"{multiple} x input", pixels, milliseconds), flush=True)
    again = [encoded(open_bytes(data)) for data in files]
    print(line("full, encoded once more", *views(clip, again, 0)))


if __name__ == "__main__":
    main()
