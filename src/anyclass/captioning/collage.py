"""The image for a captioner: a single image, or a collage of several."""

import io
from collections.abc import Sequence
from math import isqrt
from typing import Any

from PIL import Image, ImageOps

from anyclass.captioning.captioner import CaptionRequest
from anyclass.data import ImageDataset
from anyclass.errors import ImageError

SIDE = 672
"""Width and height of a collage, in pixels."""
GAP = 20
"""Black pixels between two cells."""
QUALITY = 90
"""Quality of the JPEG that is sent."""


def image(request: CaptionRequest, dataset: ImageDataset, size: int) -> Image.Image:
    """Image of `request`: one image of at most `size` pixels, or the collage of several.

    Raises:
        ImageError: one of the images cannot be used.
    """
    images = [dataset.open(row)[1] for row in request.rows]
    if len(images) > 1:
        return collage(images)
    images[0].thumbnail((size, size), Image.Resampling.LANCZOS)
    return images[0]


def collage(images: Sequence[Image.Image]) -> Image.Image:
    """Arrange images row by row on black, each scaled to its cell and centred."""
    across = max(2, isqrt(len(images) - 1) + 1)
    cell = (SIDE - GAP * (across - 1)) // across
    canvas = Image.new("RGB", (SIDE, SIDE))
    for k, image in enumerate(images):
        row, column = divmod(k, across)
        tile = ImageOps.pad(image, (cell, cell), Image.Resampling.LANCZOS)
        canvas.paste(tile, (column * (cell + GAP), row * (cell + GAP)))
    return canvas


def jpeg(image: Image.Image) -> bytes:
    """Encode the pixels as JPEG without metadata (EXIF, location, XMP, profile, comment)."""
    bare = image.copy()
    bare.info = {}
    file = io.BytesIO()
    bare.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def preparation(request: CaptionRequest, dataset: ImageDataset, size: int) -> dict[str, Any]:
    """Settings that change the pixels of `request`, for the cache key; from the header alone."""
    if len(request.rows) > 1:
        return {"side": SIDE, "gap": GAP, "jpeg": QUALITY}
    try:
        side = dataset.longer_side(request.rows[0])
    except ImageError:
        return {"size": size, "jpeg": QUALITY}
    return {"jpeg": QUALITY} if side <= size else {"size": size, "jpeg": QUALITY}


def settings(size: int) -> dict[str, Any]:
    """All settings of the image preparation, whether they change an image or not."""
    return {"size": size, "side": SIDE, "gap": GAP, "jpeg": QUALITY}
