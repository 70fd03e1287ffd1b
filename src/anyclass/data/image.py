"""Safe image decoding: six steps from an untrusted file to an RGB image.

1. a regular file of the folder, within the size limit    4. load: the only full check
2. one of eight formats, decided by content                   5. apply the EXIF rotation
3. width x height and the number of parts within limits       6. convert to RGB on white
"""

import io
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, features

from anyclass.data.decode_limits import LimitedReads, check_scans
from anyclass.data.links import FOLLOW, may_be_read
from anyclass.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Formats for Pillow to try. Without this list an EPS called `.jpg` would start Ghostscript."""

Decoding = Literal["full", "reduced"]
"""How JPEGs are decoded: at their full size, or at 1/2, 1/4 or 1/8 of it where that leaves enough
pixels for the model."""

INSTALL_HEIF = "pip install 'anyclass[heif]'"
"""What makes HEIC images readable."""

_BITS_PER_SAMPLE = 258
_DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras, scanners and microscopes store in 16-bit files."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the image upright."""
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
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
    with _regular_file(path, root) as file:
        data = file.read(limits.bytes + 1)
    if len(data) > limits.bytes:
        raise ImageError("too many bytes", f"more than {limits.bytes}")
    return data


def longer_side(path: Path, root: Path | None = None) -> int:
    """Longer side of an image in pixels, from its header alone; arguments as of `read_bytes`.

    Raises:
        ImageError: there is no header of a known format.
    """
    with _regular_file(path, root) as file, _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(LimitedReads(file), formats=readable_formats()) as image:
                return max(image.size)
        except ImageError:
            raise
        except Exception as error:  # decoders raise any exception on damaged bytes
            raise ImageError("not an image", one_line(error)) from error


@contextmanager
def _regular_file(path: Path, root: Path | None) -> Iterator[BinaryIO]:
    """Step 1: a regular file, inside `root`."""
    try:
        real = path.resolve(strict=True)
        if root is not None and not may_be_read(path, real, root):
            raise ImageError("outside the folder", f"it is a link to {real}; {FOLLOW}")
        if not stat.S_ISREG(real.stat().st_mode):
            raise ImageError("not a regular file")
        with open(real, "rb", opener=_without_blocking) as file:  # noqa: PTH123 (has no opener)
            yield file
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError("missing") from error
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL in the name
        raise ImageError("unreadable", one_line(error)) from error


def open_bytes(data: bytes, limits: Limits = Limits(), shorter_side: int = 0) -> Image.Image:
    """Decode an image from memory as `open_image` does.

    Pillow's warning filters are process-wide, so one thread decodes at a time.

    Args:
        data: an encoded image.
        limits: size limits of an image.
        shorter_side: decode a JPEG at the smallest of 1/1, 1/2, 1/4 and 1/8 of its size that leaves
            its shorter side this many pixels; 0: at its full size.

    Raises:
        ImageError: and nothing else, whatever the bytes are.
    """
    return _decoded(lambda: _opened(data), limits, data, shorter_side)


def open_pillow(image: Image.Image, limits: Limits = Limits()) -> Image.Image:
    """Convert an image of Pillow as `open_image` does; the given one stays as it is.

    Raises:
        ImageError: and nothing else, whatever the image is.
    """
    return _decoded(image.copy, limits)


def _decoded(
    opened: Callable[[], Image.Image], limits: Limits, data: bytes = b"", shorter_side: int = 0
) -> Image.Image:
    """Steps 2 to 6 of the module docstring; any error becomes an `ImageError`."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return _decode(opened, limits, data, shorter_side)
        except ImageError:
            raise
        except UnidentifiedImageError as error:
            raise ImageError("not an image", _what_instead(data)) from error
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            most = min(limits.pixels, Image.MAX_IMAGE_PIXELS or limits.pixels)
            raise ImageError("too many pixels", f"more than {_millions(most)} million") from error
        except Exception as error:  # decoders raise any exception on damaged bytes
            raise ImageError("truncated or damaged", one_line(error)) from error


def one_line(error: BaseException) -> str:
    """Type and message of an error as one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@cache
def readable_formats() -> tuple[str, ...]:
    """`FORMATS`, AVIF if Pillow has it, HEIF if pillow-heif (the extra `heif`) is installed."""
    known: tuple[str, ...] = FORMATS
    if features.check("avif"):
        known += ("AVIF",)
    with suppress(ImportError):  # not installed, or its library cannot be loaded
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False)
        known += ("HEIF",)
    return known


def _what_instead(data: bytes) -> str:
    """What to say of bytes that no decoder knows."""
    if not data:
        return "the file is empty"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and "HEIF" not in readable_formats():
        return f"it is HEIC: {INSTALL_HEIF}"
    return f"none of {', '.join(readable_formats())}"


def _opened(data: bytes) -> Image.Image:
    """Step 2: open an image of a known format."""
    reads = LimitedReads(io.BytesIO(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_decode` checks its size
        image = Image.open(reads, formats=readable_formats())
    reads.header_ends()
    return image


def _decode(
    opened: Callable[[], Image.Image], limits: Limits, data: bytes, shorter_side: int
) -> Image.Image:
    """Steps 2 to 6 of the module docstring."""
    with opened() as image:
        width, height = image.size
        most = min(limits.pixels, Image.MAX_IMAGE_PIXELS or limits.pixels)
        if width * height > most:
            size = f"{width} x {height}, {_millions(width * height)} million"
            raise ImageError("too many pixels", f"{size}; at most {_millions(most)} million")
        if image.format in ("JPEG", "MPO"):
            check_scans(data, width * height)
        if shorter_side:
            image.draft(None, (shorter_side, shorter_side))
        image.load()
        turn = _TURNS.get(_orientation(image))
        rgb = _rgb(image)
    rgb.info = {}
    return rgb if turn is None else rgb.transpose(turn)


def _millions(pixels: int) -> str:
    """A number of pixels in millions."""
    return f"{pixels / 1e6:.3g}" if pixels < 1e9 else f"{pixels / 1e6:,.0f}"


def _orientation(image: Image.Image) -> Any:
    """EXIF orientation, 1 to 8; 1 where the metadata is damaged: the pixels are good all the same.

    `ImageOps.exif_transpose` also writes the metadata anew, which fails on any odd value in it.
    """
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # metadata is parsed by code that raises anything
        return 1


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
    """Scale 16-bit grey by its full range; a plain convert clips to white.

    The range is that of the fewest bits, 8, 10, 12, 14 or 16, that hold the brightest pixel:
    cameras and microscopes store 12-bit values in 16-bit files. A TIFF may also name 12.
    """
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
    grey = np.asarray(image).astype(np.float32)
    hidden = grey == image.info.get("transparency", -1)
    if bits == 16:
        brightest = grey.max(initial=0, where=~hidden)
        bits = next(depth for depth in _DEPTHS if brightest < 2**depth)
    scaled = (grey * (255 / (2**bits - 1))).round().clip(0, 255)
    scaled[hidden] = 255
    return Image.fromarray(scaled.astype(np.uint8))


def _without_blocking(path: str, flags: int) -> int:
    """Open without blocking, in case the file has become a FIFO in the meantime."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
