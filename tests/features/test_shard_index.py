"""The index of a feature cache: with any bytes, no row is taken for that of another image."""

import json
import random
import sqlite3
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from anyclass.errors import StorageError
from anyclass.features.cache import FeatureCache
from anyclass.features.shard_index import INDEX
from tests.small_disk import fill, on_small_disk

IMAGES = 120
PER_SHARD = 30
TRIES = 60


def hashes() -> list[str]:
    return [sha256(str(i).encode()).hexdigest() for i in range(IMAGES)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards of a cache with an index; row i has the one number i."""
    for start in range(0, IMAGES, PER_SHARD):
        keys = hashes()[start : start + PER_SHARD]
        bad = sha256(f"bad {start}".encode()).hexdigest()
        about = json.dumps({"keys": keys, "refused": {bad: ["x.png", "not an image", ""]}})
        rows = np.arange(start, start + PER_SHARD, dtype=np.float32)[:, None, None]
        name = sha256(about.encode()).hexdigest()[:32]
        save_file({"rows": rows}, tmp_path / f"{name}.safetensors", {"about": about})
    assert FeatureCache(tmp_path, silent).missing(hashes()) == []
    return tmp_path


def silent(**_: Any) -> None:
    """Say nothing."""


def tables(index: Path) -> int:
    """Number of tables of an index; 0 without a file."""
    if not index.exists():
        return 0
    with closing(sqlite3.connect(index)) as database:
        (count,) = database.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'")
    return int(count[0])


def test_index__on_a_full_disk_has_both_tables_or_none(tmp_path: Path) -> None:
    def opened() -> dict[int, int]:
        found = {}
        for room in range(0, 44, 4):
            fill(tmp_path, room)
            with suppress(StorageError):
                FeatureCache(tmp_path, silent)
            found[room] = tables(tmp_path / INDEX)
            (tmp_path / INDEX).unlink(missing_ok=True)
        return found

    found = on_small_disk(tmp_path, 1000, opened)
    assert set(found.values()) == {0, 2}, found


def test_index__with_bytes_flipped_gives_right_rows_or_none(folder: Path) -> None:
    index = folder / INDEX
    whole = index.read_bytes()
    draw = random.Random(3)
    lost = 0
    for _ in range(TRIES):
        content = bytearray(whole)
        for _ in range(draw.choice([1, 3, 20, 200])):
            content[draw.randrange(len(content))] = draw.randrange(256)
        index.write_bytes(content)
        cache = FeatureCache(folder, silent)
        missing = set(cache.missing(hashes()))
        lost += len(missing)
        assert not cache.refused
        found = [i for i in range(IMAGES) if i not in missing]
        rows = cache.features(hashes(), [])[torch.tensor(found, dtype=torch.long)]
        assert rows.flatten().tolist() == found
    assert lost < TRIES * IMAGES / 10, "most is found, or read again from the shards"
