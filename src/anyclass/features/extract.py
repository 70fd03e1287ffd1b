"""Embed once, keep on disk: what the frozen trunk says of each image, found again by content.

A row is kept under the sha256 of the image's bytes, in a folder that stands for the model's
weights, its preprocessing, the part that is frozen, the views and the engine. Nothing depends on
names or dates; a killed run goes on where it was; a damaged file is computed again.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path

import numpy as np
import PIL
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone, Part
from anyclass.backbone.engine import Engine, engine
from anyclass.data import (
    Augmentation,
    AugmentedViews,
    CropAndFlip,
    ImageDataset,
    Rejection,
    TestTransform,
    content_hashes,
    load_batches,
)
from anyclass.errors import AnyclassError
from anyclass.files import atomic_write, cache_folder, write_json
from anyclass.log import Log

SHARD = 512
"""Images a file of the cache holds: what a kill can cost."""

BATCH = 64
"""Images that go through the trunk at once; halved when memory runs out."""


@dataclass(frozen=True)
class Embedding:
    """How images are embedded; with the model's weights, the key of the cache."""

    part: Part = "head"
    """What will be trained on the outputs."""
    augmentation: Augmentation | CropAndFlip | None = None
    """How views vary; None: the one test view."""
    views: int = 1
    """K, augmented views of each image."""
    seed: int = 0
    """Of the views."""


