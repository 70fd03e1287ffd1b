"""`describe`: caption the images of a folder, without a fit."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone, EngineName
from anyclass.backbone.device import torch_device
from anyclass.backbone.loading import absolute_id
from anyclass.bulk import Bulk
from anyclass.captioning import AnyCaptioner, CaptionContext, CaptionRequest, Vocabulary
from anyclass.captioning.captions import CaptionRequests
from anyclass.commands.predict import check_out
from anyclass.commands.request import PLACE, check_share, split_names
from anyclass.commands.train import embed_readable
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.features.precomputed import AnyFeatures
from anyclass.features.store import FeatureStore
from anyclass.files import Json, write_text
from anyclass.methods import METHODS
from anyclass.run.progress import Callback, Progress


def describe(
    images: Annotated[Path | str, PLACE],
    captioner: AnyCaptioner = Vocabulary(),  # noqa: B008 (frozen)
    domain: str = "object",
    plural: str = "",
    classes: Annotated[
        Path | str | tuple[str, ...] | None, arg(metavar="FILE|NAME NAME ...")
    ] = None,
    groups: int = 0,
    group_size: int = 4,
    seed: int = 0,
    out: Annotated[Path | str, PLACE] = "descriptions.jsonl",
    overwrite: bool = False,
    model: str = "starter",
    device: str = "auto",
    engine: EngineName = "auto",
    max_rejected: float = 0.1,
    allow_pickle: bool = False,
    bulk: Annotated[Bulk, arg(name="")] = Bulk(),
    callback: Suppress[Callback | None] = None,
) -> Json:
    """Caption the images of a folder, to check the texts before a fit.

    A later fit with the same captioner and domain reuses these texts; those of groups if the
    classes, the group size and the seed are the same as well.

    Args:
        images: folder of images; its subfolders are searched too.
        captioner: source of the texts: the vocabulary of the model, or a language model.
        domain: noun for what the images show, such as bird, or a data set of LatteCLIP's paper.
        plural: plural of --domain, if irregular.
        classes: file with one class name per line, or the names themselves, as for the later fit;
            images are grouped by their zero-shot class.
        groups: also caption at most this number of groups of images per class (LatteCLIP: 32);
            needs --classes.
        group_size: images per group.
        seed: random seed of the groups.
        out: file to write, `.jsonl`, with one line per readable image and per group; with --on ray
            a folder of Parquet files with a row per image.
        overwrite: replace an existing file.
        model: image-text model: starter, an open_clip name, hf-hub:OWNER/NAME or local-dir:FOLDER.
            The vocabulary captioner uses it; give the model of the later fit.
        device: device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.
        engine: engine of the frozen image encoder: auto takes the fastest on a CPU that agrees with
            torch; on a GPU it is torch, and bf16 can be asked for.
        max_rejected: stop when a larger share of the images is unreadable.
        allow_pickle: accept weights from a local folder that are not safetensors. They can run
            code: use it for sources you trust.
        bulk: where to compute: here, or in many processes on Ray.
        callback: gets `stage`, `done` and `total`.

    Returns:
        `n`, `rejected`, `groups`, `without_text`, `out`, and the texts of the first images.

    Raises:
        RequestError: there is no image, there are groups without classes or on Ray, the file cannot
            be written, the captioner is not available, or its answers are not there yet.
        AnyclassError: too many images are unreadable, or too many questions have no answer.
    """
    check_share(max_rejected)
    _check_groups(groups, group_size, classes is not None, bulk)
    if bulk.on == "ray":
        from anyclass.commands.bulk import BulkOptions, describe_in_bulk
        from anyclass.commands.bulk_jobs import DescribeJob

        name = absolute_id(model)
        job = DescribeJob(captioner, domain, plural, name, device, allow_pickle, engine)
        options = BulkOptions(images, out, overwrite, bulk, device, max_rejected, callback)
        return describe_in_bulk(job, options)
    check_out(Path(out), overwrite, (".jsonl",))
    all_images = ImageDataset.read(images, split_names(classes))
    clip = Backbone.load(model, torch_device(device), allow_pickle, engine)
    with Progress(callback=callback) as log:
        for sentence in all_images.skipped:
            log.say(sentence)
        store = FeatureStore(clip, all_images)
        data, rejections = embed_readable(store, "head", max_rejected, log)
        method = _latteclip(captioner, domain, plural, groups, group_size)
        asked: CaptionRequests = method.caption_requests(data, log, seed)
        rows = _described(captioner, asked, data, clip, log)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_text(Path(out), "".join(lines))
    return {
        "n": len(all_images),
        "rejected": len(rejections),
        "groups": sum(map(len, asked.groups)),
        "without_text": [row["text"] for row in rows].count(None),
        "out": str(out),
        "first": rows[:3],
    }


def _latteclip(
    captioner: AnyCaptioner, domain: str, plural: str, groups: int, group_size: int
) -> Any:
    """The method whose questions are asked."""
    return METHODS["latteclip"](
        captioner=captioner,
        domain=domain,
        plural=plural,
        groups=max(1, groups),
        group_size=group_size,
        texts=("image", "group") if groups else ("image",),
    )


def _described(
    captioner: AnyCaptioner,
    asked: CaptionRequests,
    data: AnyFeatures,
    clip: Backbone,
    log: Progress,
) -> list[Json]:
    """Ask the captioner; return a row for each text."""
    context = CaptionContext(data.dataset, clip, data.image_features("head", log).cpu())
    requests = asked.requests
    texts = dict(zip(requests, captioner.describe(requests, context, log), strict=True))
    author = captioner.answered_by
    origin = {"captioner": captioner.kind} | ({"model": author} if author else {})
    return [
        about | {"text": texts[request], **origin, "question": request.question}
        for about, request in _listed(asked, data.dataset)
    ]


def _check_groups(groups: int, size: int, named: bool, bulk: Bulk) -> None:
    """Refuse groups that cannot be drawn."""
    if groups < 0 or size < 1:
        raise RequestError(
            f"--groups {groups} --group-size {size}: give the number of groups per class, 0 for "
            "none, and one image per group or more"
        )
    if groups and not named:
        raise RequestError(
            "groups are images of one zero-shot class: give the class names (--classes FILE)"
        )
    if bulk.on == "ray" and named:
        raise RequestError(
            "groups are drawn from all images, and a worker has a part of them: leave --classes "
            "and --groups out with --on ray"
        )


def _listed(asked: CaptionRequests, dataset: ImageDataset) -> Iterator[tuple[Json, CaptionRequest]]:
    """What each request is about: a file, or the files of a group and its class."""
    for requests in asked.images:
        for request in requests:
            yield {"file_name": dataset.files[request.rows[0]]}, request
    for name, groups in zip(dataset.classes.names, asked.groups, strict=True):
        for request in groups:
            yield {"class": name, "files": [dataset.files[i] for i in request.rows]}, request
