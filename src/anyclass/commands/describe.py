"""`describe`: what a captioner says of each image of a folder, before anything is fitted."""

import json
from pathlib import Path
from typing import Any

from tyro.conf import Suppress

from anyclass.backbone import Backbone, EngineName
from anyclass.backbone.device import torch_device
from anyclass.captioning import AnyCaptioner, CaptionContext, CaptionRequest, Vocabulary
from anyclass.commands.fit import readable
from anyclass.commands.predict import check_out
from anyclass.commands.request import check_share
from anyclass.data import ImageDataset
from anyclass.features.extract import Embedding, embed, image_features
from anyclass.features.text import domain as domain_of
from anyclass.files import write_text
from anyclass.run.progress import Callback, Progress

Json = dict[str, Any]


def describe(
    images: Path | str,
    captioner: AnyCaptioner = Vocabulary(),  # noqa: B008 (frozen)
    domain: str = "object",
    plural: str = "",
    out: Path | str = "descriptions.jsonl",
    overwrite: bool = False,
    model: str = "starter",
    device: str = "auto",
    engine: EngineName = "auto",
    max_rejected: float = 0.1,
    allow_pickle: bool = False,
    callback: Suppress[Callback | None] = None,
) -> Json:
    """Have every image of a folder described, to read what a fit would learn from.

    A later fit with the same captioner and domain asks for none of these texts again.

    Args:
        images: folder of images, walked recursively.
        captioner: who writes the texts.
        domain: what the images show: a noun, or one of the sets of LatteCLIP's paper.
        plural: of a noun that does not take an s.
        out: file to write, `.jsonl`; one line per image that can be used.
        overwrite: replace a file that is there.
        model: starter, an open_clip name, hf-hub:... or local-dir:...: the vocabulary asks it, and
            the fit finds the images embedded.
        device: auto (a GPU where there is one), cpu, cuda, cuda:1, mps.
        engine: what runs the frozen image tower on a CPU.
        max_rejected: largest share of images that may be unreadable.
        allow_pickle: accept model weights that are not safetensors from a local folder.
        callback: gets `stage`, `done` and `total`.

    Returns:
        `n`, `rejected`, `without_text`, `out`, and the texts of the first images.

    Raises:
        RequestError: there is no image, the file cannot be written there, the captioner cannot
            be asked, or its answers are still to come.
        AnyclassError: too many images are unreadable, or too many questions have no answer.
    """
    check_out(Path(out), overwrite, (".jsonl",))
    check_share(max_rejected)
    everything = ImageDataset.read(images)
    clip = Backbone.load(model, torch_device(device), allow_pickle, engine)
    with Progress(callback=callback) as log:
        for sentence in everything.skipped:
            log.say(sentence)
        dataset, rejections = readable(clip, everything, "head", max_rejected, log)
        features = image_features(clip, embed(clip, dataset, Embedding("head"), log), "head")
        about = domain_of(domain, plural)
        asked = [CaptionRequest((i,), about.ask_image(), about.noun) for i in range(len(dataset))]
        texts = captioner.describe(asked, CaptionContext(dataset, clip, features.cpu()), log)
    rows = [
        {"file_name": file, "text": text, "captioner": captioner.kind, "question": request.question}
        for file, text, request in zip(dataset.files, texts, asked, strict=True)
    ]
    write_text(Path(out), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return {
        "n": len(everything),
        "rejected": len(rejections),
        "without_text": texts.count(None),
        "out": str(out),
        "first": rows[:3],
    }