def cached_part(trained: Part | None) -> Part:
    """The part whose trunk outputs are kept on disk when `trained` is trained (None: nothing is).

    Pixels are not kept: with everything trained, or nothing, it is the head.
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
        """Rows `place[i] = (shard, row)`, (-1, -1) for a rejected image."""
        self._shards = shards
        self._place = place
        self.rejections = list(rejections)
        """Why an image has no row."""

    def __len__(self) -> int:
        """N, rejected images included."""
        return len(self._place)

    @property
    def ok(self) -> Bool[np.ndarray, " N"]:
        """Which images have a row."""
        return self._place[:, 0] >= 0

    def __getitem__(self, index: Int[Tensor, " b"] | Sequence[int]) -> Float[Tensor, "b K ..."]:
        """Rows of some images.

        Raises:
            AnyclassError: one of them was rejected.
        """
        places = self._places(index)
        return torch.stack([self._shards[shard][row] for shard, row in places]).float()

    def views(self, index: Int[Tensor, " b"], view: Int[Tensor, " b"]) -> Float[Tensor, "b ..."]:
        """One view of each of some images; the others are not even read."""
        places = zip(self._places(index), view.tolist(), strict=True)
        return torch.stack([self._shards[shard][row, k] for (shard, row), k in places]).float()

    def _places(self, index: Int[Tensor, " b"] | Sequence[int]) -> list[list[int]]:
        places: list[list[int]] = self._place[np.asarray(index)].tolist()
        if [-1, -1] in places:
            first = self.rejections[0]
            raise AnyclassError(f"{first.file_name} cannot be used: {first.reason} {first.detail}")
        return places


def embed(clip: Backbone, dataset: ImageDataset, how: Embedding, log: Log) -> Features:
    """Trunk outputs of all images: from the cache, or computed and kept there.

    Args:
        clip: the model, its trunk untrained.
        dataset: the images.
        how: part and views.
        log: gets `stage="embed"`, `done` and `total`.
    """
    machine = engine(clip, how.part)
    folder = _folder(clip, how, machine.name)
    cache = _Cache.open(folder, log)
    hashes = content_hashes(dataset)
    bad: dict[str, Rejection] = {}
    for rows, keys, refused in _compute(clip, dataset[_missing(hashes, cache)], how, machine, log):
        bad |= {row.file_name: row for row in refused}
        cache.add(folder, rows, keys, _lasting(dataset, hashes, refused))
    place = np.array(
        [cache.place.get(str(key), (-1, -1)) for key in hashes], dtype=np.int64
    ).reshape(-1, 2)
    content = dict(zip(dataset.files, hashes, strict=True))
    known = {str(content[name]): row for name, row in bad.items() if content[name]} | cache.refused
    changed = Rejection("", "unreadable", "it changed while it was read")
    without = [dataset.files[i] for i in np.flatnonzero(place[:, 0] < 0)]
    why = [bad.get(name) or known.get(str(content[name]), changed) for name in without]
    rejections = [row._replace(file_name=name) for row, name in zip(why, without, strict=True)]
    return Features(cache.shards, place, rejections)


@torch.no_grad()
def image_features(
    clip: Backbone, features: Features, part: Part, index: Int[Tensor, " n"] | None = None
) -> Float[Tensor, "n D"]:
    """Unit features through the tail, of the first view of all N images or of rows `index`."""
    return through(lambda hidden: clip.tail(hidden, part), clip.device, features, index)


@torch.no_grad()
def through(
    what: Callable[[Tensor], Tensor],
    device: torch.device,
    features: Features,
    index: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "n W"]:
    """What a function makes of the first view of all N images or of rows `index`."""
    rows = torch.arange(len(features)) if index is None else index.cpu()
    hidden = (features[some][:, 0].to(device) for some in rows.split(SHARD))
    return torch.cat([what(some) for some in hidden])


def pooled_features(clip: Backbone, features: Features, part: Part) -> Float[Tensor, "N H"]:
    """Unit features before the projection, of the first view of all N images."""
    return through(lambda x: normalize(clip.pooled(x, part), dim=-1), clip.device, features)


@torch.no_grad()
def every_view(
    what: Callable[[Tensor], Tensor], device: torch.device, features: Features
) -> Features:
    """What a function makes of every view of all N images, none of them rejected; in memory."""
    parts = []
    for some in torch.arange(len(features)).split(max(1, BATCH // features[[0]].shape[1])):
        hidden = features[some].to(device)
        parts.append(what(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2]).cpu())
    rows = np.arange(len(features))
    return Features([torch.cat(parts)], np.stack([np.zeros_like(rows), rows], axis=1), [])


def _folder(clip: Backbone, how: Embedding, engine_name: str) -> Path:
    """Where rows of this model, embedded this way, are kept; `about.json` says so to people."""
    key = {"trunk": clip.frozen_sha256(how.part), "preprocessing": clip.preprocessing.to_json()}
    key |= asdict(how) | {"engine": engine_name, "pillow": PIL.__version__, "format": 1}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache_folder("features", digest)
    if not (folder / "about.json").is_file():
        write_json(folder / "about.json", key | {"model": clip.model_id})
    return folder


@dataclass
class _Cache:
    """What is known by content: rows in memory-mapped shards, and why images were refused."""

    shards: list[Tensor]
    place: dict[str, tuple[int, int]]
    refused: dict[str, Rejection]

    @classmethod
    def open(cls, folder: Path, log: Log) -> "_Cache":
        """Read the shards of a folder; damaged ones are dropped, and said."""
        cache = cls([], {}, {})
        for path in sorted(folder.glob("*.safetensors")):
            try:
                cache._take(path)
            except (SafetensorError, OSError, KeyError, TypeError, ValueError):
                path.unlink(missing_ok=True)
                log(warning=f"a damaged cache file was removed and is computed again: {path}")
        return cache

    def add(
        self, folder: Path, rows: Tensor, keys: list[str], refused: Mapping[str, Rejection]
    ) -> None:
        """Write a shard, whole, under a name made of its content, and take it in from there."""
        about = json.dumps(
            {"keys": keys, "refused": {key: list(row) for key, row in refused.items()}}
        )
        path = folder / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.safetensors"
        with atomic_write(path) as draft:
            save_file({"rows": rows}, draft, {"about": about})
        self._take(path)

    def _take(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            rows = file.get_tensor("rows")
        self.place |= {key: (len(self.shards), row) for row, key in enumerate(about["keys"])}
        self.refused |= {key: Rejection(*row) for key, row in about["refused"].items()}
        self.shards.append(rows)


def _lasting(
    dataset: ImageDataset, hashes: Sequence[str | None], rows: Sequence[Rejection]
) -> dict[str, Rejection]:
    """Rejections by content, where that content is the reason and still lies there."""
    of = {row.file_name: row for row in rows if row.reason != "unreadable"}
    index = [i for i, name in enumerate(dataset.files) if name in of]
    now = content_hashes(dataset[index])
    pairs = zip(index, now, strict=True)
    return {key: of[dataset.files[i]] for i, key in pairs if key and key == hashes[i]}


def _missing(hashes: Sequence[str | None], cache: _Cache) -> list[int]:
    """One image for each content that is not in the cache, then all that cannot be read.

    In this order, so that a run that goes on after a kill puts the same images into the same
    batches.
    """
    seen = {None, *cache.place, *cache.refused}
    missing = []
    for index, key in enumerate(hashes):
        if key not in seen:
            missing.append(index)
            seen.add(key)
    return missing + [index for index, key in enumerate(hashes) if key is None]


@torch.no_grad()
def _compute(
    clip: Backbone, dataset: ImageDataset, how: Embedding, machine: Engine, log: Log
) -> Iterator[tuple[Tensor, list[str], list[Rejection]]]:
    """Rows, their contents and what was refused, a shard at a time."""
    rows, keys, refused = [], [], []
    draw = drawing(clip, how.augmentation, how.views, how.seed)
    done = 0
    for batch, bad in load_batches(dataset, draw, BATCH):
        done += len(batch.indices) + len(bad)
        refused += bad
        if batch.indices:
            rows.append(_forward(machine, clip.preprocessing.normalise, batch.pixels))
            keys += batch.hashes
        log(stage="embed", done=done, total=len(dataset))
        if len(keys) >= SHARD:
            yield torch.cat(rows), keys, refused
            rows, keys, refused = [], [], []
    if len(dataset):
        yield torch.cat(rows) if rows else torch.empty(0), keys, refused


def drawing(
    clip: Backbone, augmentation: Augmentation | CropAndFlip | None, views: int, seed: int
) -> TestTransform | AugmentedViews:
    """What turns an image into its views."""
    if augmentation is None:
        return TestTransform(clip.preprocessing)
    return AugmentedViews(clip.preprocessing, augmentation, views, seed)


def _forward(machine: Engine, normalise: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """Trunk outputs (b, K, ...) of uint8 views (b, K, 3, H, W); maps in half precision."""
    flat = pixels.flatten(0, 1).split(BATCH)
    hidden = torch.cat([_halving(lambda x: machine.run(normalise(x)).cpu(), x) for x in flat])
    hidden = hidden.half() if hidden.ndim > 2 else hidden
    rows: Tensor = hidden.unflatten(0, pixels.shape[:2])
    return rows


def _halving(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`run(x)`, in halves as long as memory runs out."""
    try:
        return run(x)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        short = isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
        if not short or len(x) == 1:
            raise
    middle = len(x) // 2
    return torch.cat([_halving(run, x[:middle]), _halving(run, x[middle:])])


