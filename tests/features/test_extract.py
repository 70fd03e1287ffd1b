"""Features: every row is its image's, whatever was killed, damaged, edited or short of memory."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import anyclass.features.cache
import anyclass.features.extract
import anyclass.features.store
import anyclass.features.stream
from anyclass.backbone import Backbone, Part
from anyclass.backbone.engine import Engine
from anyclass.data import (
    Augmentation,
    AugmentedViews,
    CropAndFlip,
    ImageDataset,
    Rejection,
    open_image,
)
from anyclass.errors import AnyclassError, StorageError
from anyclass.features.cache import Embedding, Features
from anyclass.features.extract import image_features, map_views
from anyclass.features.store import FeatureStore
from anyclass.features.stream import current_features, stream
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch, Batches, TrainingBatches

N = 11


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eleven noisy images, none square, `00.png` ... `10.png`."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(N):
        image(i).save(folder / f"{i:02}.png")
    return folder


def image(i: int) -> Image.Image:
    drawn = np.random.default_rng(i).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(drawn).resize((50 + i, 41), Image.Resampling.NEAREST)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test."""
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def clip(tiny_backbone: Callable[..., Backbone], cache: Path) -> Backbone:
    return tiny_backbone()


class Listener:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def __call__(self, **line: Any) -> None:
        self.lines.append(line)

    @property
    def done(self) -> list[int]:
        return [line["done"] for line in self.lines if line.get("done")]  # it begins with 0

    @property
    def warnings(self) -> list[str]:
        return [line["warning"] for line in self.lines if "warning" in line]


def embedded(
    clip: Backbone, root: Path, how: Embedding | None = None, **changed: Any
) -> tuple[Tensor, Listener]:
    """All rows, and what was logged."""
    log = Listener()
    features = FeatureStore(clip, ImageDataset.read(root)).embed(
        replace(how or Embedding(), **changed), log
    )
    return features[np.flatnonzero(features.ok).tolist()], log


def expected(clip: Backbone, root: Path, part: Part, names: list[str]) -> Tensor:
    """The trunk's output of test views, one image at a time."""
    views = [clip.preprocessing.view(open_image(root / name)) for name in names]
    with torch.no_grad():
        rows = [clip.trunk(clip.preprocessing.normalise(view[None]), part) for view in views]
    return torch.stack(rows)


def sizes(monkeypatch: pytest.MonkeyPatch, batch: int, shard: int) -> None:
    monkeypatch.setattr(anyclass.features.extract, "BATCH", batch)
    monkeypatch.setattr(anyclass.features.stream, "BATCH", batch)
    monkeypatch.setattr(anyclass.features.extract, "SHARD", shard)
    monkeypatch.setattr(anyclass.features.cache, "SHARD", shard)
    monkeypatch.setattr("anyclass.files.pace.SHARE", float("inf"))  # each batch is kept


def all_names() -> list[str]:
    return [f"{i:02}.png" for i in range(N)]


@pytest.mark.parametrize(("part", "atol"), [("head", 1e-5), ("tail", 2e-3)])
def test_embed__rows_are_the_trunk_of_each_image(
    clip: Backbone, root: Path, part: Part, atol: float
) -> None:
    rows, log = embedded(clip, root, part=part)
    wanted = expected(clip, root, part, all_names())
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, wanted, rtol=0, atol=atol)  # maps are kept in half precision
    assert (rows[0] - rows[1]).abs().max() > 10 * atol
    assert log.done == [N]
    assert log.lines == [{"stage": "embed", "done": done, "total": N} for done in (0, N)]


def test_embed__of_no_image_more_than_it_is_asked(clip: Backbone, root: Path) -> None:
    dataset = ImageDataset.read(root)[[7, 2, 7]]
    log = Listener()
    features = FeatureStore(clip, dataset).embed(Embedding(), log)
    assert len(features) == 3
    assert log.done == [2]
    wanted = expected(clip, root, "head", ["07.png", "02.png", "07.png"])
    torch.testing.assert_close(features[[0, 1, 2]], wanted, rtol=0, atol=1e-5)


