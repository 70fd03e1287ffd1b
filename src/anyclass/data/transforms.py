"""The pixels a model sees: the one test view of an image, and its augmented views.

Letters: b images, K views of each, H and W the size of the model's input.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, UInt8
from open_clip import image_transform
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import (
    ColorJitter,
    Compose,
    Grayscale,
    InterpolationMode,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from torchvision.transforms.functional import pil_to_tensor

from anyclass.data.image import Limits
from anyclass.errors import ImageError, ModelError


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its images, in open_clip's words."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    size: tuple[int, int]
    """Height and width of the input, in pixels."""

    mean: tuple[float, float, float]
    """Subtracted from each channel, of pixels in 0..1."""

    std: tuple[float, float, float]
    """What each channel is divided by then."""

    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """How pixels are resampled."""

    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    """The side that is fitted (then cropped, or padded), or both."""

    fill: int = 0
    """Grey value of the padding, 0..255."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Preprocessing":
        """From the preprocessing dictionary of an open_clip model.

        Raises:
            ModelError: it wants something that open_clip's own transform does not know.
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
        """The preprocessing that `to_json` described.

        Raises:
            ModelError: the value is damaged.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(cls).validate_python(value)
        except ValidationError as error:
            raise ModelError(f"the model's preprocessing is damaged: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    def view(self, image: Image.Image) -> UInt8[Tensor, "3 H W"]:
        """The image as the model wants it, before `normalise`.

        Raises:
            ImageError: it is so narrow that resizing it would fill the memory.
        """
        if self.resize_mode == "shortest":
            _refuse_narrow(image, max(self.size))
        pixels: Tensor = _transform(self)(image)
        return (pixels * 255).round().to(torch.uint8)

    def normalise(self, pixels: UInt8[Tensor, "*b 3 H W"]) -> Float[Tensor, "*b 3 H W"]:
        """Float pixels as the tower wants them, on the device where `pixels` are."""
        mean, std = (
            torch.tensor(v, device=pixels.device)[:, None, None] for v in (self.mean, self.std)
        )
        return (pixels.float() / 255 - mean) / std


@dataclass(frozen=True)
class Augmentation:
    """Random views; the defaults are those of LatteCLIP's scripts: crop, jitter, grey, no flip."""

    scale: tuple[float, float] = (0.9, 1.0)
    """Least and largest share of the image that a crop keeps."""

    jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.1)
    """Largest change of brightness, contrast, saturation and hue."""

    jitter_probability: float = 0.8
    """How often colours are changed at all."""

    grey_probability: float = 0.2
    """How often the colours are taken away."""

    flip_probability: float = 0.0
    """How often left and right are swapped."""

    def view(self, image: Image.Image, size: tuple[int, int], seed: int) -> UInt8[Tensor, "3 H W"]:
        """One view of height and width `size`, a pure function of `image` and `seed`."""
        crop = RandomResizedCrop(size, scale=self.scale, interpolation=InterpolationMode.BICUBIC)
        with torch.random.fork_rng(devices=[]):
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
    """Random views as in SimGCD's and GET's scripts: short side resized, a crop, a flip."""

    share: float = 0.875
    """Side of the crop, of the short side of the image."""

    flip_probability: float = 0.5
    """How often left and right are swapped."""

    def view(self, image: Image.Image, size: tuple[int, int], seed: int) -> UInt8[Tensor, "3 H W"]:
        """One view of height and width `size`, a pure function of `image` and `seed`.

        Raises:
            ImageError: it is so narrow that resizing it would fill the memory.
        """
        side = round(max(size) / self.share)
        _refuse_narrow(image, side)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            image = RandomCrop(size)(Resize(side, InterpolationMode.BICUBIC)(image))
            image = RandomHorizontalFlip(self.flip_probability)(image)
        pixels: Tensor = pil_to_tensor(image)
        return pixels


@dataclass(frozen=True)
class TestTransform:
    """Draws the one view that a model is tested with."""

    __test__: ClassVar = False  # it is no test case, whatever pytest makes of its name

    preprocessing: Preprocessing
    """How the model wants its images."""

    def __call__(self, image: Image.Image, content: str) -> UInt8[Tensor, "1 3 H W"]:
        """The view of `image`; `content`, the checksum of its file, changes nothing."""
        return self.preprocessing.view(image)[None]


@dataclass(frozen=True)
class AugmentedViews:
    """Draws K random views that depend on the image's content and the seed only."""

    preprocessing: Preprocessing
    """Gives the size of the views."""

    augmentation: Augmentation | CropAndFlip
    """How they vary."""

    count: int
    """K, how many there are of each image."""

    seed: int = 0
    """Another seed gives other views."""

    def __call__(self, image: Image.Image, content: str) -> UInt8[Tensor, "K 3 H W"]:
        """The views of `image`; `content` is the checksum of its file."""
        size = self.preprocessing.size
        seeds = [_seed(content, self.seed, k) for k in range(self.count)]
        return torch.stack([self.augmentation.view(image, size, seed) for seed in seeds])


def _refuse_narrow(image: Image.Image, side: int) -> None:
    """Refuse what would fill the memory once its short side is `side` pixels long."""
    short, long = sorted(image.size)
    if side**2 * (long / short) > Limits().pixels:
        raise ImageError("too many pixels", f"{image.width} x {image.height} is too narrow")


def _seed(content: str, seed: int, k: int) -> int:
    """A number below 2^63 for view k of an image."""
    return int.from_bytes(sha256(f"{content} {seed} {k}".encode()).digest()[:8]) >> 1


@lru_cache(maxsize=8)
def _transform(preprocessing: Preprocessing) -> Compose:
    """open_clip's own transform, made to leave the pixels in 0..1: mean 0, deviation 1."""
    return image_transform(
        preprocessing.size,
        is_train=False,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        resize_mode=preprocessing.resize_mode,
        interpolation=preprocessing.interpolation,
        fill_color=preprocessing.fill,
    )
