"""An open_clip checkpoint of the model that a run trained: `create_model("local-dir:FOLDER")`.

    open_clip_model.safetensors   weights of both encoders
    open_clip_config.json         architecture and preprocessing
    tokenizer files, config.json  where tokenizer or text encoder are of Hugging Face

The configuration of a Hugging Face text encoder names the folder: change `hf_model_name` in
open_clip_config.json after moving it.
"""

from pathlib import Path
from typing import Any

import torch

from anyclass.backbone import Backbone
from anyclass.backbone.loading import located
from anyclass.classifier.classifier import Classifier
from anyclass.errors import AnyclassError, RequestError
from anyclass.files import storage, write_json, write_tensors
from anyclass.methods import METHODS

TOLERANCE = 1e-5
"""Largest difference between a feature by the saved model and by the run's."""

TEXTS = 20
"""Number of class prompts whose features are compared."""


def write_checkpoint(classifier: Classifier, folder: Path) -> dict[str, Any]:
    """Write the trained model as open_clip loads it, load it again, and compare features.

    Args:
        classifier: the classifier.
        folder: a new or empty folder.

    Returns:
        `folder`, and the largest differences of `image_features` and `text_features`.

    Raises:
        RequestError: the run did not train the model.
        AnyclassError: the saved model gives other features.
    """
    check_trained(classifier)
    clip = classifier.clip
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "open_clip_model.safetensors"
    write_tensors(weights, clip.model.state_dict(), {"format": "pt"})
    config = {"model_cfg": _model(clip, folder), "preprocess_cfg": _preprocessing(clip)}
    write_json(folder / "open_clip_config.json", config)
    differences = _compare(clip, folder, classifier.classes.prompts[:TEXTS])
    worst = max(differences.values())
    if not worst <= TOLERANCE:
        raise AnyclassError(
            f"features of the model in {folder} differ from the run's by up to {worst:.2g}: "
            "do not use it"
        )
    return {"folder": str(folder), **differences}


def check_trained(classifier: Classifier) -> None:
    """Refuse a classifier whose model is the one that anybody can load.

    Raises:
        RequestError: the run did not train the model.
    """
    if classifier.representation.part is None:
        training = [name for name, kind in METHODS.items() if kind().workload(1, 1).trains]
        raise RequestError(
            f"no open_clip checkpoint: {classifier.method} did not train the model, so use "
            f"{classifier.clip.model_id} itself; {', '.join(training)} train it"
        )


def _model(clip: Backbone, folder: Path) -> dict[str, Any]:
    """open_clip's configuration of the model; writes the files of tokenizer and text encoder."""
    import open_clip

    source = _source(clip.model_id)
    config: dict[str, Any] = open_clip.get_model_config(source)
    text = config["text_cfg"]
    with storage(folder):
        if text.get("hf_tokenizer_name"):
            open_clip.get_tokenizer(source).save_pretrained(folder)
            text["hf_tokenizer_name"] = str(folder.resolve())
        if text.get("hf_model_name"):
            clip.model.text.config.save_pretrained(folder)
            text |= {"hf_model_name": str(folder.resolve()), "hf_model_pretrained": False}
    return config


def _source(model_id: str) -> str:
    """Name under which open_clip knows the configuration of a model."""
    place = located(model_id)
    return place if place.startswith(("local-dir:", "hf-hub:")) else place.rpartition("/")[0]


def _preprocessing(clip: Backbone) -> dict[str, Any]:
    """Preprocessing with open_clip's names."""
    fields = clip.preprocessing.to_json()
    fields["fill_color"] = fields.pop("fill")
    fields.pop("decoding", None)  # open_clip gets images that are decoded
    return fields


@torch.no_grad()
def _compare(clip: Backbone, folder: Path, texts: tuple[str, ...]) -> dict[str, float]:
    """Largest differences between the features of the saved model and of the run's."""
    saved = Backbone.load(f"local-dir:{folder}", engine="torch")
    images = (saved.fingerprint() - clip.fingerprint()).abs().max()
    found = {"image_features": float(images), "text_features": 0.0}
    if texts:
        difference = saved.texts(texts) - clip.texts(texts)
        found["text_features"] = float(difference.abs().max())
    return found
