"""Synthetic images, which show whether two models compute the same features."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from anyclass.data import Preprocessing


@lru_cache(maxsize=8)
def synthetic_views(preprocessing: Preprocessing) -> UInt8[Tensor, "3 3 H W"]:
    """The synthetic images as a model sees them, before `normalise`.

    They are kept: each load of a run needs them twice.
    """
    return torch.stack([preprocessing.view(image) for image in _synthetic_images()])


def _synthetic_images() -> list[Image.Image]:
    """A gradient, a chequerboard and fixed noise, none of them a square image."""
    rows, columns = np.mgrid[0:240, 0:320]
    gradient = np.stack([rows, columns, rows + columns], axis=-1) * 255 // 560
    chequers = np.stack(
        [(rows // 40 + columns // 40) % 2 * colour for colour in (250, 120, 30)], axis=-1
    )
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (200, 300, 3))
    return [Image.fromarray(array.astype(np.uint8)) for array in (gradient, chequers, noise)]
