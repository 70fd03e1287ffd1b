"""`--on ray`: predict, embed and describe on Ray Data, into a folder of Parquet files."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import anyclass
from anyclass.bulk import Bulk, cluster, results, storage
from anyclass.bulk.results import Tally
from anyclass.bulk.sources import Source, read_source
from anyclass.bulk.worker import Job, Task
from anyclass.commands.bulk_jobs import PredictJob
from anyclass.errors import AnyclassError, RequestError
from anyclass.files import MANIFEST, lock, sha256
from anyclass.run.folder import check_finished
from anyclass.run.progress import Callback, Progress

Json = dict[str, Any]


class Place(NamedTuple):
    """Where images come from and rows go to; as in the commands."""

    images: Any
    out: Path | str
    overwrite: bool
    bulk: Bulk
    device: str
    max_rejected: float
    callback: Callback | None


def predict_in_bulk(job: PredictJob, place: Place) -> Json:
    """Label images on Ray; returns what `predict` returns.

    Raises:
        RequestError: there is no fitted run, no image, no Ray, or the folder holds something else.
        AnyclassError: a part cannot be computed, or too many images are unreadable.
    """
    check_finished(job.run)
    about = {"run": sha256(job.run / MANIFEST), "min_score": job.min_score, "engine": job.engine}
    tally = _compute("predict", job, about, place)
    counts = {name: tally.counts[name] for name in ("rejected", "unsure")}
    return {"n": tally.rows, **counts, "out": str(place.out), "classes": dict(tally.labels)}


def _compute(command: str, job: Job, about: Json, place: Place) -> Tally:
    """Compute the parts that are missing.

    Args:
        command: name of the command.
        job: what workers compute.
        about: what the rows depend on besides the images.
        place: where images come from and rows go to.
    """
    out = _folder(place.out)
    bulk = place.bulk
    source = _source(place)
    request = {"command": command, "version": anyclass.__version__, **about}
    request |= {"images": source.place, "part_size": bulk.part_size}
    request |= {"image_column": bulk.image_column, "images_checksum": source.checksum}
    with _locked(out), Progress(callback=place.callback) as log:
        for sentence in source.messages:
            log.say(sentence)
        results.begin(out, request, place.overwrite)
        known = results.known(out, request, len(source.parts))
        missing = [part for part in source.parts if part.number not in known]
        key = results.checksum(request)
        task = Task(
            job, source._replace(parts=()), out, key, bulk.cpus, bulk.image_column, str(Path.cwd())
        )
        log(stage="bulk", done=len(known), total=len(source.parts))
        if missing:
            for number, tally in cluster.compute(task, missing, bulk, place.device, log):
                known[number] = tally
                log(stage="bulk", done=len(known), total=len(source.parts))
        total = sum(known.values(), Tally())
        _check_whole(source, known, total)
        results.finish(out, request, {"rows": total.rows, **total.counts})
    rejected = total.counts["rejected"]
    if rejected > place.max_rejected * total.rows:
        raise AnyclassError(
            f"{rejected} of {total.rows} images could not be read; the reasons are in {out}. "
            f"--max-rejected allows {place.max_rejected:.0%}"
        )
    return total


def _folder(out: Path | str) -> str:
    """The folder of the result, absolute; or its address."""
    if storage.is_address(out):
        return str(out)
    if Path(out).suffix in (".csv", ".parquet", ".jsonl", ".npz", ".npy", ".safetensors"):
        raise RequestError(
            f"--out {out}: with --on ray the result is a folder of Parquet files; give a folder, "
            "or an address such as s3://bucket/labels"
        )
    if Path(out).is_file():
        raise RequestError(f"--out {out} is a file; with --on ray give a folder")
    return str(Path(out).absolute())


def _source(place: Place) -> Source:
    """The images, in parts."""
    images = place.images
    if not isinstance(images, Path | str):
        raise RequestError("--on ray reads images from a folder or an address (--images PLACE)")
    return read_source(images, place.bulk.part_size, place.bulk.image_column)


def _locked(out: str) -> AbstractContextManager[None]:
    """A lock on a folder of this machine; object storage has none."""
    folder = storage.local(out)
    return nullcontext() if folder is None else lock(folder)


def _check_whole(source: Source, known: dict[int, Tally], total: Tally) -> None:
    """Make sure that no part and no image is missing.

    Raises:
        AnyclassError: one is.
    """
    lost = [part for part in source.parts if part.number not in known]
    if lost:
        raise AnyclassError(
            f"{len(lost)} of {len(source.parts)} parts are missing, the first of {lost[0].images}: "
            "run the same command again"
        )
    if source.total is not None and total.rows != source.total:
        raise AnyclassError(
            f"there are {total.rows} rows for {source.total} images: files have changed meanwhile; "
            "add --overwrite to begin anew"
        )
