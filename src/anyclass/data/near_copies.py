"""Whether two images are copies of one photograph: resized, compressed, cropped, darker.

    1. coarse   grey thumbnails a, b of 32 x 32. r = max over windows w of the correlation of a[w]
                with b: w is a itself, or one of 9 places of a window of 97.5, 95, 92.5 or 90 %
                of its side. Where r < `COARSE`, or no better with a and b swapped, they differ.
    2. fine     colour thumbnails of 64 x 64 without their low frequencies, at the place that 1
                found and one pixel around it. The correlation is the similarity.

The low frequencies alone do not suffice: two shirts on the same floor have r = 0.98, but a fine
similarity of 0.6. Letters: P pairs, W = 37 windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.utils.data import Dataset

from anyclass.data.copies import Place
from anyclass.data.image import open_image
from anyclass.data.inspection import CHUNK, THUMB
from anyclass.data.loader import read_chunks
from anyclass.errors import ImageError
from anyclass.log import Log

COARSE = 0.93
"""Minimum correlation of thumbnails: 99 % of crops to 95 % reach it."""
COPY = 0.7
"""Minimum similarity of copies. Measured (docs/guides/audit.md): copies have 0.72 and more,
different images with alike thumbnails 0.65 and less."""
SCALES = (1.0, 0.975, 0.95, 0.925, 0.9)
"""Sides of the windows."""
GRID = 24
"""Side of a window in pixels."""
FINE = 64
"""Side of the colour thumbnails; smaller images keep the size of their short side."""
LEAST_FINE = 16
"""Smallest side of the colour thumbnails."""
SIGMA = 1.5
"""Standard deviation, in pixels, of the blur that is taken away."""
MARGIN = 2
"""Pixels at the border that the blur spoils."""


class Window(NamedTuple):
    """A square part of a thumbnail, as shares of its side."""

    top: float
    left: float
    side: float


def similarity(
    places: Sequence[Place],
    thumbs: UInt8[np.ndarray, "N 32 32"],
    pairs: Int[np.ndarray, "P 2"],
    log: Log,
    workers: int | None = None,
) -> Float[np.ndarray, " P"]:
    """Similarity of pairs of images, -1 to 1; 0 where the thumbnails already differ.

    Args:
        places: the N images.
        thumbs: their grey thumbnails.
        pairs: indices of the images of each pair.
        log: gets `stage="compare"`, `done` and `total`.
        workers: processes; by default none below 128 pairs, else one per core.
    """
    first, windows = coarse(thumbs, pairs)
    kept = np.flatnonzero(first >= COARSE)
    found = np.zeros(len(pairs))
    chunks = [kept[i : i + CHUNK].tolist() for i in range(0, len(kept), CHUNK)]
    reader = _Reader(tuple(places), pairs, windows)
    names = [places[i].path.name for i in pairs[:, 0]]
    done = 0
    for chunk, values in zip(chunks, read_chunks(reader, names, chunks, workers), strict=True):
        found[chunk] = values
        done += len(chunk)
        log(stage="compare", done=done, total=len(kept))
    return found


def coarse(
    thumbs: UInt8[np.ndarray, "N 32 32"], pairs: Int[np.ndarray, "P 2"]
) -> tuple[Float[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """Largest correlation of each pair, and its window; below 0 (~window): the second is cut."""
    best = np.zeros(len(pairs), np.float32)
    windows = np.zeros(len(pairs), np.int64)
    for start in range(0, len(pairs), 256):
        some = slice(start, start + 256)
        parts = [_cut(thumbs[index]) for index in pairs[some].T]  # (p, W, G)
        scores = np.stack(
            [
                np.einsum("pwg,pg->pw", parts[0], parts[1][:, 0]),
                np.einsum("pwg,pg->pw", parts[1], parts[0][:, 0]),
            ],
            axis=1,
        )  # (p, 2, W)
        which = scores.max(2).argmax(1)
        rows = np.arange(len(which))
        window = scores[rows, which].argmax(1)
        best[some] = scores[rows, which, window]
        windows[some] = np.where(which == 0, window, ~window)
    return best, windows


@cache
def all_windows() -> tuple[Window, ...]:
    """The whole side first, then 9 places for each smaller one."""
    return tuple(
        Window(top, left, side)
        for side in SCALES
        for top in _shifts(side)
        for left in _shifts(side)
    )


def _cut(thumbs: UInt8[np.ndarray, "p 32 32"]) -> Float[np.ndarray, "p W G"]:
    """All windows of thumbnails, centred, of length 1."""
    pixels = thumbs.astype(np.float32)
    cut = []
    for side in SCALES:
        shifts = _shifts(side)
        averages = np.concatenate([_averages(shift, side) for shift in shifts])
        windows = (averages @ pixels @ averages.T).reshape(
            len(pixels), len(shifts), GRID, len(shifts), GRID
        )
        cut.append(windows.swapaxes(2, 3).reshape(len(pixels), len(shifts) ** 2, GRID**2))
    return _unit(np.concatenate(cut, axis=1))


def _shifts(side: float) -> tuple[float, ...]:
    """Places of a window of that side along one axis."""
    return (0.0, (1 - side) / 2, 1 - side) if side < 1 else (0.0,)


def _averages(start: float, side: float) -> Float[np.ndarray, "24 32"]:
    """Matrix that averages a part of `THUMB` pixels to `GRID` pixels."""
    width = side * THUMB / GRID
    low = start * THUMB + width * np.arange(GRID)[:, None]
    pixel = np.arange(THUMB)[None, :]
    overlap = np.minimum(low + width, pixel + 1) - np.maximum(low, pixel)
    matrix: Float[np.ndarray, "24 32"] = (overlap.clip(0) / width).astype(np.float32)
    return matrix


def _unit(rows: Float[np.ndarray, "... G"]) -> Float[np.ndarray, "... G"]:
    """Rows, centred, of length 1; rows without variation become 0."""
    centred = rows - rows.mean(-1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=-1, keepdims=True)
    return np.where(lengths > 1e-3, centred / np.maximum(lengths, 1e-3), 0)


@dataclass(frozen=True)
class _Reader(Dataset[list[float]]):
    """Compares the pairs of a chunk."""

    places: tuple[Place, ...]
    pairs: Int[np.ndarray, "P 2"]
    windows: Int[np.ndarray, " P"]

    def __getitem__(self, chunk: list[int]) -> list[float]:
        """Fine similarity of the pairs with the indices in `chunk`; 0 if one is not readable."""
        return [self._similarity(index) for index in chunk]

    def _similarity(self, index: int) -> float:
        """Fine similarity of one pair."""
        first, second = self.pairs[index].tolist()
        window = int(self.windows[index])
        if window >= 0:
            return self._compare(first, second, window)
        return self._compare(second, first, ~window)

    def _compare(self, whole: int, part: int, window: int) -> float:
        """Fine similarity of an image and one that may be a part of it."""
        try:
            more = colours(self.places[whole])
            less = colours(self.places[part])
        except ImageError:
            return 0.0
        return fine(more, less, all_windows()[window])


@lru_cache(maxsize=1024)
def colours(place: Place) -> Image.Image:
    """Colour thumbnail of an image.

    Raises:
        ImageError: it is not readable.
    """
    image = open_image(place.path, place.root)
    side = max(LEAST_FINE, min(FINE, *image.size))
    return image.resize((side, side), Image.Resampling.LANCZOS)


def fine(whole: Image.Image, part: Image.Image, window: Window) -> float:
    """Largest correlation of `part` with `whole` near a window, without low frequencies.

    Args:
        whole: colour thumbnail of the image that shows more.
        part: that of the image that may be a part of it.
        window: part of `whole` that is like `part`.
    """
    size = min(whole.width, part.width)
    pixels = _high(whole, size)
    guess = round(size * window.side)
    best = 0.0
    for side in range(max(guess - 1, round(0.85 * size)), min(guess + 1, size) + 1):
        inner = _inner(_high(part, side))
        for top in _around(size * window.top, size - side):
            for left in _around(size * window.left, size - side):
                other = _inner(pixels[top : top + side, left : left + side])
                best = max(best, float((_unit(inner.ravel()) * _unit(other.ravel())).sum()))
    return best


def _high(image: Image.Image, side: int) -> Float[np.ndarray, "S S 3"]:
    """Pixels of an image, resized, without their low frequencies."""
    resized = image.resize((side, side), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized, np.float32)
    high: Float[np.ndarray, "S S 3"] = pixels - gaussian_filter(pixels, (SIGMA, SIGMA, 0))
    return high


def _inner(pixels: Float[np.ndarray, "S S 3"]) -> Float[np.ndarray, "s s 3"]:
    """Pixels without the border."""
    return pixels[MARGIN:-MARGIN, MARGIN:-MARGIN]


def _around(place: float, most: int) -> range:
    """Whole numbers next to a place, between 0 and `most`."""
    middle = round(place)
    return range(max(0, min(middle - 1, most)), min(most, middle + 1) + 1)