def test_embed__views(clip: Backbone, root: Path) -> None:
    augmentation = Augmentation()
    how = Embedding("tail", augmentation, views=4, seed=3)
    features = FeatureStore(clip, ImageDataset.read(root)).embed(how, Listener())
    rows = features[torch.tensor([9, 5])]
    assert rows.shape == (2, 4, 10, 32)  # (b, K, tokens, width)
    draw = AugmentedViews(clip.preprocessing, augmentation, 4, 3)
    for row, name in zip(rows, ["09.png", "05.png"], strict=True):
        content = sha256((root / name).read_bytes()).hexdigest()
        views = clip.preprocessing.normalise(draw(open_image(root / name), content))
        with torch.no_grad():
            torch.testing.assert_close(row, clip.trunk(views, "tail"), rtol=0, atol=2e-3)
    assert (rows[0, 0] - rows[0, 1]).abs().max() > 0.05


def test_embed__a_second_time_computes_nothing(
    clip: Backbone, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = embedded(clip, root)
    (root / "05.png").rename(root / "99.png")  # content counts, not names
    monkeypatch.setattr(
        anyclass.features.store, "engine", lambda clip, part: Engine("torch", never)
    )
    monkeypatch.setattr(anyclass.features.extract, "_forward", never)
    again, log = embedded(clip.copy(), root)
    order = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 5]
    assert torch.equal(again, first[order])
    assert log.lines == []


def never(*_: Any) -> Tensor:
    raise AssertionError("nothing should be computed")


@pytest.mark.parametrize(
    "changed",
    [
        {"part": "tail"},
        {"augmentation": Augmentation()},
        {"augmentation": Augmentation(), "views": 2},
        {"augmentation": Augmentation(), "seed": 1},
        {"augmentation": Augmentation(grey_probability=0.5)},
    ],
)
def test_embed__in_another_way_is_kept_apart(
    clip: Backbone, root: Path, cache: Path, changed: dict[str, Any]
) -> None:
    embedded(clip, root)
    _, log = embedded(clip, root, **changed)
    assert log.done == [N]
    assert len(list(cache.iterdir())) == 2


def test_embed__another_trunk_engine_or_preprocessing_is_kept_apart(
    clip: Backbone, root: Path, cache: Path
) -> None:
    embedded(clip, root)
    trained = clip.copy()
    trained.model.visual.proj.data.mul_(2)
    trained.model.token_embedding.weight.data.mul_(2)
    assert embedded(trained, root)[1].done == []  # the head is not part of it
    trained.model.visual.conv1.weight.data[0, 0] += 1
    assert embedded(trained, root)[1].done == [N]
    halves = Backbone.of(clip.model, None, "halves", engine="bf16")
    assert embedded(halves, root)[1].done == [N]
    other = clip.copy()
    other.preprocessing = replace(clip.preprocessing, mean=clip.preprocessing.std)
    assert embedded(other, root)[1].done == [N]
    assert len(list(cache.iterdir())) == 4


