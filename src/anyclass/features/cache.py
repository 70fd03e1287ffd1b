"""Disk cache of frozen trunk outputs, keyed by content hash.

The key of a row is the sha256 of the image file. The key of its folder is made from the weights and
preprocessing of the model, the frozen part, the views and the engine. File names and dates do not
matter. An interrupted run continues with the cached rows; a damaged file is computed again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import PIL
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from anyclass.backbone import Backbone, Part
from anyclass.data import Augmentation, CropAndFlip, Rejection
from anyclass.data.image import readable_formats
from anyclass.errors import AnyclassError
from anyclass.files import atomic_write, cache_folder, write_json
from anyclass.log import Log

SHARD = 512
"""Images per cache file: the largest number to compute again after an interruption."""


@dataclass(frozen=True)
class Embedding:
    """Settings of an embedding; with the model's weights, the key of the cache."""

    part: Part = "head"
    """Part of the model that is trained on the outputs."""
    augmentation: Augmentation | CropAndFlip | None = None
    """Augmentation of the views; None: the test view."""
    views: int = 1
    """K, number of augmented views per image."""
    seed: int = 0
    """Random seed of the views."""


def cached_part(trained: Part | None) -> Part:
    """Part of the model whose trunk outputs are cached for a trained part (None: nothing trained).

    Pixels are not cached: with the whole model trained, or nothing, the part is the head.
    """
    return "tail" if trained == "tail" else "head"


class Features:
    """Trunk outputs of N images, memory-mapped: `features[index]` is (b, K, ...) in float32."""

    def __init__(
        self,
        shards: Sequence[Tensor],
        place: Int[np.ndarray, "N 2"],
        rejections: Sequence[Rejection],
    ) -> None:
        """Collect the rows of a dataset.

        Args:
            shards: rows as they are stored.
            place: (shard, row) of each image, (-1, -1) for a rejected one.
            rejections: rejected images in order, with reasons.
        """
        self._shards = shards
        self._place = place
        self.rejections = list(rejections)
        """Rejected images in order, with reasons."""

    def __len__(self) -> int:
        """N, including rejected images."""
        return len(self._place)

    @property
    def ok(self) -> Bool[np.ndarray, " N"]:
        """Mask of the images with a row."""
        return self._place[:, 0] >= 0

    def __getitem__(self, index: Int[Tensor, " b"] | Sequence[int]) -> Float[Tensor, "b K ..."]:
        """Rows of some images.

        Raises:
            AnyclassError: one of the images was rejected.
        """
        places = self._places(index)
        return torch.stack([self._shards[shard][row] for shard, row in places]).float()

    def views(self, index: Int[Tensor, " b"], view: Int[Tensor, " b"]) -> Float[Tensor, "b ..."]:
        """One view of each of some images; other views are not read.

        Raises:
            AnyclassError: one of the images was rejected.
        """
        places = zip(self._places(index), view.tolist(), strict=True)
        return torch.stack([self._shards[shard][row, k] for (shard, row), k in places]).float()

    def _places(self, index: Int[Tensor, " b"] | Sequence[int]) -> list[list[int]]:
        """Shard and row of some images."""
        rows = np.asarray(index)
        places = self._place[rows]
        rejected = rows[places[:, 0] < 0]
        if len(rejected):
            before = int((~self.ok[: rejected[0]]).sum())  # rejected images before this one
            image = self.rejections[before]
            raise AnyclassError(f"{image.file_name} cannot be used: {image.reason} {image.detail}")
        found: list[list[int]] = places.tolist()
        return found


def cache_folder_of(clip: Backbone, trunk: str, how: Embedding, engine: str) -> Path:
    """Cache folder of an embedding; `about.json` in it contains the key.

    Args:
        clip: the model.
        trunk: digest of the frozen part of the model, `Backbone.frozen_sha256`.
        how: part and views.
        engine: name of the engine of the trunk.
    """
    key = {"trunk": trunk, "preprocessing": clip.preprocessing.to_json()}
    key |= asdict(how) | {"engine": engine, "pillow": PIL.__version__, "format": 2}
    key |= {"formats": readable_formats()}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache_folder("features", digest)
    if not (folder / "about.json").is_file():
        write_json(folder / "about.json", key | {"model": clip.model_id})
    return folder


@dataclass
class FeatureCache:
    """Cached rows by content: memory-mapped shards, and rejections."""

    folder: Path
    """Folder of the shards."""
    shards: list[Tensor] = field(default_factory=list)
    """Rows (n, K, ...) of each shard."""
    place: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Content hash of an image -> its shard and row."""
    refused: dict[str, Rejection] = field(default_factory=dict)
    """Content hash of a rejected image -> the reason."""

    @classmethod
    def open(cls, folder: Path, log: Log) -> "FeatureCache":
        """Open the shards of a folder; remove damaged ones with a warning."""
        cache = cls(folder)
        for path in sorted(folder.glob("*.safetensors")):
            try:
                cache._take(path)
            except (SafetensorError, OSError, KeyError, TypeError, ValueError):
                path.unlink(missing_ok=True)
                log(warning=f"a damaged cache file was removed and is computed again: {path}")
        return cache

    def missing(self, hashes: Sequence[str | None]) -> list[int]:
        """One image of each missing content, then all images without a hash.

        This order lets a continued run put the same images into the same batches.
        """
        known = {None, *self.place, *self.refused}
        missing = []
        for index, key in enumerate(hashes):
            if key not in known:
                missing.append(index)
                known.add(key)
        return missing + [index for index, key in enumerate(hashes) if key is None]

    def add(self, rows: Tensor, keys: list[str], refused: Mapping[str, Rejection]) -> None:
        """Write a shard atomically, named by its content, and open it."""
        about = json.dumps(
            {"keys": keys, "refused": {key: list(row) for key, row in refused.items()}}
        )
        name = hashlib.sha256(about.encode()).hexdigest()[:32]
        path = self.folder / f"{name}.safetensors"
        with atomic_write(path) as draft:
            save_file({"rows": rows}, draft, {"about": about})
        self._take(path)

    def places(self, hashes: Sequence[str | None]) -> Int[np.ndarray, "N 2"]:
        """Shard and row of each image, (-1, -1) if there is none."""
        found = [self.place.get(str(key), (-1, -1)) for key in hashes]
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    def _take(self, path: Path) -> None:
        """Add the rows of a shard."""
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            rows = file.get_tensor("rows")
        self.place |= {key: (len(self.shards), row) for row, key in enumerate(about["keys"])}
        self.refused |= {key: Rejection(*row) for key, row in about["refused"].items()}
        self.shards.append(rows)
