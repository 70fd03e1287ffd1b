"""Thumbnails as data URIs: sharp enough to be enlarged, and small enough for one file."""

from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from anyclass.data import Limits
from anyclass.data.memory import read_item
from anyclass.errors import ImageError

Thumbnail = Callable[[str], str | None]
"""File name of an image -> its thumbnail as a data URI, or `None`."""

SIDE = 288
"""Longer side of a thumbnail, in pixels."""

LARGEST = 9_000
"""Maximum number of bytes of a thumbnail: a report holds at most some 700, and stays below 10
MB."""

STEPS = ((288, 75), (288, 55), (224, 50), (160, 45), (112, 40), (64, 30))
"""Longer side and quality, from the first one to the one that is small enough."""


def thumbnails_of(images: str | None, memory: Mapping[str, Any] | None = None) -> Thumbnail:
    """Thumbnails of images in a folder or in memory, each made once; none of features alone."""
    if memory is not None:
        return cache(lambda file_name: item_thumbnail(memory.get(file_name)))
    return cache(partial(thumbnail, Path(images))) if images else no_image


def thumbnail(root: Path, file_name: str) -> str | None:
    """Thumbnail of an image in a folder; None if it can no longer be read."""
    return item_thumbnail(root / file_name, root)


def item_thumbnail(item: Any, root: Path | None = None) -> str | None:
    """Decode an image and encode it as a small WebP in a data URI; None if it is unreadable.

    Args:
        item: a path, or an image in memory.
        root: folder that a file must be inside of; None: anywhere.
    """
    try:
        image = read_item(item, root, Limits())[1]
    except ImageError:
        return None
    return "data:image/webp;base64," + b64encode(_small(image)).decode("ascii")


def _small(image: Image.Image) -> bytes:
    """Bytes of a WebP file of at most `LARGEST` bytes, or of the last of `STEPS`."""
    data = b""
    for side, quality in STEPS:
        image.thumbnail((side, side))
        with BytesIO() as file:
            image.save(file, "WEBP", quality=quality)
            data = file.getvalue()
        if len(data) <= LARGEST:
            break
    return data


def no_image(file_name: str) -> None:
    """No thumbnail: for reports without images."""
