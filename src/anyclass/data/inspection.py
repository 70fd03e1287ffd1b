"""Pixels of each image in a few numbers: size, brightness, sharpness, a perceptual hash.

Measured on the upright image, made smaller to `SIDE` pixels where it is larger: what a model at
224 pixels cannot see does not count.

    dark    99th percentile of the grey values (0 to 1)     bright  5th percentile
    detail  entropy of the grey histogram, in bits
    blur    share of the local variation that is left after a further blur (Crete et al., 2007);
            it depends neither on contrast nor on brightness
    hash    signs of the 8 x 8 lowest frequencies of a DCT, against their median (pHash)

Letters: N images, n of a chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import sobel, uniform_filter1d
from torch.utils.data import Dataset

from anyclass.data.dataset import ImageDataset
from anyclass.data.image import Limits, open_image
from anyclass.data.loader import read_chunks
from anyclass.data.rejection import Rejection, rejection_of
from anyclass.log import Log

SIDE = 256
"""Longest side, in pixels, of the image that is measured."""
HASH = 8
"""Side of the block of frequencies: 64 bits."""
THUMB = 32
"""Side of the grey thumbnail that near copies are compared on."""
CHUNK = 64
"""Images that a process reads at a time."""
BLURRED_BY = 5
"""Width, in pixels, of the further blur."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """Measurements of N images; NaN or 0 where an image cannot be read."""

    width: Int[np.ndarray, " N"]
    """Pixels; 0: not readable."""
    height: Int[np.ndarray, " N"]
    """Pixels."""
    dark: Float[np.ndarray, " N"]
    """99th percentile of the grey values, 0 to 1."""
    bright: Float[np.ndarray, " N"]
    """5th percentile of the grey values, 0 to 1."""
    detail: Float[np.ndarray, " N"]
    """Entropy of the grey values, in bits, 0 to 8."""
    blur: Float[np.ndarray, " N"]
    """0 (sharp) to 1."""
    hashes: Bool[np.ndarray, "N 64"]
    """Perceptual hash."""
    thumbs: UInt8[np.ndarray, "N 32 32"]
    """Grey thumbnail."""
    rejections: tuple[Rejection, ...] = ()
    """Images that cannot be read, with reasons."""

    @property
    def ok(self) -> Bool[np.ndarray, " N"]:
        """Whether each image can be read."""
        return self.width > 0


def inspect(dataset: ImageDataset, log: Log, workers: int | None = None) -> Inspection:
    """Measure all images, in processes that read ahead.

    Args:
        dataset: the images.
        log: gets `stage="inspect"`, `done` and `total`.
        workers: processes; by default none below 128 images, else one per core.
    """
    rows = range(len(dataset))
    chunks = [list(rows[i : i + CHUNK]) for i in rows[::CHUNK]]
    parts: list[Inspection] = []
    done = 0
    for part in read_chunks(_Reader(dataset), dataset.files, chunks, workers):
        parts.append(part)
        done += len(part.width)
        log(stage="inspect", done=done, total=len(dataset))
    return joined(parts)


def joined(parts: Sequence[Inspection]) -> Inspection:
    """Measurements of several sets of images as one."""
    arrays: dict[str, Any] = {}
    for name in _ARRAYS:
        arrays[name] = np.concatenate([getattr(part, name) for part in parts])
    return Inspection(**arrays, rejections=tuple(row for part in parts for row in part.rejections))


_ARRAYS = tuple(field.name for field in fields(Inspection) if field.name != "rejections")
"""Fields of `Inspection` with a row per image, in the order of `_Measured`."""


@dataclass(frozen=True)
class _Reader(Dataset[Inspection]):
    """Measures the images of a chunk."""

    dataset: ImageDataset

    def __getitem__(self, chunk: list[int]) -> Inspection:
        """Measure the images with the indices in `chunk`."""
        rows: list[_Measured] = []
        rejections: list[Rejection] = []
        for index in chunk:
            try:
                image = open_image(self.dataset.path(index), self.dataset.root, Limits())
                rows.append(_measure(image))
            except Exception as error:  # no single image may end an audit
                rejections.append(rejection_of(self.dataset.files[index], error))
                rows.append(_NOTHING)
        arrays = [np.array(column) for column in zip(*rows, strict=True)]
        return Inspection(**dict(zip(_ARRAYS, arrays, strict=True)), rejections=tuple(rejections))


class _Measured(NamedTuple):
    """Measurements of one image, as in `Inspection`."""

    width: int
    height: int
    dark: float
    bright: float
    detail: float
    blur: float
    hash: Bool[np.ndarray, " 64"]
    thumb: UInt8[np.ndarray, "32 32"]


_NAN = float("nan")
_NOTHING = _Measured(
    *(0, 0, _NAN, _NAN, _NAN, _NAN),
    np.zeros(HASH * HASH, bool),
    np.zeros((THUMB, THUMB), np.uint8),
)
"""Measurements of an image that cannot be read."""


def _measure(image: Image.Image) -> _Measured:
    """Measure one RGB image."""
    width, height = image.size
    small = image.convert("L")
    small.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    grey = np.asarray(small)
    bright, dark = np.quantile(grey, (0.05, 0.99)) / 255
    counts = np.bincount(grey.ravel(), minlength=256)
    thumb = small.resize((THUMB, THUMB), Image.Resampling.LANCZOS)
    return _Measured(
        width,
        height,
        float(dark),
        float(bright),
        entropy(counts),
        blur(grey.astype(np.float32)),
        perceptual_hash(np.asarray(thumb, np.float32)),
        np.asarray(thumb),
    )


def entropy(counts: Int[np.ndarray, " B"] | Sequence[int]) -> float:
    """Entropy of a histogram, in bits."""
    shares = np.asarray(counts) / np.sum(counts)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum() + 0.0)


def blur(grey: Float[np.ndarray, "H W"]) -> float:
    """Crete's blur metric: 1 - how much of the variation a further blur takes away.

    The direction with the stronger blur counts. 0 where nothing varies.
    """
    left = []
    for axis in (0, 1):
        before = np.abs(sobel(grey, axis))
        after = np.abs(sobel(uniform_filter1d(grey, BLURRED_BY, axis), axis))
        taken = np.maximum(0, before - after).sum()
        total = before.sum()
        left.append(float(1 - taken / total) if total > 0 else 0.0)
    return max(left)


def perceptual_hash(thumb: Float[np.ndarray, "32 32"]) -> Bool[np.ndarray, " 64"]:
    """Signs of the lowest frequencies but the constant ones, against their median."""
    frequencies = dctn(thumb, norm="ortho")[1 : HASH + 1, 1 : HASH + 1]
    signs: Bool[np.ndarray, " 64"] = (frequencies > np.median(frequencies)).ravel()
    return signs
