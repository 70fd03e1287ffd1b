"""Image transforms: the test transform of a model, and random augmented views.

Letters: b images, K views of each, H and W the size of the model's input.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from anyclass.data.image import Decoding, Limits
from anyclass.errors import ImageError, ModelError

REDUCED = 3
"""Pixels that reduced decoding leaves for one of the model's input, along each axis, at least."""

_GENERATOR = threading.Lock()
"""Held while a view is drawn: torchvision draws from torch's global generator."""


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of a model, with open_clip's names."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    size: tuple[int, int]
    """Height and width of the input, in pixels."""

    mean: tuple[float, float, float]
    """Mean of each channel, for pixels in 0..1."""

    std: tuple[float, float, float]
    """Standard deviation of each channel, for pixels in 0..1."""

    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Interpolation for resizing."""

    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    """Resize the shortest side and crop, the longest side and pad, or both sides."""

    fill: int = 0
    """Grey value of the padding, 0..255."""

    decoding: Decoding = "full"
    """How JPEGs are decoded."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Preprocessing":
        """Convert the preprocessing dictionary of an open_clip model.

        Raises:
            ModelError: it has a value that open_clip's own transform does not support.
        """
        size, mean, std = (config.get(key) for key in ("size", "mean", "std"))
        return cls.from_json(
            {
                "size": (size, size) if isinstance(size, int) else size,
                "mean": (mean,) * 3 if isinstance(mean, int | float) else mean,
                "std": (std,) * 3 if isinstance(std, int | float) else std,
                "interpolation": config.get("interpolation", "bicubic").replace(
                    "random", "bicubic"
                ),
                "resize_mode": config.get("resize_mode", "shortest"),
                "fill": config.get("fill_color", 0),
            }
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Preprocessing":
        """Restore the preprocessing from `to_json`.

        Raises:
            ModelError: the value is damaged.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(cls).validate_python(value)
        except ValidationError as error:
            raise ModelError(f"the model's preprocessing is damaged: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; `decoding` only where it is not "full"."""
        fields = asdict(self)
        if self.decoding == "full":
            del fields["decoding"]  # keys of caches and files stay what they were without it
        return {key: list(v) if isinstance(v, tuple) else v for key, v in fields.items()}

    @property
    def shorter_side(self) -> int:
        """Pixels that decoding leaves the shorter side of a JPEG; 0: all."""
        return REDUCED * max(self.size) if self.decoding == "reduced" else 0

    def view(self, image: Image.Image) -> UInt8[Tensor, "3 H W"]:
        """Resize and crop an image to the model's input, before `normalise`.

        Raises:
            ImageError: it is so narrow that resizing it would fill the memory.
        """
        if self.resize_mode == "shortest":
            _refuse_narrow(image, max(self.size))
        from torchvision.transforms.functional import pil_to_tensor

        pixels: Tensor = pil_to_tensor(_transform(self)(image))
        return pixels

    def normalise(self, pixels: UInt8[Tensor, "*b 3 H W"]) -> Float[Tensor, "*b 3 H W"]:
        """Normalise pixels for the image encoder, on the device of `pixels`."""
        mean, std = (
            torch.tensor(v, device=pixels.device)[:, None, None] for v in (self.mean, self.std)
        )
        return pixels.float().div_(255).sub_(mean).div_(std)


@dataclass(frozen=True)
class Augmentation:
    """Random crop, colour jitter and grey scale without flips, as in LatteCLIP's scripts."""

    scale: tuple[float, float] = (0.9, 1.0)
    """Smallest and largest share of the image in a crop."""

    jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.1)
    """Largest change of brightness, contrast, saturation and hue."""

    jitter_probability: float = 0.8
    """Probability of the colour jitter."""

    grey_probability: float = 0.2
    """Probability of the conversion to grey."""

    flip_probability: float = 0.0
    """Probability of a horizontal flip."""

    def view(self, image: Image.Image, size: tuple[int, int], seed: int) -> UInt8[Tensor, "3 H W"]:
        """Random view of height and width `size`, a pure function of `image` and `seed`."""
        from torchvision.transforms import (
            ColorJitter,
            Grayscale,
            InterpolationMode,
            RandomResizedCrop,
        )
        from torchvision.transforms.functional import pil_to_tensor

        crop = RandomResizedCrop(size, scale=self.scale, interpolation=InterpolationMode.BICUBIC)
        with _GENERATOR, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            image = crop(image)
            if torch.rand(()) < self.jitter_probability:
                image = ColorJitter(*self.jitter)(image)
            if torch.rand(()) < self.grey_probability:
                image = Grayscale(num_output_channels=3)(image)
            if self.flip_probability > 0 and torch.rand(()) < self.flip_probability:
                image = ImageOps.mirror(image)
        pixels: Tensor = pil_to_tensor(image)
        return pixels


