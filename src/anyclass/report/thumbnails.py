"""Thumbnails as data URIs: sharp enough to be enlarged, and small enough for one file."""

from base64 import b64encode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image

from anyclass.data import open_image
from anyclass.errors import ImageError

Thumbnail = Callable[[str], str | None]
"""File name of an image -> its thumbnail as a data URI, or `None`."""

SIDE = 288
"""Longer side of a thumbnail, in pixels."""

LARGEST = 9_000
"""Most bytes of a thumbnail: a report holds at most some 700, and stays below 10 MB."""

STEPS = ((288, 75), (288, 55), (224, 50), (160, 45), (112, 40), (64, 30))
"""Longer side and quality, from the first one to the one that is small enough."""


class Thumbnails:
    """Makes thumbnails of the images in a folder, each once."""

    def __init__(self, root: Path) -> None:
        """Remember the folder of the images."""
        self.root = root
        self._known: dict[str, str | None] = {}

    def __call__(self, file_name: str) -> str | None:
        """The thumbnail of an image; None if it can no longer be read."""
        if file_name not in self._known:
            self._known[file_name] = thumbnail(self.root, file_name)
        return self._known[file_name]


def thumbnail(root: Path, file_name: str) -> str | None:
    """Decode an image and encode it as a small WebP in a data URI; None if it is unreadable."""
    try:
        image = open_image(root / file_name, root)
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
