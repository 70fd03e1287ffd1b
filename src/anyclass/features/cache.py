"""Disk cache of frozen trunk outputs, keyed by content hash.

The key of a row is the sha256 of the image file. The key of its folder is made from the weights and
preprocessing of the model, the frozen part, the views and the engine. File names and dates do not
matter. An interrupted run continues with the cached rows; a damaged file is computed again.
`shard_index.py` knows which file holds which row.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from anyclass.backbone import Backbone, Part
from anyclass.data import Augmentation, CropAndFlip, Rejection
from anyclass.data.image import readable_formats
from anyclass.errors import AnyclassError
from anyclass.features.shard_index import ShardContent, ShardIndex
from anyclass.files import cache_folder, check_space, write_json, write_tensors
from anyclass.log import Log

SHARD = 512
"""Images per cache file. While they are computed, smaller files are written and then joined."""


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


def cache_folder_of(
    clip: Backbone, digest: str, how: Embedding, engine: str, projected: bool = False
) -> Path:
    """Cache folder of an embedding; `about.json` in it contains the key.

    Args:
        clip: the model.
        digest: digest of the frozen part of the model, `Backbone.frozen_sha256`; of all weights
            for projected features.
        how: part and views.
        engine: name of the engine of the trunk.
        projected: whether the rows are unit features after the projection.
    """
    key = {"trunk": digest, "preprocessing": clip.preprocessing.to_json()}
    key |= asdict(how) | {"engine": engine, "pillow": PIL.__version__, "format": 2}
    key |= {"formats": readable_formats()} | ({"space": "projected"} if projected else {})
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache_folder("features", name)
    if not (folder / "about.json").is_file():
        write_json(folder / "about.json", key | {"model": clip.model_id})
    return folder


class FeatureCache:
    """Cached rows by content, in memory-mapped shards; only those that are asked for are opened."""

    def __init__(self, folder: Path, log: Log) -> None:
        """Open the cache of a folder; no shard is read but those that its index does not know."""
        self._folder = folder
        self._log = log
        self._index = ShardIndex(folder, self._content, log)
        self._rows: dict[str, tuple[str, int]] = {}
        self._opened: dict[str, _Shard] = {}
        self._small: list[str] = []
        self.refused: dict[str, Rejection] = {}
        """Content hash of a rejected image that was asked for -> the reason."""

    def missing(self, hashes: Sequence[str | None]) -> list[int]:
        """One image of each missing content, then all images without a hash.

        This order lets a continued run put the same images into the same batches.
        """
        self._look_up({key for key in hashes if key})
        known = {None, *self._rows, *self.refused}
        missing = []
        for index, key in enumerate(hashes):
            if key not in known:
                missing.append(index)
                known.add(key)
        return missing + [index for index, key in enumerate(hashes) if key is None]

    def add(self, rows: Tensor, keys: list[str], refused: Mapping[str, Rejection]) -> None:
        """Write rows as a small shard, atomically; small shards are joined to one of `SHARD` rows.

        A kill thus loses little, and few files are left.
        """
        if not keys and not refused:
            return
        self._small.append(self._write(rows, ShardContent(keys, refused)))
        if sum(len(self._opened[name].content.keys) for name in self._small) >= SHARD:
            self.join()

    def check_space(self, size: int) -> None:
        """Refuse so many bytes of features if the disk has no place for them.

        Raises:
            StorageError: it has not.
        """
        check_space(self._folder, size)

    def join(self) -> None:
        """Join the small shards that this process has written."""
        small = self._small
        self._small = []
        if len(small) < 2:
            return
        shards = [self._opened[name] for name in small]
        rows = [shard.rows for shard in shards if len(shard.content.keys)]
        keys = [key for shard in shards for key in shard.content.keys]
        refused = {key: why for shard in shards for key, why in shard.content.refused.items()}
        joined = torch.cat(rows) if rows else torch.empty(0)
        self._write(joined, ShardContent(keys, refused), instead_of=small)
        for name in small:
            del self._opened[name]
            with suppress(OSError):  # Windows removes no file that is mapped
                (self._folder / name).unlink()

    def features(self, hashes: Sequence[str | None], rejections: Sequence[Rejection]) -> Features:
        """Rows of some images, which must have been asked for."""
        shards = list(dict.fromkeys(name for name, _ in self._rows.values()))
        number = {name: i for i, name in enumerate(shards)}
        place = np.full((len(hashes), 2), -1)
        for i, key in enumerate(hashes):
            if key in self._rows:
                name, row = self._rows[key]
                place[i] = number[name], row
        return Features([self._opened[name].rows for name in shards], place, rejections)

    def has(self, key: str | None) -> bool:
        """Whether there is a row of an image that was asked for."""
        return key in self._rows

    def _look_up(self, keys: Collection[str]) -> None:
        """Find rows and rejections of images, and open their shards.

        Another process may have joined a shard meanwhile: then the index knows another place.
        """
        for _ in range(3):
            unknown = [key for key in keys if key not in self._rows and key not in self.refused]
            found = self._index.find(unknown)
            self.refused |= found.refused
            complete = True
            for key, (name, row) in found.rows.items():
                shard = self._shard(name)
                if shard is not None and shard.content.keys[row : row + 1] == [key]:
                    self._rows[key] = (name, row)
                else:
                    complete = False
            if complete:
                return
            self._index.refresh()

    def _shard(self, name: str) -> "_Shard | None":
        """Open a shard; None if it is gone or damaged."""
        if name not in self._opened:
            shard = self._open(self._folder / name)
            if shard is None:
                return None
            self._opened[name] = shard
        return self._opened[name]

    def _write(self, rows: Tensor, content: ShardContent, instead_of: Sequence[str] = ()) -> str:
        """Write a shard, named by its content, and open it; returns its name."""
        refused = {key: list(why) for key, why in content.refused.items()}
        about = json.dumps({"keys": content.keys, "refused": refused})
        name = f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.safetensors"
        path = self._folder / name
        write_tensors(path, {"rows": rows}, {"about": about})
        self._index.add(name, content, instead_of)
        self._opened[name] = _read_shard(path)
        self._rows |= {key: (name, row) for row, key in enumerate(content.keys)}
        self.refused |= content.refused
        return name

    def _content(self, path: Path) -> ShardContent | None:
        """Content of a shard for the index; None if it is gone or damaged."""
        shard = self._open(path)
        return shard and shard.content

    def _open(self, path: Path) -> "_Shard | None":
        """Read a shard; a damaged one is removed with a warning."""
        try:
            return _read_shard(path)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            path.unlink(missing_ok=True)
            self._log(warning=f"a damaged cache file was removed and is computed again: {path}")
            return None


class _Shard(NamedTuple):
    """An open shard."""

    rows: Tensor
    content: ShardContent


def _read_shard(path: Path) -> _Shard:
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
        rows = file.get_tensor("rows")
    refused = {key: Rejection(*why) for key, why in about["refused"].items()}
    keys = list(about["keys"])
    if len(keys) > len(rows) or any(len(bytes.fromhex(key)) != 32 for key in (*keys, *refused)):
        raise ValueError("the keys are not those of its rows")
    return _Shard(rows, ShardContent(keys, refused))
