"""The index of a feature cache: with any bytes, no row is taken for that of another image."""

import json
import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from anyclass.features.cache import FeatureCache
from anyclass.features.shard_index import INDEX

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
