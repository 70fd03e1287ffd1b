"""The files of a saved classifier: `classifier.json` and `classifier.safetensors`.

The JSON contains the method, its hyper-parameters, the classes, the base model, and the kind of
representation and head. The tensors are

    weights        (C, E) weights of the head, or its text features
    bias           (C,) bias of a linear head, optional
    head.NAME      further tensors of the head, see `FORMATS`
    parameter.NAME trained parameters of the model, by name
    fingerprint    (3, E) features of three synthetic images, to check the base model
    class_text     (C, D) instead, if it was fitted on features: class texts, 0 where there is none;
                   discovered classes have no row

Version 0.1 wrote the same layout, but method names with underscores.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from anyclass.classifier.class_edits import EditedClasses
from anyclass.classifier.head_formats import HEAD, class_weights, head_parts, own_scale
from anyclass.classifier.heads import FittedHead, Head, edits_of, fitted_head
from anyclass.classifier.precomputed import AnyRepresentation, Precomputed
from anyclass.classifier.representation import Representation
from anyclass.classifier.saved_classes import class_settings
from anyclass.classifier.settings import SETTINGS, FeatureSettings, Settings
from anyclass.data import Classes
from anyclass.estimators.linear import Linear
from anyclass.files import write_json, write_tensors

TENSORS = "classifier.safetensors"
PARAMETER = "parameter."
NAMES = ("weights", "bias", "fingerprint", "class_text", HEAD, PARAMETER)
"""Beginnings of the names of all tensors."""


class Saved(NamedTuple):
    """Content of a saved classifier; the fields are those of `Classifier`."""

    representation: AnyRepresentation
    head: Head
    classes: Classes
    method: str
    fields: Mapping[str, Any]


def write(folder: Path, saved: Saved) -> None:
    """Write both files into `folder`, each atomically."""
    head = fitted_head(saved.head)
    edits = edits_of(saved.head, len(saved.classes))
    parts = head_parts(head)
    tensors = {"weights": class_weights(head)}
    tensors |= {f"{HEAD}{name}": tensor for name, tensor in parts.tensors.items()}
    if isinstance(head, Linear) and head.bias is not None:
        tensors["bias"] = head.bias
    representation = saved.representation
    if isinstance(representation, Precomputed):
        tensors["class_text"] = representation.texts.nan_to_num(nan=0.0)
        model = _model_of_features(representation, head)
    else:
        tensors["fingerprint"] = representation.fingerprint()
        part = representation.part
        trained = representation.clip.parameters(part) if part else {}
        tensors |= {f"{PARAMETER}{name}": parameter for name, parameter in trained.items()}
        model = _model_of_images(representation, head)
    write_tensors(folder / TENSORS, tensors)
    settings = Settings(
        format=1,
        method=saved.method,
        fields=dict(saved.fields),
        own=representation.space == "both",
        head={"kind": parts.kind, **parts.numbers} if parts.kind else None,
        pooled=representation.space == "pooled",
        **model,
        **class_settings(EditedClasses(saved.classes, edits)),
    )
    write_json(folder / SETTINGS, settings.to_json())


def _model_of_images(representation: Representation, head: FittedHead) -> dict[str, Any]:
    """Settings of a classifier with a model."""
    clip = representation.clip
    return {
        "part": representation.part,
        "beside": len(representation.towers) > 1,
        "scale": own_scale(head, clip.logit_scale),
        "model": clip.model_id,
        "weights_sha256": clip.untrained_sha256(representation.part),
        "preprocessing": clip.preprocessing.to_json(),
    }


def _model_of_features(representation: Precomputed, head: FittedHead) -> dict[str, Any]:
    """Settings of a classifier that was fitted on features."""
    features = FeatureSettings(
        width=representation.dimensions,
        extra=representation.extra_width,
        logit_scale=representation.logit_scale,
    )
    return {
        "part": None,
        "scale": own_scale(head, None),
        "model": None,
        "preprocessing": {},
        "features": features,
    }