@dataclass(frozen=True)
class CropAndFlip:
    """Resized short side, random crop and flip, as in SimGCD's and GET's scripts."""

    share: float = 0.875
    """Side of the crop as a share of the image's short side."""

    flip_probability: float = 0.5
    """Probability of a horizontal flip."""

    def view(self, image: Image.Image, size: tuple[int, int], seed: int) -> UInt8[Tensor, "3 H W"]:
        """Random view of height and width `size`, a pure function of `image` and `seed`.

        Raises:
            ImageError: it is so narrow that resizing it would fill the memory.
        """
        from torchvision.transforms import (
            InterpolationMode,
            RandomCrop,
            RandomHorizontalFlip,
            Resize,
        )
        from torchvision.transforms.functional import pil_to_tensor

        side = round(max(size) / self.share)
        _refuse_narrow(image, side)
        with _GENERATOR, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            image = RandomCrop(size)(Resize(side, InterpolationMode.BICUBIC)(image))
            image = RandomHorizontalFlip(self.flip_probability)(image)
        pixels: Tensor = pil_to_tensor(image)
        return pixels


@dataclass(frozen=True)
class TestTransform:
    """Deterministic transform for testing: one view per image."""

    __test__: ClassVar = False  # tells pytest that this is no test case

    preprocessing: Preprocessing
    """Preprocessing of the model."""

    def __call__(self, image: Image.Image, content: str) -> UInt8[Tensor, "1 3 H W"]:
        """The view of `image`; `content`, the checksum of its file, is ignored."""
        return self.preprocessing.view(image)[None]


@dataclass(frozen=True)
class AugmentedViews:
    """K random views per image, determined by the image's content and the seed only."""

    preprocessing: Preprocessing
    """Preprocessing of the model; sets the size of the views."""

    augmentation: Augmentation | CropAndFlip
    """Random augmentation."""

    count: int
    """K, the number of views per image."""

    seed: int = 0
    """Random seed."""

    def __call__(self, image: Image.Image, content: str) -> UInt8[Tensor, "K 3 H W"]:
        """The views of `image`; `content` is the checksum of its file."""
        size = self.preprocessing.size
        seeds = [_seed(content, self.seed, k) for k in range(self.count)]
        return torch.stack([self.augmentation.view(image, size, seed) for seed in seeds])


def _refuse_narrow(image: Image.Image, side: int) -> None:
    """Reject an image that would fill the memory with a short side of `side` pixels."""
    short, long = sorted(image.size)
    if side**2 * (long / short) > Limits().pixels:
        raise ImageError("too many pixels", f"{image.width} x {image.height} is too narrow")


def _seed(content: str, seed: int, k: int) -> int:
    """Random seed below 2^63 for view k of an image."""
    return int.from_bytes(sha256(f"{content} {seed} {k}".encode()).digest()[:8]) >> 1


@lru_cache(maxsize=8)
def _transform(preprocessing: Preprocessing) -> Callable[[Image.Image], Image.Image]:
    """open_clip's own transform without its last two steps: to a tensor, and normalise."""
    from open_clip import image_transform
    from torchvision.transforms import Compose

    steps = image_transform(
        preprocessing.size,
        is_train=False,
        mean=preprocessing.mean,
        std=preprocessing.std,
        resize_mode=preprocessing.resize_mode,
        interpolation=preprocessing.interpolation,
        fill_color=preprocessing.fill,
    ).transforms
    transform: Callable[[Image.Image], Image.Image] = Compose(steps[:-2])
    return transform
