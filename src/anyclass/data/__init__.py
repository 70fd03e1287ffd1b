"""Images and class names in, tensors out.

`classes` holds the class names, `dataset` the immutable table of images; `image` decodes untrusted
files, `content_hash` has their checksums, `transforms` makes the pixels for a model, `loader` reads
batches.
Modules that need torch are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anyclass.data.classes import Classes, Kind
from anyclass.data.content_hash import content_hashes
from anyclass.data.dataset import ImageDataset
from anyclass.data.image import Limits, open_bytes, open_image, read_bytes
from anyclass.data.rejection import Rejection
from anyclass.data.similar_names import similar_names

if TYPE_CHECKING:
    from anyclass.data.loader import ImageBatch, load_batches
    from anyclass.data.transforms import (
        Augmentation,
        AugmentedViews,
        CropAndFlip,
        Preprocessing,
        TestTransform,
    )

__all__ = [
    "Augmentation",
    "AugmentedViews",
    "Classes",
    "CropAndFlip",
    "ImageBatch",
    "ImageDataset",
    "Kind",
    "Limits",
    "Preprocessing",
    "Rejection",
    "TestTransform",
    "content_hashes",
    "load_batches",
    "open_bytes",
    "open_image",
    "read_bytes",
    "similar_names",
]

_HOMES = {
    "Augmentation": "transforms",
    "AugmentedViews": "transforms",
    "CropAndFlip": "transforms",
    "ImageBatch": "loader",
    "Preprocessing": "transforms",
    "TestTransform": "transforms",
    "load_batches": "loader",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'anyclass.data' has no attribute {name!r}")
    return getattr(import_module(f"anyclass.data.{_HOMES[name]}"), name)
