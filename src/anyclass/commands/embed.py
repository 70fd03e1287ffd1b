"""`embed`: write the image features of a model, and the text features of class names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone, EngineName
from anyclass.backbone.device import torch_device
from anyclass.backbone.loading import absolute_id
from anyclass.bulk import Bulk
from anyclass.commands.predict import check_out
from anyclass.commands.request import PLACE, check_share, split_names
from anyclass.commands.train import embed_readable
from anyclass.data import Classes, ImageDataset
from anyclass.data.feature_formats import ENDINGS, write_arrays
from anyclass.data.image import Decoding
from anyclass.data.nouns import some_nouns
from anyclass.errors import RequestError
from anyclass.features.precomputed import AnyFeatures
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, cached_class_features
from anyclass.files import Json
from anyclass.run.progress import Callback, Progress

NOUNS = 1000
"""Number of nouns whose text features are written too, about."""

WITH_TEXTS = (".npz", ".safetensors")
"""Endings of files that hold class texts."""


def embed(
    images: Annotated[Path | str | None, PLACE] = None,
    classes: Annotated[
        Path | str | tuple[str, ...] | None, arg(metavar="FILE|NAME NAME ...")
    ] = None,
    labels: Annotated[str | None, arg(metavar="folders|FILE")] = None,
    out: Annotated[Path | str, PLACE] = "features.npz",
    overwrite: bool = False,
    model: str = "starter",
    extra: bool = False,
    half: bool = False,
    template: str = PLAIN,
    device: str = "auto",
    engine: EngineName = "auto",
    decoding: Decoding = "full",
    max_rejected: float = 0.1,
    allow_pickle: bool = False,
    bulk: Annotated[Bulk, arg(name="")] = Bulk(),
    callback: Suppress[Callback | None] = None,
) -> Json:
    """Write the image features of a model, and the text features of class names, into one file.

    `anyclass fit auto --features FILE` reads it, and so does any other program. Without images
    only the text features of the class names are written.

    Args:
        images: folder of images; its subfolders are searched too.
        classes: file with one class name per line, or the names themselves; their text features
            are written too, into .npz and .safetensors, and those of common nouns, by which a fit
            recognises images of none of the classes.
        labels: `folders`: the parent folder of an image is its label. Or a table of file names and
            labels: CSV, Parquet or JSONL.
        out: file to write: .npz, .safetensors, .parquet or .npy, which holds the image features
            alone; names and labels are then in a table beside it. With --on ray a folder of
            Parquet files, which `--features` reads too.
        overwrite: replace an existing file.
        model: image-text model: starter, an open_clip name, hf-hub:OWNER/NAME or local-dir:FOLDER.
        extra: also write the features before the model's projection. A classifier that gets both
            is often more accurate.
        half: write half-precision numbers: half the size, nearly the same classifier.
        template: class prompt; `{}` is the class name.
        device: device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.
        engine: engine of the frozen image encoder: auto takes the fastest on a CPU that agrees with
            torch; on a GPU it is torch, and bf16 can be asked for.
        decoding: decoding of JPEGs: reduced decodes large photographs at 1/2, 1/4 or 1/8 of their
            size, about twice as many in a second, with slightly other features.
        max_rejected: stop when a larger share of the images is unreadable.
        allow_pickle: accept weights from a local folder that are not safetensors. They can run
            code: use it for sources you trust.
        bulk: where to compute: here, or in many processes on Ray.
        callback: gets `stage`, `done` and `total`.

    Returns:
        `n` (rows written), `rejected`, `width`, `extra_width`, `labelled` (rows with a label),
        `classes` (number of class texts) and `files` (those that were written).

    Raises:
        RequestError: there is no image, or the file cannot hold what is asked for.
        AnyclassError: too many images are unreadable.
    """
    check_share(max_rejected)
    if bulk.on == "ray":
        from anyclass.commands.bulk import BulkOptions, embed_in_bulk
        from anyclass.commands.bulk_jobs import EmbedJob

        _check_images_alone(classes, labels)
        job = EmbedJob(absolute_id(model), device, allow_pickle, engine, decoding, extra, half)
        options = BulkOptions(images, out, overwrite, bulk, device, max_rejected, callback)
        return embed_in_bulk(job, options)
    out = Path(out)
    check_out(out, overwrite, ENDINGS)
    _check_format(out, images, classes, extra, template)
    dataset = None if images is None else ImageDataset.read(images, classes, labels)
    named = _classes(classes)
    clip = Backbone.load(model, torch_device(device), allow_pickle, engine, decoding=decoding)
    arrays: dict[str, Any] = {}
    rejected = 0
    with Progress(callback=callback) as log:
        if dataset is not None:
            arrays, rejected = _embedded(clip, dataset, extra, max_rejected, log)
        if named and out.suffix in WITH_TEXTS:
            arrays |= _text_arrays(clip, named, template)
        elif named:
            again = "leave --images out and write them to another file, for `fit --class-text`"
            log.say(f"{out.suffix} holds no class texts: {again}")
    _convert(arrays, np.float16 if half else np.float32)
    files = [str(file) for file in write_arrays(out, arrays)]
    width = clip.fingerprint().shape[1]
    return {"rejected": rejected, "width": width, **_counts(arrays), "files": files}


def _embedded(
    clip: Backbone, dataset: ImageDataset, extra: bool, max_rejected: float, log: Progress
) -> tuple[dict[str, Any], int]:
    """Arrays of the readable images, and the number of unreadable ones.

    Raises:
        AnyclassError: too many images are unreadable.
    """
    for sentence in dataset.skipped:
        log.say(sentence)
    data, rejections = embed_readable(FeatureStore(clip, dataset), "head", max_rejected, log)
    return _image_arrays(data, extra, log), len(rejections)


def _convert(arrays: dict[str, Any], kind: type[np.floating[Any]]) -> None:
    """Give all features this type."""
    for name in {"x", "extra", "class_text", "negative_text"} & set(arrays):
        arrays[name] = arrays[name].astype(kind)


def _counts(arrays: Mapping[str, Any]) -> Json:
    """What was written, in numbers."""
    return {
        "n": len(arrays.get("x", ())),
        "extra_width": arrays["extra"].shape[1] if "extra" in arrays else 0,
        "labelled": int(np.sum(arrays.get("labels", np.array([])) != "")),
        "classes": len(arrays.get("class_text", ())),
    }


def _check_images_alone(classes: Any, labels: Any) -> None:
    """Refuse class names and labels on Ray, where features of images alone are written."""
    if classes is not None or labels is not None:
        raise RequestError(
            "with --on ray embed writes features of images alone: leave out --classes and "
            "--labels; `anyclass embed --classes FILE` writes the texts, and `fit` takes labels"
        )


def _check_format(out: Path, images: Any, classes: Any, extra: bool, template: str) -> None:
    """Refuse a file that cannot hold what is asked for, before anything is computed."""
    if template != PLAIN and classes is None:
        raise RequestError("--template is a prompt for class names: give --classes FILE")
    if images is None and classes is None:
        raise RequestError("give images (--images DIR), class names (--classes FILE), or both")
    if images is None and out.suffix not in WITH_TEXTS:
        raise RequestError(f"--out {out}: class texts need {' or '.join(WITH_TEXTS)}")
    if extra and out.suffix == ".npy":
        raise RequestError(f"--out {out}: npy holds one array; with --extra use .npz")


def _classes(classes: Path | str | tuple[str, ...] | None) -> Classes | None:
    """Names of the classes, where they were given."""
    if classes is None:
        return None
    return Classes.read(split_names(classes))


def _image_arrays(data: AnyFeatures, extra: bool, log: Progress) -> dict[str, Any]:
    """Features, file names, and labels where some are known."""
    dataset = data.dataset
    arrays: dict[str, Any] = {
        "x": _numpy(data.image_features("head", log)),
        "names": np.array(dataset.files),
    }
    if extra:
        arrays["extra"] = _numpy(data.backbone_features("head", log))
    if (dataset.labels >= 0).any():
        arrays["labels"] = np.array([*dataset.classes.names, ""])[dataset.labels]
    return arrays


def _text_arrays(clip: Backbone, classes: Classes, template: str) -> dict[str, Any]:
    """Text features of classes and nouns, names, and the model's factor on cosine similarities."""
    return {
        "class_text": _numpy(cached_class_features(clip, classes.all_prompts, [template])),
        "class_names": np.array(classes.names),
        "negative_text": _numpy(cached_class_features(clip, some_nouns(NOUNS), [template])),
        "logit_scale": np.float32(clip.logit_scale.detach().cpu()),
    }


def _numpy(tensor: Float[Tensor, "N D"]) -> Any:
    return tensor.cpu().numpy()
