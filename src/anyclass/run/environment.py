"""`environment.json`: what a run was computed with."""

import platform
import sys
from collections.abc import Mapping
from typing import Any

from anyclass.backbone.model_metadata import installed_version
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

    versions = {name: installed_version(name) for name in ("anyclass", *_PACKAGES)}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name, found in versions.items() if found},
        "device": device,
        "threads": torch.get_num_threads(),
        "processes": launched(),
        "model": dict(model),
        "command": sys.argv,
        "started": started,
        "seconds": seconds,
    }
