"""Images in memory: Pillow images, arrays, tensors and encoded files, read as files are.

    bytes            an encoded file, decoded by the six steps of `image.py`
    Pillow image     steps 3 to 6: size, loading, rotation, RGB on white
    numpy array      (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): grey, RGB, RGB with transparency
    torch tensor     the same with the channels first: (1, H, W), (3, H, W) ...
    path             a file anywhere

Numbers are uint8 or bool, or floats from 0 to 1. The content hash of a file is that of its bytes,
in a folder or in memory, so its features are found again; that of pixels is made from their size
and RGB values.
"""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from anyclass.data.image import Limits, open_bytes, open_pillow, read_bytes
from anyclass.errors import ImageError

CHANNELS = (1, 3, 4)
"""Numbers of channels that an image may have."""


def read_item(
    item: Any, root: Path | None, limits: Limits, shorter_side: int = 0
) -> tuple[str, Image.Image]:
    """Content hash and RGB image of a file or of an image in memory.

    Args:
        item: a path or an image in memory, see the module.
        root: folder that a file must be inside of; None: anywhere.
        limits: size limits of an image.
        shorter_side: as of `open_bytes`.

    Raises:
        ImageError: it cannot be used.
    """
    encoded = _encoded(item, root, limits)
    if encoded is not None:
        return sha256(encoded).hexdigest(), open_bytes(encoded, limits, shorter_side)
    rgb = open_pillow(_pillow(item), limits)
    return _digest(rgb), rgb


def item_hash(item: Any, limits: Limits) -> str:
    """Content hash of an image in memory; arguments and errors as of `read_item`."""
    encoded = _encoded(item, None, limits)
    if encoded is not None:
        return sha256(encoded).hexdigest()
    return _digest(open_pillow(_pillow(item), limits))


def is_image(value: Any) -> bool:
    """Whether a value is one image in memory, and not several."""
    if isinstance(value, Image.Image | bytes | bytearray):
        return True
    return is_array(value) and len(value.shape) == 3 and _channels(value) in CHANNELS


def is_array(value: Any) -> bool:
    """Whether a value is a numpy array or a torch tensor of numbers."""
    numeric = isinstance(value, np.ndarray) and value.dtype.kind in "biufc"
    return numeric or (hasattr(value, "detach") and hasattr(value, "shape"))


def _encoded(item: Any, root: Path | None, limits: Limits) -> bytes | None:
    """Bytes of an image file; None: the item holds pixels."""
    if isinstance(item, dict) and {"bytes", "path"} >= set(item):  # a row of a `datasets` column
        item = item.get("bytes") or item.get("path")
    if isinstance(item, str | Path):
        return read_bytes(Path(item), root, limits)
    if not isinstance(item, bytes | bytearray | memoryview):
        return None
    if len(item) > limits.bytes:
        raise ImageError("too many bytes", f"more than {limits.bytes}")
    return bytes(item)


def _pillow(item: Any) -> Image.Image:
    """Convert pixels to a Pillow image."""
    if isinstance(item, Image.Image):
        return item
    if not is_array(item):
        raise ImageError("not an image", f"a value of type {type(item).__name__}")
    if hasattr(item, "detach"):
        item = item.detach().cpu().float() if item.is_floating_point() else item.detach().cpu()
        pixels = np.asarray(item)
        pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels
    else:
        pixels = item
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in CHANNELS):
        raise ImageError("not an image", f"an array of {' x '.join(map(str, item.shape))}")
    if 0 in pixels.shape:
        raise ImageError("not an image", "an array without pixels")
    pixels = _eight_bits(pixels)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)


def _eight_bits(pixels: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Pixels as uint8."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            low = pixels.min()
            detail = f"floats from {low:.3g} to {pixels.max():.3g}; give 0 to 1, or uint8"
            raise ImageError("unsupported mode", detail)
        scaled: Shaped[np.ndarray, ...] = (pixels.astype(np.float32) * 255).round().astype(np.uint8)
        return scaled
    raise ImageError("unsupported mode", f"numbers of type {pixels.dtype}; give uint8")


def _channels(array: Any) -> int:
    """Number of channels of an array (H, W, c) or a tensor (c, H, W)."""
    return int(array.shape[0 if hasattr(array, "detach") else -1])


def _digest(rgb: Image.Image) -> str:
    """Content hash of pixels."""
    return sha256(f"RGB {rgb.width} {rgb.height} ".encode() + rgb.tobytes()).hexdigest()
