"""Open a feature cache of many rows, and look images up in it.

    python benchmarks/cache_index.py --rows 10000000

The shards are real files with the keys of their rows. A row has one number, not 1280: opening
does not depend on it. Prints seconds and memory of: making the index of a cache that has none,
opening the cache in a new process, and finding 1,000 images with their rows.
"""

import argparse
import json
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import save_file

SHARD = 512

OPEN = """
import random, resource, sys, time
from pathlib import Path
from hashlib import sha256
import torch
from anyclass.features.cache import FeatureCache

folder, rows = Path(sys.argv[1]), int(sys.argv[2])
start = time.perf_counter()
cache = FeatureCache(folder, lambda **_: None)
opened = time.perf_counter()
some = random.Random(0).sample(range(rows), 1000)
hashes = [sha256(str(i).encode()).hexdigest() for i in some]
assert cache.missing(hashes) == []
found = cache.features(hashes, [])[range(1000)]
assert found.flatten().tolist() == [i % 512 for i in some]
looked_up = time.perf_counter()
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"opened in {opened - start:.2f} s, 1,000 lookups with rows in {looked_up - opened:.2f} s, "
      f"{memory:.0f} MB at most")
"""
"""What a new process does."""


def write_shards(folder: Path, rows: int) -> None:
    """Shards of a cache without an index, as version 0.1 left them."""
    for start in range(0, rows, SHARD):
        index = range(start, min(rows, start + SHARD))
        keys = [sha256(str(i).encode()).hexdigest() for i in index]
        numbers = np.array([i % SHARD for i in index], np.float32)[:, None, None]
        about = json.dumps({"keys": keys, "refused": {}})
        name = sha256(about.encode()).hexdigest()[:32]
        save_file({"rows": numbers}, folder / f"{name}.safetensors", {"about": about})


def main() -> None:
    """Make a cache in a temporary folder and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to put the temporary folder")
    flags = parser.parse_args()
    with TemporaryDirectory(dir=flags.folder) as name:
        start = time.perf_counter()
        write_shards(Path(name), flags.rows)
        print(f"{flags.rows:,} rows written in {time.perf_counter() - start:.0f} s", flush=True)
        for what in ("without an index", "with it", "with it, again"):
            print(f"{what}: ", end="", flush=True)
            command = [sys.executable, "-c", OPEN, name, str(flags.rows)]
            subprocess.run(command, check=True)
        size = (Path(name) / "index.sqlite").stat().st_size
        print(f"index: {size / 2**20:.0f} MB")


if __name__ == "__main__":
    main()
