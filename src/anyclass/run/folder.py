"""The run folder: new, to be continued, finished or somebody else's."""

import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from anyclass.backbone import Backbone
from anyclass.errors import RequestError
from anyclass.files import lock, read_json, sweep, write_json

SCRATCH = "unfinished"
"""Folder inside a run for what a continued run needs; gone when it is finished."""

FILES = (
    "config.json",
    "environment.json",
    "classes.json",
    "metrics.json",
    "log.jsonl",
    "predictions.parquet",
    "predictions.csv",
    "rejected.csv",
    "descriptions.jsonl",
    "report.html",
    "manifest.json",
    "model/classifier.safetensors",
    "model/classifier.json",
    "model/README.md",
)
"""Everything a finished run holds."""

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


@contextmanager
def opened(out: Path, config: Mapping[str, Any], overwrite: bool) -> Iterator[Path]:
    """Hold the run folder `out` for this configuration; yields it ready to be written or continued.

    Raises:
        RequestError: it is finished, was made by another request, is not a run, or is in use.
    """
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out} is a file; give a folder for the run (--out)")
    with lock(out):
        sweep(out)
        _check(out, config, overwrite)
        write_json(out / "config.json", dict(config))
        (out / "model").mkdir(exist_ok=True)
        (out / SCRATCH).mkdir(exist_ok=True)
        yield out


def _check(out: Path, config: Mapping[str, Any], overwrite: bool) -> None:
    present = [path.name for path in out.iterdir() if not path.name.startswith(".anyclass")]
    if present and not (out / "config.json").is_file():
        raise RequestError(
            f"{out} holds other files ({present[0]} ...); choose an empty folder (--out)"
        )
    if not present:
        return
    if overwrite:
        _clear(out)
        return
    before = read_json(out / "config.json")
    differing = sorted(key for key in {*before, *config} if before.get(key) != config.get(key))
    if differing:
        raise RequestError(
            f"{out} belongs to another request: {_differences(before, config, differing)}. "
            "Choose another --out, or --overwrite it"
        )
    if (out / "manifest.json").is_file():
        raise RequestError(
            f"{out} is finished: look at {out / 'report.html'}, or say --overwrite or another --out"
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str]) -> str:
    """As in "seed (0, now 1), fields: alpha (0.99, now 0.9)"."""
    said = []
    for key in keys[:4]:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
            said.append(f"{key}: {_differences(old, new, inner)}")
        else:
            said.append(f"{key} ({old}, now {new})")
    return ", ".join(said)


def _clear(out: Path) -> None:
    """Remove what a run wrote, and nothing else."""
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / SCRATCH, ignore_errors=True)


def environment(clip: Backbone, started: str, seconds: float) -> dict[str, Any]:
    """Versions, device, threads, model and command line."""
    model = {"id": clip.model_id, "weights_sha256": clip.weights_sha256}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in ("anyclass", *_PACKAGES) if (found := _version(name))},
        "device": str(clip.device),
        "threads": torch.get_num_threads(),
        "model": model | {"preprocessing": clip.preprocessing.to_json()},
        "command": sys.argv,
        "started": started,
        "seconds": seconds,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
