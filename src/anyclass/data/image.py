"""Safe image decoding: six steps from an untrusted file to an RGB image.

1. a regular file inside the folder, within the size limit    4. load: the only full check
2. one of six formats, decided by content                     5. apply the EXIF rotation
3. width x height from the header within the limit            6. convert to RGB on white
"""

import io
import os
import stat
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from anyclass.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Formats for Pillow to try. Without this list an EPS called `.jpg` would start Ghostscript."""

_BITS_PER_SAMPLE = 258
_WARNINGS = threading.Lock()


@dataclass(frozen=True)
class Limits:
    """Size limits above which an image is rejected."""

    bytes: int = 128 * 2**20
    """Largest file, in bytes."""

    pixels: int = 80_000_000
    """Largest width x height; Pillow's own limit of 89 million applies as well."""


def open_image(path: Path, root: Path | None = None, limits: Limits = Limits()) -> Image.Image:
    """Decode the first frame of `path`: RGB, upright, on white, without metadata.

    Raises:
        ImageError: and nothing else, whatever the file holds.
    """
    return open_bytes(read_bytes(path, root, limits), limits)


def read_bytes(path: Path, root: Path | None = None, limits: Limits = Limits()) -> bytes:
    """Read a regular file, after resolving links; with `root` it must be inside that folder.

    Raises:
        ImageError: it is missing, outside, too large or not a regular file (it is not opened then).
    """
    try:
        real = path.resolve(strict=True)
        if root is not None and not real.is_relative_to(root.resolve()):
            raise ImageError("outside the folder", f"it is a link to {real}")
        if not stat.S_ISREG(real.stat().st_mode):
            raise ImageError("not a regular file")
        with open(real, "rb", opener=_without_blocking) as file:  # noqa: PTH123 (has no opener)
            data = file.read(limits.bytes + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError("missing") from error
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL in the name
        raise ImageError("unreadable", one_line(error)) from error
    if len(data) > limits.bytes:
        raise ImageError("too many bytes", f"more than {limits.bytes}")
    return data


def open_bytes(data: bytes, limits: Limits = Limits()) -> Image.Image:
    """Decode an image from memory as `open_image` does.

    Pillow's warning filters are process-wide, so one thread decodes at a time.

    Raises:
        ImageError: and nothing else, whatever the bytes are.
    """
    return _decoded(lambda: Image.open(io.BytesIO(data), formats=FORMATS), limits)


def open_pillow(image: Image.Image, limits: Limits = Limits()) -> Image.Image:
    """Convert an image of Pillow as `open_image` does; the given one stays as it is.

    Raises:
        ImageError: and nothing else, whatever the image is.
    """
    return _decoded(image.copy, limits)


def _decoded(opened: Callable[[], Image.Image], limits: Limits) -> Image.Image:
    """Steps 2 to 6 of the module docstring; any error becomes an `ImageError`."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return _decode(opened, limits)
        except ImageError:
            raise
        except UnidentifiedImageError as error:
            raise ImageError("not an image", f"none of {', '.join(FORMATS)}") from error
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ImageError("too many pixels", one_line(error)) from error
        except Exception as error:  # decoders raise any exception on damaged bytes
            raise ImageError("truncated or damaged", one_line(error)) from error


def one_line(error: BaseException) -> str:
    """Type and message of an error as one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _decode(opened: Callable[[], Image.Image], limits: Limits) -> Image.Image:
    """Steps 2 to 6 of the module docstring."""
    with opened() as image:
        width, height = image.size
        if width * height > limits.pixels:
            raise ImageError("too many pixels", f"{width} x {height}")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        rgb = _rgb(image)
    rgb.info = {}
    return rgb


def _rgb(image: Image.Image) -> Image.Image:
    """Step 6: convert every mode to RGB, transparency on white."""
    if image.mode in ("F", "I"):
        raise ImageError("unsupported mode", f"mode {image.mode} has no known full range")
    if image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey (TIFF: also 12) by its full range; a plain convert clips to white."""
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
    grey = np.asarray(image).astype(np.float32)
    scaled = (grey * (255 / (2**bits - 1))).round().clip(0, 255)
    scaled[grey == image.info.get("transparency", -1)] = 255
    return Image.fromarray(scaled.astype(np.uint8))


def _without_blocking(path: str, flags: int) -> int:
    """Open without blocking, in case the file has become a FIFO in the meantime."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
