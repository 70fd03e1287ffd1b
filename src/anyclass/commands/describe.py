"""`describe`: caption the images of a folder, without a fit."""

import json
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone, EngineName
from anyclass.backbone.device import torch_device
from anyclass.backbone.loading import absolute_id
from anyclass.bulk import Bulk
from anyclass.captioning import AnyCaptioner, CaptionContext, CaptionRequest, Vocabulary
from anyclass.commands.predict import check_out
from anyclass.commands.request import PLACE, check_share
from anyclass.commands.train import readable
from anyclass.data import ImageDataset
from anyclass.features.domains import domain as domain_of
from anyclass.features.store import FeatureStore
from anyclass.files import write_text
from anyclass.run.progress import Callback, Progress

Json = dict[str, Any]


def describe(
    images: Annotated[Path | str, PLACE],
    captioner: AnyCaptioner = Vocabulary(),  # noqa: B008 (frozen)
    domain: str = "object",
    plural: str = "",
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

    A later fit with the same captioner and domain reuses these texts.

    Args:
        images: folder of images; its subfolders are searched too.
        captioner: source of the texts: the vocabulary of the model, or a language model.
        domain: noun for what the images show, such as bird, or a data set of LatteCLIP's paper.
        plural: plural of `domain`, if irregular.
        out: file to write, `.jsonl`, with one line per readable image; with --on ray a folder of
            Parquet files with a row per image.
        overwrite: replace an existing file.
        model: image-text model: starter, an open_clip name, hf-hub:OWNER/NAME or local-dir:FOLDER.
            The vocabulary captioner uses it; give the model of the later fit.
        device: device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.
        engine: engine for the frozen image encoder on a CPU; auto takes the fastest that agrees
            with torch.
        max_rejected: stop when a larger share of the images is unreadable.
        allow_pickle: accept weights from a local folder that are not safetensors. They can run
            code: use it for sources you trust.
        bulk: where to compute: here, or in many processes on Ray.
        callback: gets `stage`, `done` and `total`.

    Returns:
        `n`, `rejected`, `without_text`, `out`, and the texts of the first images.

    Raises:
        RequestError: there is no image, the file cannot be written, the captioner is not
            available, or its answers are not there yet.
        AnyclassError: too many images are unreadable, or too many questions have no answer.
    """
    check_share(max_rejected)
    if bulk.on == "ray":
        from anyclass.commands.bulk import Place, describe_in_bulk
        from anyclass.commands.bulk_jobs import DescribeJob

        name = absolute_id(model)
        job = DescribeJob(captioner, domain, plural, name, device, allow_pickle, engine)
        place = Place(images, out, overwrite, bulk, device, max_rejected, callback)
        return describe_in_bulk(job, place)
    check_out(Path(out), overwrite, (".jsonl",))
    all_images = ImageDataset.read(images)
    clip = Backbone.load(model, torch_device(device), allow_pickle, engine)
    with Progress(callback=callback) as log:
        for sentence in all_images.skipped:
            log.say(sentence)
        data, rejections = readable(FeatureStore(clip, all_images), "head", max_rejected, log)
        dataset = data.dataset
        features = data.image_features("head", log)
        phrases = domain_of(domain, plural)
        question = phrases.ask_image()
        requests = [CaptionRequest((i,), question, phrases.noun) for i in range(len(dataset))]
        texts = captioner.describe(requests, CaptionContext(dataset, clip, features.cpu()), log)
    author = captioner.answered_by
    origin = {"captioner": captioner.kind} | ({"model": author} if author else {})
    rows = [
        {"file_name": file, "text": text, **origin, "question": question}
        for file, text in zip(dataset.files, texts, strict=True)
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_text(Path(out), "".join(lines))
    return {
        "n": len(all_images),
        "rejected": len(rejections),
        "without_text": texts.count(None),
        "out": str(out),
        "first": rows[:3],
    }
