"""`environment.json`: what a run was computed with."""

import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from anyclass.distributed import launched

_PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "timm",
    "transformers",
    "onnxruntime",
    "numpy",
    "pillow",
)


def environment(
    model: Mapping[str, Any], device: str, started: str, seconds: float
) -> dict[str, Any]:
    """Versions, device, threads, processes, model and command line."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in ("anyclass", *_PACKAGES) if (found := _version(name))},
        "device": device,
        "threads": torch.get_num_threads(),
        "processes": launched(),
        "model": dict(model),
        "command": sys.argv,
        "started": started,
        "seconds": seconds,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
