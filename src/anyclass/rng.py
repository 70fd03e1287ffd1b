"""Random generators seeded by a key of integers."""

from hashlib import sha256

import torch


def seeded_rng(*key: int) -> torch.Generator:
    """New random generator that depends on `key` only, not on the global random state."""
    digest = sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
