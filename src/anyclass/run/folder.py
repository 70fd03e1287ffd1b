"""The run folder: create, lock, continue or overwrite it, and protect other folders."""

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anyclass.distributed.processes import rank, wait
from anyclass.errors import AnyclassError, RequestError
from anyclass.files import LOCKS, MANIFEST, check_manifest, lock, read_json, sweep, write_json
from anyclass.run.content import check_content

SCRATCH = "unfinished"
"""Folder inside a run with the data for continuing it; removed at the end."""

PROBABILITIES = "probabilities.safetensors"
"""File with the probabilities of the training images, see `probabilities.py`."""

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
    "suspicious.csv",
    PROBABILITIES,
    "class_history.json",
    "images.parquet",
    "map.parquet",
)
"""All files of a run; the last ones are written by some methods only."""

BASELINES = "controls"
"""Folder inside a run for the baseline classifiers, one folder each."""

REVIEW = "review"
"""Folder inside a run with the corrections of its review page."""

_FOLDERS = ("model", SCRATCH, BASELINES, REVIEW)
"""All folders of a run."""

_MARKS = {"asked", "fields", "images", "method", "version"}
"""Keys that identify the `config.json` of a run."""


@contextmanager
def locked_run(out: Path, config: Mapping[str, Any], overwrite: bool) -> Iterator[Path]:
    """Lock and check the run folder `out` for this request; nothing in it is changed yet.

    Of several processes that train together, the first does so for all.

    Raises:
        RequestError: it is finished, belongs to another request, is not a run, or is in use.
    """
    if rank():
        yield out
        return
    _check_is_run(out)
    check_no_links(out)
    with lock(out):
        sweep(out)
        if _listing(out):
            if overwrite:
                _check_unchanged(out)
            elif _has_results(out):
                _check_same_request(out, config)
        yield out


def begin(out: Path, config: Mapping[str, Any], overwrite: bool) -> None:
    """Prepare an opened folder for a new run, or for continuing a stopped one."""
    if not rank():
        if overwrite or not _has_results(out):
            _clear(out)
        write_json(out / "config.json", dict(config))
        (out / "model").mkdir(exist_ok=True)
        (out / SCRATCH).mkdir(exist_ok=True)
    wait()


def _listing(out: Path) -> list[str]:
    """Sorted names in a folder, without hidden files."""
    return sorted(path.name for path in out.iterdir() if not path.name.startswith("."))


def _has_results(out: Path) -> bool:
    """Whether the folder has results to keep; a request that failed at once has none."""
    results = (out / name for name in FILES if name not in ("config.json", "log.jsonl"))
    return any(path.exists() for path in (*results, *(out / SCRATCH).glob("*/*")))


def _check_is_run(out: Path) -> None:
    """Reject files and folders of something else before anything is written, even a lock.

    Raises:
        RequestError: `out` is not a run, an empty folder or a new path.
    """
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise RequestError(f"{existing} is a file; give a folder for the run (--out)")
    names = _listing(out) if existing == out else []
    if names and not is_run(out):
        raise RequestError(f"{out} contains other files ({names[0]} ...); choose another --out")


def is_run(out: Path) -> bool:
    """Whether a folder is a run, finished or not."""
    try:
        config = read_json(out / "config.json")
    except AnyclassError:
        return False
    return isinstance(config, dict) and _MARKS <= set(config)


def check_finished(out: Path) -> None:
    """Require the folder of a finished run, with files that can be read.

    Raises:
        RequestError: it is not a run, or not finished.
        AnyclassError: a file in it is damaged.
    """
    check_marks(out)
    check_regular(out)
    check_content(out)


def check_marks(out: Path) -> None:
    """Require the folder of a finished run, whatever its files hold.

    Raises:
        RequestError: it is not a run, or not finished.
    """
    if (out / MANIFEST).is_file() and is_run(out):
        return
    if not is_run(out):
        new = shlex.join(["--out", str(out)])
        raise RequestError(f"{out} contains no run: `anyclass fit auto --images DIR ... {new}`")
    raise RequestError(f"{out} contains an unfinished run: {_how_it_goes_on(out)}")


def _how_it_goes_on(out: Path) -> str:
    """How an unfinished run is continued: by its own command, where that can be said."""
    again = read_json(out / "config.json").get("again")
    parts: list[Any] = list(again.values()) if isinstance(again, dict) else []
    if len(parts) != 2 or not all(isinstance(part, list) for part in parts):
        return "the command that began it goes on with it"
    words = [str(word) for part in parts for word in part]
    command = shlex.join(["anyclass", "fit", *words, "--out", str(out)])
    return f"`{command}` goes on with it"


def check_regular(out: Path) -> None:
    """Refuse a run with a pipe or a device in the place of one of its files or folders.

    Reading a pipe would wait for ever.

    Raises:
        RequestError: there is such a thing.
    """
    for path in _belonging(out):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise RequestError(f"{path} is not a regular file: remove it")


def check_no_links(out: Path) -> None:
    """Refuse a run with a link, a pipe or a device in the place of one of its files or folders.

    Writing through a link would change something outside of the run.

    Raises:
        RequestError: there is such a thing.
    """
    check_regular(out)
    for path in _belonging(out):
        if path.is_symlink():
            raise RequestError(
                f"{path} is a link, and a run is never written through a link: copy what it "
                "points to into the run folder"
            )


def _belonging(out: Path) -> Iterator[Path]:
    """Files and folders of a run, and all that its folders hold; links are not followed."""
    yield from (out / name for name in (*FILES, *LOCKS, *_FOLDERS))
    for folder in _FOLDERS:
        if not (out / folder).is_symlink():
            yield from (out / folder).rglob("*")


def _check_same_request(out: Path, config: Mapping[str, Any]) -> None:
    """Require an unfinished run of the same request.

    Raises:
        RequestError: the run belongs to another request, or is finished.
    """
    before = read_json(out / "config.json")
    keys = {*before, *config} - {"why", "again", "captioned_by"}
    differing = sorted(key for key in keys if before.get(key) != config.get(key))
    if differing:
        raise RequestError(
            f"{out} belongs to another request: {_differences(before, config, differing)}. "
            "Choose another --out, or --overwrite it"
        )
    if (out / MANIFEST).is_file():
        raise RequestError(
            f"{out} is finished: see {out / 'report.html'}, or use --overwrite or another --out"
        )


def _check_unchanged(out: Path) -> None:
    """Protect results that were corrected by hand from being overwritten.

    Raises:
        RequestError: a file has changed since the run.
    """
    changed = [problem for problem in check_manifest(out) if problem.endswith("has changed")]
    if (out / MANIFEST).is_file() and changed:
        raise RequestError(f"{out / changed[0]} since the run; move it away before --overwrite")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Describe changed values, as in "seed (was 0, now 1), fields: alpha (was 0.99, now 0.9)"."""
    changes = []
    for key in keys[:4]:
        old = before.get(key)
        new = now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
            changes.append(f"{key}: {_differences(old, new, inner)}")
        else:
            changes.append(f"{key} (was {_said(old)}, now {_said(new)})")
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    return ", ".join(changes) + more


def _said(value: Any) -> str:
    """A value of an option for people."""
    return "not given" if value is None else str(value)


def _clear(out: Path) -> None:
    """Remove only the files of a run; `config.json` stays until it is replaced."""
    for name in FILES:
        if name != "config.json":
            (out / name).unlink(missing_ok=True)
    for path in out.glob(f"{BASELINES}/*/classifier.*"):
        path.unlink()
    shutil.rmtree(out / SCRATCH, ignore_errors=True)
