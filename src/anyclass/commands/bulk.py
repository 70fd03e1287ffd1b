"""`--on ray`: predict, embed and describe on Ray Data, into a folder of Parquet files."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc

import anyclass
from anyclass.backbone.loading import located
from anyclass.bulk import Bulk, cluster, results, storage
from anyclass.bulk.results import Tally
from anyclass.bulk.sources import Source, checksum, read_source
from anyclass.bulk.worker import Job, Task
from anyclass.commands.bulk_jobs import DescribeJob, EmbedJob, PredictJob
from anyclass.commands.request import check_rejected
from anyclass.errors import AnyclassError, RequestError
from anyclass.files import MANIFEST, Json, lock, sha256
from anyclass.run.folder import check_finished
from anyclass.run.progress import Callback, Progress


class BulkOptions(NamedTuple):
    """Where images come from and rows go to; as in the commands."""

    images: Any
    out: Path | str
    overwrite: bool
    bulk: Bulk
    device: str
    max_rejected: float
    callback: Callback | None


def predict_in_bulk(job: PredictJob, options: BulkOptions) -> Json:
    """Label images on Ray; returns what `predict` returns.

    Raises:
        RequestError: there is no fitted run, no image, no Ray, or the folder holds something else.
        AnyclassError: a part cannot be computed, or too many images are unreadable.
    """
    check_finished(job.run)
    about = {"run": sha256(job.run / MANIFEST), "min_score": job.min_score, "engine": job.engine}
    tally = _compute("predict", job, about, options)
    counts = {name: tally.counts[name] for name in ("rejected", "unsure")}
    return {"n": tally.rows, **counts, "out": str(options.out), "classes": dict(tally.labels)}


def embed_in_bulk(job: EmbedJob, options: BulkOptions) -> Json:
    """Embed images on Ray; returns what `embed` returns.

    Raises:
        RequestError: there is no image, no Ray, or the folder holds something else.
        AnyclassError: a part cannot be computed, or too many images are unreadable.
    """
    about = _model(job) | {"extra": job.extra, "half": job.half, "decoding": job.decoding}
    tally = _compute("embed", job, about, options)
    first = results.read_part(_folder(options.out), 0).schema
    return {
        "n": tally.rows,
        "rejected": tally.counts["rejected"],
        "width": first.field("features").type.list_size,
        "extra_width": first.field("extra").type.list_size if job.extra else 0,
        "labelled": 0,
        "classes": 0,
        "files": [str(options.out)],
    }


CONNECTION = (
    "url",
    "allow_remote",
    "concurrency",
    "timeout",
    "retries",
    "max_failures",
    "price_in",
    "price_out",
    "device",
)
"""Fields of a captioner that its answers do not depend on."""


def describe_in_bulk(job: DescribeJob, options: BulkOptions) -> Json:
    """Caption images on Ray; returns what `describe` returns.

    Raises:
        RequestError: the captioner needs all images at once; there is no image, no Ray, or the
            folder holds something else.
        AnyclassError: a part cannot be computed, or too many images are unreadable.
    """
    captioner = job.captioner
    if captioner.kind not in ("endpoint", "transformers"):
        raise RequestError(
            f"the captioner {captioner.kind} needs all images of the folder at once, and a worker "
            "has a part of them: with --on ray use --captioner endpoint or transformers"
        )
    settings = {k: v for k, v in asdict(captioner).items() if k not in CONNECTION}
    about = {"captioner": settings, "domain": job.domain, "plural": job.plural}
    tally = _compute("describe", job, about | _model(job), options)
    head = results.read_part(_folder(options.out), 0).filter(pc.field("status") == "ok").slice(0, 3)
    names = ("file_name", "text", "captioner", "model", "question")
    return {
        "n": tally.rows,
        "rejected": tally.counts["rejected"],
        "groups": 0,
        "without_text": tally.counts["without_text"],
        "out": str(options.out),
        "first": head.select(names).to_pylist(),
    }


def _compute(command: str, job: Job, about: Json, options: BulkOptions) -> Tally:
    """Compute the parts that are missing.

    Args:
        command: name of the command.
        job: what workers compute.
        about: what the rows depend on besides the images.
        options: where images come from and rows go to.
    """
    out = _folder(options.out)
    bulk = options.bulk
    source = _source(options)
    request = {"command": command, "version": anyclass.__version__, **about}
    request |= {"images": source.place, "part_size": bulk.part_size}
    request |= {"image_column": bulk.image_column, "images_checksum": source.checksum}
    with _locked(out), Progress(callback=options.callback) as log:
        for sentence in source.messages:
            log.say(sentence)
        results.begin(out, request, options.overwrite)
        known = results.known(out, request, len(source.parts))
        missing = [part for part in source.parts if part.number not in known]
        key = results.checksum(request)
        task = Task(
            job, source._replace(parts=()), out, key, bulk.cpus, bulk.image_column, str(Path.cwd())
        )
        if missing and isinstance(job, DescribeJob):
            for sentence in leaving(job, source):
                log.say(sentence)
        log(stage="bulk", done=len(known), total=len(source.parts))
        if missing:
            for number, tally in cluster.compute(task, missing, bulk, options.device, log):
                known[number] = tally
                log(stage="bulk", done=len(known), total=len(source.parts))
        total = sum(known.values(), Tally())
        _check_whole(source, known, total)
        results.finish(out, request, {"rows": total.rows, **total.counts})
    check_rejected(total.counts["rejected"], total.rows, out, options.max_rejected)
    return total


def _model(job: EmbedJob | DescribeJob) -> Json:
    """What rows depend on of the model; `model_checksum` changes when a file of its folder does."""
    place = located(job.model)
    folder = Path(place.removeprefix("local-dir:"))
    files = []
    if place.startswith("local-dir:") and folder.is_dir():
        files = [file for file in storage.listing(str(folder)) if "/" not in file.name]
    known = checksum(files) if files else None
    return {"model": job.model, "engine": job.engine, "model_checksum": known}


def leaving(job: DescribeJob, source: Source) -> list[str]:
    """What to say of images that will leave the cluster, before one does."""
    cost = job.captioner.estimate(source.total or 0)
    if not cost.sent_to:
        return []
    images = "the images of all archives" if source.total is None else f"up to {cost.calls} images"
    price = "at an unknown price" if cost.dollars is None else f"for up to ${cost.dollars:.2f}"
    size = f", of about {cost.megabytes_sent:.0f} MB" if source.total else ""
    return [f"sending {images} to {cost.sent_to}{size}, {price}; known answers are not asked for"]


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


def _source(options: BulkOptions) -> Source:
    """The images, in parts."""
    images = options.images
    if not isinstance(images, Path | str):
        raise RequestError("--on ray reads images from a folder or an address (--images PLACE)")
    return read_source(images, options.bulk.part_size, options.bulk.image_column)


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