def test_embed__a_image_edited_in_place_is_seen_again(clip: Backbone, root: Path) -> None:
    before, _ = embedded(clip, root)
    stat = (root / "04.png").stat()
    image(77).save(root / "04.png")
    os.utime(root / "04.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # nothing else tells
    after, log = embedded(clip, root)
    assert log.done == [1]
    torch.testing.assert_close(after, expected(clip, root, "head", all_names()), rtol=0, atol=1e-5)
    assert torch.equal(after[[0, 3, 5]], before[[0, 3, 5]])
    assert not torch.equal(after[4], before[4])


def test_embed__duplicates_are_computed_once(clip: Backbone, root: Path) -> None:
    for i in (3, 8):
        (root / f"{i:02}.png").write_bytes((root / "01.png").read_bytes())
    rows, log = embedded(clip, root)
    assert log.done == [N - 2]
    assert torch.equal(rows[3], rows[1])
    assert torch.equal(rows[8], rows[1])
    torch.testing.assert_close(rows, expected(clip, root, "head", all_names()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [0, 300])
def test_embed__a_truncated_shard_is_computed_again_and_said(
    clip: Backbone, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    sizes(monkeypatch, batch=2, shard=4)
    first, _ = embedded(clip, root)
    shards = sorted(cache.rglob("*.safetensors"))
    assert len(shards) == 3
    shards[1].write_bytes(shards[1].read_bytes()[:size])
    again, log = embedded(clip, root)
    assert log.warnings == [f"a damaged cache file was removed and is computed again: {shards[1]}"]
    assert log.done[-1] in (3, 4)
    torch.testing.assert_close(again, first, rtol=0, atol=1e-6)
    assert embedded(clip, root)[1].lines == []


def test_embed__a_foreign_file_in_the_cache_is_no_shard(
    clip: Backbone, root: Path, cache: Path
) -> None:
    from safetensors.torch import save_file

    first, _ = embedded(clip, root)
    (folder,) = cache.iterdir()
    save_file({"rows": torch.zeros(2, 1, 32)}, folder / "foreign.safetensors")
    save_file({"x": torch.zeros(2)}, folder / "other.safetensors", {"about": "[]"})
    again, log = embedded(clip, root)
    assert torch.equal(again, first)
    assert len(log.warnings) == 2


@pytest.mark.parametrize(("at", "part"), [(1, "head"), (7, "tail"), (11, "head")])
def test_embed__continues_to_the_bit(
    clip: Backbone,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    dies: Callable[..., None],
    at: int,
    part: Part,
) -> None:
    sizes(monkeypatch, batch=2, shard=4)
    (root / "02.png").write_bytes(b"no image")
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "unbroken"))
    wanted, _ = embedded(clip, root, part=part)
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "broken"))
    dies(
        lambda log: FeatureStore(clip, ImageDataset.read(root)).embed(Embedding(part), log),
        lambda line: line["done"] >= at,
    )
    rows, log = embedded(clip, root, part=part)
    assert torch.equal(rows, wanted)
    kept = {1: 0, 7: 6, 11: 10}[at]  # all but the batch under way
    assert log.done[-1] == N - kept


@pytest.mark.parametrize(("batch", "part"), [(1, "head"), (7, "tail")])
def test_embed__does_not_depend_on_the_batch(
    clip: Backbone,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    batch: int,
    part: Part,
) -> None:
    wanted, _ = embedded(clip, root, part=part)  # 64
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "other"))
    sizes(monkeypatch, batch=batch, shard=512)
    rows, log = embedded(clip, root, part=part)
    assert log.done[0] == batch
    atol = 1e-5 if part == "head" else 2e-3  # one step of half precision
    torch.testing.assert_close(rows, wanted, rtol=0, atol=atol)


SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
    Exception("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for 9 bytes"),
]


@pytest.mark.parametrize(
    ("error", "room"), [(SHORT[0], 1), (SHORT[1], 3), (SHORT[2], 3), (SHORT[3], 1)]
)
def test_embed__halves_a_batch_that_is_too_large(
    clip: Backbone, root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, room: int
) -> None:
    seen = []

    def run(pixels: Tensor) -> Tensor:
        if len(pixels) > room:
            raise error
        seen.append(len(pixels))
        return clip.trunk(clip.preprocessing.normalise(pixels), "head")

    monkeypatch.setattr(anyclass.features.store, "engine", lambda *_: Engine("torch", run))
    rows, _ = embedded(clip, root)
    torch.testing.assert_close(rows, expected(clip, root, "head", all_names()), rtol=0, atol=1e-5)
    assert seen == {1: [1] * N, 3: [2, 3, 3, 3]}[room]


