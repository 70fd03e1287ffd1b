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
from anyclass.errors import AnyclassError, RequestError
from anyclass.files import MANIFEST, check_manifest, lock, read_json, sweep, write_json

SCRATCH = "unfinished"
"""Folder inside a run for what a continued run needs; gone when it is finished."""

FILES = (
    "manifest.json",
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
    "model/classifier.safetensors",
    "model/classifier.json",
    "model/README.md",
    "classes.csv",
    "naming.json",
    "model/generator.safetensors",
)
"""Everything that a run writes under a name of its own; the last ones only by some methods."""

CONTROLS = "controls"
"""Folder inside a run for the classifiers that the result has to beat, a folder each."""

_MARKS = {"asked", "fields", "images", "method", "version"}
"""Keys by which the `config.json` of a run is told from one of something else."""

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
    """Hold the run folder `out` for this request; yields it checked, and not changed so far.

    Raises:
        RequestError: it is finished, was made by another request, is not a run, or is in use.
    """
    _refuse_foreign(out)
    with lock(out):
        sweep(out)
        if _listing(out):
            if overwrite:
                _refuse_changed(out)
            elif _holds_work(out):
                _refuse_other(out, config)
        yield out


def begin(out: Path, config: Mapping[str, Any], overwrite: bool) -> None:
    """Make an opened folder ready to be written, or to be continued where a run was stopped."""
    if overwrite or not _holds_work(out):
        _clear(out)
    write_json(out / "config.json", dict(config))
    (out / "model").mkdir(exist_ok=True)
    (out / SCRATCH).mkdir(exist_ok=True)


def _listing(out: Path) -> list[str]:
    """What lies in a folder, hidden files apart."""
    return sorted(path.name for path in out.iterdir() if not path.name.startswith("."))


def _holds_work(out: Path) -> bool:
    """Whether anything would be lost: a request that failed at once may be corrected."""
    made = (out / name for name in FILES if name not in ("config.json", "log.jsonl"))
    return any(path.exists() for path in (*made, *(out / SCRATCH).glob("*/*")))


def _refuse_foreign(out: Path) -> None:
    """Before anything is written, not even a lock."""
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not there.is_dir():
        raise RequestError(f"{there} is a file; give a folder for the run (--out)")
    names = _listing(out) if there == out else []
    if names and not is_run(out):
        raise RequestError(f"{out} holds other files ({names[0]} ...); choose another --out")


def is_run(out: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    try:
        config = read_json(out / "config.json")
    except AnyclassError:
        return False
    return isinstance(config, dict) and _MARKS <= set(config)


def check_finished(out: Path) -> None:
    """Refuse a folder that holds no finished run."""
    if (out / MANIFEST).is_file() and is_run(out):
        return
    state = "a run that is not finished" if is_run(out) else "no run"
    raise RequestError(f"{out} holds {state}: `anyclass fit auto --images DIR ... --out {out}`")


def _refuse_other(out: Path, config: Mapping[str, Any]) -> None:
    """A run of another request, and one that is finished."""
    before = read_json(out / "config.json")
    keys = {*before, *config} - {"why"}
    if differing := sorted(key for key in keys if before.get(key) != config.get(key)):
        raise RequestError(
            f"{out} belongs to another request: {_differences(before, config, differing)}. "
            "Choose another --out, or --overwrite it"
        )
    if (out / MANIFEST).is_file():
        raise RequestError(
            f"{out} is finished: look at {out / 'report.html'}, or say --overwrite or another --out"
        )


def _refuse_changed(out: Path) -> None:
    """Labels that somebody corrected by hand are not overwritten."""
    changed = [problem for problem in check_manifest(out) if problem.endswith("has changed")]
    if (out / MANIFEST).is_file() and changed:
        raise RequestError(f"{out / changed[0]} since the run; move it away before --overwrite")


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
    """Remove what a run wrote and nothing else; `config.json` stays until it is replaced."""
    for name in FILES:
        if name != "config.json":
            (out / name).unlink(missing_ok=True)
    for path in out.glob(f"{CONTROLS}/*/classifier.*"):
        path.unlink()
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