@torch.no_grad()
def stream(
    clip: Backbone,
    dataset: ImageDataset,
    part: Part,
    beside: Backbone | None = None,
    own: bool = False,
    pooled: bool = False,
) -> Iterator[tuple[list[int], Float[Tensor, "b E"], list[Rejection]]]:
    """Unit features of images in their order, in bounded memory and without the cache.

    Yields rows of `dataset`, their features, and what was rejected beside them. The features of
    `beside`, a model with the same trunk, stand beside those of `clip`; with `own` the tower's own;
    with `pooled` they are those before the projection instead.
    """
    machine, towers = engine(clip, part), [clip] if beside is None else [clip, beside]

    def features(pixels: Tensor) -> Tensor:
        hidden = machine.run(pixels)
        if pooled:
            return normalize(clip.pooled(hidden, part), dim=-1).cpu()
        seen = side_by_side([tower.tail(hidden, part) for tower in towers])
        return (with_own(seen, hidden) if own else seen).cpu()

    for batch, bad in load_batches(dataset, TestTransform(clip.preprocessing), BATCH):
        hidden = torch.empty(0, 0)
        if batch.indices:
            pixels = clip.preprocessing.normalise(batch.pixels[:, 0])
            hidden = _halving(features, pixels)
        yield batch.indices, hidden, bad


def side_by_side(rows: Sequence[Float[Tensor, "n D"]]) -> Float[Tensor, "n E"]:
    """Unit rows of E = D or 2 D columns from one or two sets of unit rows.

    Cosines between such rows are the means of the cosines of their parts.
    """
    return torch.cat(list(rows), dim=1) / sqrt(len(rows))


def tower_features(features: Features) -> Float[Tensor, "N H"]:
    """What the image tower makes of the first view of all N images before its projection."""
    return through(_pooled, torch.device("cpu"), features)


def with_own(seen: Float[Tensor, "n E"], hidden: Float[Tensor, "n ..."]) -> Float[Tensor, "n R"]:
    """Features, those of the tower before its projection, and a one for a bias: R = E + H + 1."""
    return torch.cat([seen, _pooled(hidden).to(seen), torch.ones_like(seen[:, :1])], dim=1)


def _pooled(hidden: Float[Tensor, "n ..."]) -> Float[Tensor, "n H"]:
    """A map (n, H, h, w), where the projection is what pools, becomes its mean."""
    return hidden.flatten(2).mean(2) if hidden.ndim > 2 else hidden


def current_features(
    clip: Backbone,
    dataset: ImageDataset,
    part: Part,
    cached: Features,
    index: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "n D"]:
    """Unit features of the test views by the model of now, whatever of it is being trained.

    Args:
        clip: the model of now.
        dataset: the N images, all readable.
        part: what is trained.
        cached: trunk outputs of their test views (not used when everything is trained).
        index: rows that are wanted; None: all.

    Raises:
        AnyclassError: an image is no longer readable.
    """
    if part != "all":
        return image_features(clip, cached, part, index)
    wanted = dataset if index is None else dataset[index.numpy()]
    rows = []
    for _, features, bad in stream(clip, wanted, part):
        stop_if(bad)
        rows.append(features)
    return torch.cat(rows)


def stop_if(bad: Sequence[Rejection]) -> None:
    """Rows and images would no longer go together."""
    if bad:
        why = f"{bad[0].reason} {bad[0].detail}".strip()
        raise AnyclassError(f"{bad[0].file_name} changed while training: {why}")