@pytest.mark.parametrize("error", SHORT)
def test_stream__halves_a_batch_that_is_too_large(
    clip: Backbone, root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What `predict` computes."""
    together = torch.cat([x for _, x, _ in stream(clip, ImageDataset.read(root), "head")])
    normalise = clip.preprocessing.normalise

    def short(pixels: Tensor) -> Tensor:
        if len(pixels) > 3:
            raise error
        return normalise(pixels)

    monkeypatch.setattr(type(clip.preprocessing), "normalise", lambda _, pixels: short(pixels))
    halved = torch.cat([x for _, x, _ in stream(clip, ImageDataset.read(root), "head")])
    torch.testing.assert_close(halved, together, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("part", "row"), [("head", 4 * 32), ("tail", 2 * 10 * 32)])
def test_embed__what_does_not_fit_on_the_disk_is_refused_after_a_batch(
    clip: Backbone,
    root: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: Part,
    row: int,
) -> None:
    sizes(monkeypatch, batch=2, shard=4)
    (root / "00.png").write_bytes(b"no image")
    free = SimpleNamespace(free=N * row - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    log = Listener()
    store = FeatureStore(clip, ImageDataset.read(root))
    with pytest.raises(StorageError, match=rf"\({N * row:,} are needed, {N * row - 1:,} bytes are"):
        store.embed(Embedding(part), log)
    assert log.done == [2]
    assert not list(cache.rglob("*.safetensors"))
    free.free += 1
    assert embedded(clip, root, part=part)[1].done[-1] == N


@pytest.mark.parametrize("error", [SHORT[0], RuntimeError("shapes do not match"), ValueError()])
def test_embed__stops_where_halving_does_not_help(
    clip: Backbone, root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def run(pixels: Tensor) -> Tensor:
        raise error

    monkeypatch.setattr(anyclass.features.store, "engine", lambda *_: Engine("torch", run))
    with pytest.raises(type(error)) as caught:
        embedded(clip, root)
    assert caught.value is error


@pytest.mark.parametrize("bad", [[1], [3, 4, 5], [0, 10], list(range(1, N))])
def test_embed__bad_images_become_rejections(
    clip: Backbone, root: Path, monkeypatch: pytest.MonkeyPatch, bad: list[int]
) -> None:
    sizes(monkeypatch, batch=3, shard=4)
    for i in bad:
        path = root / f"{i:02}.png"
        path.write_bytes(path.read_bytes()[: 60 + i] if i % 2 else b"no image %d" % i)
    dataset = ImageDataset.read(root)
    for attempt in (1, 2):  # computed, and from the cache
        log = Listener()
        features = FeatureStore(clip, dataset).embed(Embedding(), log)
        good = [i for i in range(N) if i not in bad]
        assert np.flatnonzero(features.ok).tolist() == good
        rows = expected(clip, root, "head", [dataset.files[i] for i in good])
        torch.testing.assert_close(features[good], rows, rtol=0, atol=1e-5)
        assert [(r.file_name, r.reason) for r in features.rejections] == [
            (f"{i:02}.png", "truncated or damaged" if i % 2 else "not an image") for i in bad
        ]
        assert (log.done == []) == (attempt == 2)


def test_embed__of_only_bad_images(clip: Backbone, root: Path) -> None:
    for path in root.iterdir():
        path.write_bytes(b"no image")  # all alike: decided once
    log = Listener()
    features = FeatureStore(clip, ImageDataset.read(root)).embed(Embedding(), log)
    assert log.done == [1]
    assert not features.ok.any()
    assert [r.file_name for r in features.rejections] == all_names()
    assert {r.reason for r in features.rejections} == {"not an image"}


def test_embed__files_that_cannot_be_read(clip: Backbone, root: Path) -> None:
    dataset = ImageDataset.read(root)
    embedded(clip, root)
    content = (root / "03.png").read_bytes()
    (root / "03.png").unlink()
    features = FeatureStore(clip, dataset).embed(Embedding(), Listener())
    assert [(r.file_name, r.reason) for r in features.rejections] == [("03.png", "missing")]
    (root / "03.png").write_bytes(content)
    assert FeatureStore(clip, dataset).embed(Embedding(), Listener()).ok.all()


def racing(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object], index: int = 4) -> None:
    """Let a file change just after the images have been listed by content."""
    real, calls = anyclass.features.store.content_hashes, []

    def content_hashes(dataset: ImageDataset) -> list[str | None]:
        hashes: list[str | None] = real(dataset)
        if not calls:
            change()
        calls.append(index)
        return hashes

    monkeypatch.setattr(anyclass.features.store, "content_hashes", content_hashes)


@pytest.mark.parametrize("new", [b"no image", None])
def test_embed__a_file_spoilt_while_it_is_read_is_not_refused_for_ever(
    clip: Backbone, root: Path, monkeypatch: pytest.MonkeyPatch, new: bytes | None
) -> None:
    path = root / "04.png"
    content = path.read_bytes()
    with monkeypatch.context() as patch:
        racing(patch, lambda: path.write_bytes(new) if new else path.unlink())
        features = FeatureStore(clip, ImageDataset.read(root)).embed(Embedding(), Listener())
    reason = "not an image" if new else "missing"
    assert [(r.file_name, r.reason) for r in features.rejections] == [("04.png", reason)]
    path.write_bytes(content)
    rows, log = embedded(clip, root)
    assert log.done == [1]
    torch.testing.assert_close(rows, expected(clip, root, "head", all_names()), rtol=0, atol=1e-5)


def test_embed__a_file_edited_while_it_is_read(
    clip: Backbone, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        racing(patch, lambda: image(99).save(root / "04.png"))
        features = FeatureStore(clip, ImageDataset.read(root)).embed(Embedding(), Listener())
    changed = Rejection("04.png", "unreadable", "it changed while it was read")
    assert features.rejections == [changed]
    assert embedded(clip, root)[1].lines == []  # its row is there, under what it holds now


def test_embed__a_file_mended_while_it_is_read(
    clip: Backbone, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, dataset = (root / "04.png").read_bytes(), ImageDataset.read(root)
    (root / "04.png").unlink()
    with monkeypatch.context() as patch:
        racing(patch, lambda: (root / "04.png").write_bytes(content))
        features = FeatureStore(clip, dataset).embed(Embedding(), Listener())
    assert [r.detail for r in features.rejections] == ["it changed while it was read"]
    assert FeatureStore(clip, dataset).embed(Embedding(), Listener()).ok.all()


def test_embed__rows_lie_in_memory_mapped_files(clip: Backbone, root: Path, cache: Path) -> None:
    features = FeatureStore(clip, ImageDataset.read(root)).embed(Embedding("tail"), Listener())
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not say what is mapped")
    (shard,) = cache.rglob("*.safetensors")
    assert str(shard) in maps.read_text()
    assert features._shards[0].dtype == torch.float16


def test_embed__for_a_tower_without_a_projection(
    tiny_backbone: Callable[..., Backbone], cache: Path, root: Path
) -> None:
    clip = tiny_backbone("siglip")
    features = FeatureStore(clip, ImageDataset.read(root)[[2, 6]]).embed(
        Embedding("head"), Listener()
    )
    found = image_features(clip, features, "head")
    wanted = clip.tail(expected(clip, root, "head", ["02.png", "06.png"])[:, 0], "head")
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_features__of_a_rejected_image_are_refused(clip: Backbone, root: Path) -> None:
    for name in ("02.png", "07.png", "09.png"):
        (root / name).write_bytes(b"no image")
    features = FeatureStore(clip, ImageDataset.read(root)).embed(Embedding(), Listener())
    for index in ([7], [0, 7], [10, 7, 2], [-4], torch.tensor([10, 7])):
        with pytest.raises(AnyclassError, match=r"07\.png cannot be used: not an image"):
            features[index]
    with pytest.raises(AnyclassError, match=r"09\.png cannot be used"):
        features.views(torch.tensor([3, 9]), torch.tensor([0, 0]))
    with pytest.raises(AnyclassError, match=r"02\.png"):
        image_features(clip, features, "head")


@pytest.mark.parametrize("part", ["head", "tail"])
def test_image_features__are_those_of_the_model(clip: Backbone, root: Path, part: Part) -> None:
    features = FeatureStore(clip, ImageDataset.read(root)).embed(Embedding(part), Listener())
    wanted = clip.tail(expected(clip, root, part, all_names())[:, 0], part).detach()
    found = image_features(clip, features, part)
    torch.testing.assert_close(found, wanted, rtol=0, atol=5e-3 if part == "tail" else 1e-5)
    assert not found.requires_grad
    some = image_features(clip, features, part, torch.tensor([9, 0, 9]))
    torch.testing.assert_close(some, found[[9, 0, 9]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("part", ["head", "tail", "all"])
def test_current_features__follow_the_model_of_now(clip: Backbone, root: Path, part: Part) -> None:
    dataset = ImageDataset.read(root)
    shown = FeatureStore(clip, dataset).embed(
        Embedding("head" if part == "all" else part), Listener()
    )
    tuned = clip.copy()
    for parameter in tuned.parameters(part).values():
        parameter.data.mul_(1.2)
    wanted = tuned.images(
        torch.cat([expected(tuned, root, "all", [name])[0] for name in dataset.files])
    ).detach()
    atol = 5e-3 if part == "tail" else 1e-5
    found = current_features(tuned, dataset, part, shown)
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)
    some = current_features(tuned, dataset, part, shown, torch.tensor([6, 1]))
    torch.testing.assert_close(some, wanted[[6, 1]], rtol=0, atol=atol)


def test_current_features__of_a_image_that_is_gone(clip: Backbone, root: Path) -> None:
    dataset = ImageDataset.read(root)
    shown = FeatureStore(clip, dataset).embed(Embedding(), Listener())
    (root / "03.png").unlink()
    with pytest.raises(AnyclassError, match=r"03\.png changed during the training: missing"):
        current_features(clip, dataset, "all", shown)


@pytest.mark.parametrize("part", ["head", "tail"])
def test_stream__in_order_without_the_cache(
    clip: Backbone, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, part: Part
) -> None:
    sizes(monkeypatch, batch=4, shard=4)
    for i in (0, 4, 5, 6, 7):
        (root / f"{i:02}.png").write_bytes(b"no image")
    parts = list(stream(clip, ImageDataset.read(root), part))
    assert [rows for rows, _, _ in parts] == [[1, 2, 3], [], [8, 9, 10]]
    assert [[r.file_name[:2] for r in bad] for _, _, bad in parts] == [
        ["00"],
        ["04", "05", "06", "07"],
        [],
    ]
    good = [f"{i:02}.png" for i in (1, 2, 3, 8, 9, 10)]
    wanted = clip.images(torch.cat(list(expected(clip, root, "all", good)))).detach()
    found = torch.cat([features for rows, features, _ in parts if rows])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert not cache.exists()


def training(
    clip: Backbone, root: Path, cached: bool = True, seed: int = 5, size: int = 4, steps: int = 9
) -> TrainingBatches:
    """Nine steps over eleven images, four at once: two and a bit of each epoch are seen."""
    dataset, augmentation = ImageDataset.read(root), Augmentation()
    kept: Features | None = None
    if cached:
        kept = FeatureStore(clip, dataset).embed(Embedding("head", augmentation, 3), Listener())
    return TrainingBatches(dataset, clip, kept, augmentation, size, steps, seed)


def same(a: Batch, b: Batch) -> bool:
    return (
        (a.step, a.starts_epoch, a.files) == (b.step, b.starts_epoch, b.files)
        and torch.equal(a.index, b.index)
        and torch.equal(a.hidden, b.hidden)
    )


@pytest.mark.parametrize("cached", [True, False])
def test_training_views__are_a_function_of_seed_and_step(
    clip: Backbone, root: Path, cached: bool
) -> None:
    views = training(clip, root, cached)
    assert isinstance(views, Batches)
    assert len(views) == 9
    whole = list(views.start(0))
    assert [batch.step for batch in whole] == list(range(9))
    for k in (1, 4, 9):
        torch.rand(k)  # whatever else is drawn
        rest = list(training(clip, root, cached).start(k))
        assert len(rest) == 9 - k
        assert all(same(a, b) for a, b in zip(rest, whole[k:], strict=True))
    other = list(training(clip, root, cached, seed=6).start(0))
    assert not torch.equal(other[0].index, whole[0].index)


def test_training_views__shuffle_each_epoch_and_drop_the_last_part(
    clip: Backbone, root: Path
) -> None:
    batches = list(training(clip, root).start(0))
    assert [batch.starts_epoch for batch in batches] == [True, False] * 4 + [True]
    epochs = [torch.cat([b.index for b in batches[i : i + 2]]).tolist() for i in range(0, 8, 2)]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == 8
    assert len({tuple(epoch) for epoch in epochs}) == 4
    for batch in batches:
        assert batch.files == tuple(f"{i:02}.png" for i in batch.index.tolist())


@pytest.mark.parametrize(("size", "per_epoch"), [(1, 11), (11, 1), (64, 1)])
def test_training_views__see_every_image_once_per_epoch(
    clip: Backbone, root: Path, size: int, per_epoch: int
) -> None:
    batches = list(training(clip, root, size=size, steps=2 * per_epoch).start(0))
    assert {len(batch.index) for batch in batches} == {min(size, N)}
    for start in (0, per_epoch):
        epoch = torch.cat([b.index for b in batches[start : start + per_epoch]])
        assert sorted(epoch.tolist()) == list(range(N))


def test_training_views__are_cached_views_of_their_images(clip: Backbone, root: Path) -> None:
    views = training(clip, root, steps=40)
    assert views.cached is not None
    used, patterns = set(), set()
    for batch in views.start(0):
        assert batch.hidden.shape == (4, 32)
        rows = zip(views.cached[batch.index], batch.hidden, strict=True)
        which = [next(k for k in range(3) if torch.equal(row[k], hidden)) for row, hidden in rows]
        used |= set(zip(batch.index.tolist(), which, strict=True))
        patterns.add(tuple(which))
    assert len(used) == 3 * N  # in time, every view of every image
    assert len(patterns) > 20  # of 81: each batch draws anew


def test_training_views__drawn_anew_in_each_epoch(clip: Backbone, root: Path) -> None:
    seen: dict[int, list[Tensor]] = {}
    for batch in training(clip, root, cached=False).start(0):
        assert batch.hidden.shape == (4, 3, 48, 48)
        assert batch.hidden.dtype == torch.float32
        for i, hidden in zip(batch.index.tolist(), batch.hidden, strict=True):
            seen.setdefault(i, []).append(hidden)
    often = next(pixels for pixels in seen.values() if len(pixels) > 2)
    assert not torch.equal(often[0], often[1])
    assert not torch.equal(often[1], often[2])
    i, first = next((i, pixels[0]) for i, pixels in seen.items())
    content = sha256((root / f"{i:02}.png").read_bytes()).hexdigest()
    draw = AugmentedViews(clip.preprocessing, Augmentation(), 1, seeded_rng(5, 0).initial_seed())
    view = draw(open_image(root / f"{i:02}.png"), content)
    torch.testing.assert_close(first, clip.preprocessing.normalise(view)[0])


def test_training_views__without_augmentation_are_the_test_views(
    clip: Backbone, root: Path
) -> None:
    views = replace(training(clip, root, cached=False), augmentation=None)
    for batch in views.start(0):
        wanted = torch.cat(list(expected(clip, root, "all", list(batch.files))))
        torch.testing.assert_close(batch.hidden, wanted)


def test_training_views__of_a_image_that_is_gone(clip: Backbone, root: Path) -> None:
    views = training(clip, root, cached=False)
    for i in range(N):
        (root / f"{i:02}.png").unlink()
    with pytest.raises(AnyclassError, match=r"\d\d\.png changed during the training: missing"):
        next(views.start(0))


def test_views__are_single_rows_of_the_table(clip: Backbone, root: Path) -> None:
    dataset = ImageDataset.read(root)
    cached = FeatureStore(clip, dataset).embed(Embedding("tail", CropAndFlip(), 3), Listener())
    index, view = torch.tensor([4, 0, 4, 10]), torch.tensor([2, 0, 1, 2])
    assert torch.equal(cached.views(index, view), cached[index][torch.arange(4), view])


def test_map_views__applies_a_function_to_each(
    clip: Backbone, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = FeatureStore(clip, ImageDataset.read(root)).embed(
        Embedding("tail", CropAndFlip(), 3), Listener()
    )
    monkeypatch.setattr("anyclass.features.extract.BATCH", 7)  # two images at once
    made = map_views(lambda x: clip.projected(x, "tail"), clip.device, cached)
    assert len(made) == N
    for i in range(N):
        wanted = clip.projected(cached[[i]][0], "tail")
        assert torch.allclose(made[[i]][0], wanted, atol=1e-5)
    assert not made[[0]].requires_grad


def test_embed__ctrl_c_keeps_what_is_there(
    root: Path, cache: Path, tiny_backbone: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = tiny_backbone()
    expected = FeatureStore(clip, ImageDataset.read(root)).embed(Embedding(), lambda **_: None)[
        range(N)
    ]
    monkeypatch.setenv("ANYCLASS_CACHE", str(cache / "other"))
    monkeypatch.setattr("anyclass.features.extract.BATCH", 2)

    def impatient(**row: Any) -> None:
        if row.get("done") == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureStore(clip, ImageDataset.read(root)).embed(Embedding(), impatient)
    rows: list[dict[str, Any]] = []
    found = FeatureStore(clip, ImageDataset.read(root)).embed(
        Embedding(), lambda **row: rows.append(row)
    )
    assert [(row["done"], row["total"]) for row in rows] == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert torch.allclose(found[range(N)], expected, atol=1e-5)


@pytest.mark.parametrize(("at", "files"), [(0, 0), (4, 1), (8, 3), (10, 1), (11, 2)])
def test_embed__a_kill_loses_one_batch_and_leaves_few_files(
    clip: Backbone,
    root: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    dies: Callable[..., None],
    at: int,
    files: int,
) -> None:
    """Batches of two are files of their own until there are eight images."""
    sizes(monkeypatch, batch=2, shard=8)
    dies(
        lambda log: FeatureStore(clip, ImageDataset.read(root)).embed(Embedding(), log),
        lambda line: line["done"] >= at,
    )
    assert len(list(cache.rglob("[!.]*.safetensors"))) == files
    rows, log = embedded(clip, root)
    assert log.lines[0]["total"] == N - max(0, at - at % 2 - 2 * (at % 2 == 0))
    torch.testing.assert_close(rows, expected(clip, root, "head", all_names()), rtol=0, atol=1e-5)


def test_embed__reads_no_shard_that_it_does_not_need(
    clip: Backbone, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes(monkeypatch, batch=2, shard=4)
    first, _ = embedded(clip, root)
    read = []

    def spy(path: Path) -> Any:
        read.append(path.name)
        return real(path)

    real = anyclass.features.cache._read_shard
    monkeypatch.setattr(anyclass.features.cache, "_read_shard", spy)
    some = FeatureStore(clip, ImageDataset.read(root)[[9, 10]]).embed(Embedding(), Listener())
    assert torch.equal(some[[0, 1]], first[[9, 10]])
    assert len(read) == 1


HALF = "DROP TABLE images"
NO_TEXT = "UPDATE images SET reason = CAST(x'ff' AS TEXT)"


@pytest.mark.parametrize("damage", ["gone", "no database", HALF, NO_TEXT, "another order"])
def test_embed__the_index_of_the_cache_is_made_again(
    clip: Backbone, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    sizes(monkeypatch, batch=2, shard=4)
    (root / "02.png").write_bytes(b"no image")
    first, _ = embedded(clip, root)
    (index,) = cache.rglob("index.sqlite")
    if damage == "gone":  # as in a cache of version 0.1
        index.unlink()
    elif damage == "no database":
        index.write_bytes(b"x" * 5000)
    else:
        other = "UPDATE images SET row = 1 - row WHERE row IN (0, 1)"
        with closing(sqlite3.connect(index)) as database, database:
            database.execute(other if damage == "another order" else damage)
    again, log = embedded(clip, root)
    torch.testing.assert_close(again, first, rtol=0, atol=1e-6)
    if damage == "another order":  # rows are never taken for those of other images
        assert log.done[-1] == 5
    else:
        assert log.lines == [{"stage": "index", "done": 3, "total": 3}]
    assert embedded(clip, root)[1].lines == []


def test_embed__small_shards_are_joined_while_another_process_reads(
    clip: Backbone,
    root: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    dies: Callable[..., None],
) -> None:
    sizes(monkeypatch, batch=2, shard=8)
    dies(
        lambda log: FeatureStore(clip, ImageDataset.read(root)).embed(Embedding(), log),
        lambda line: line["done"] == 8,
    )
    (folder,) = cache.iterdir()
    hashes = [sha256((root / name).read_bytes()).hexdigest() for name in all_names()[:6]]
    writer, reader = (anyclass.features.cache.FeatureCache(folder, Listener()) for _ in range(2))
    assert writer.missing(hashes) == []
    writer._small = sorted(writer._opened)
    find = reader._index.find

    def find_and_lose(keys: Any) -> Any:
        found = find(keys)
        writer.join()
        return found

    monkeypatch.setattr(reader._index, "find", find_and_lose)
    assert reader.missing(hashes) == []
    assert len(list(folder.glob("[!.]*.safetensors"))) == 1
    wanted = writer.features(hashes, [])[range(6)]
    assert torch.equal(reader.features(hashes, [])[range(6)], wanted)
