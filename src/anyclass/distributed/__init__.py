"""Training by several processes, which torchrun starts."""

import os


def launched() -> int:
    """Number of processes that torchrun has started; 1 without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 1
    return int(os.environ.get("WORLD_SIZE", "1"))
