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

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cosine_similarity

from anyclass.backbone import Backbone, EngineName, Part
from anyclass.backbone.loading import absolute_id
from anyclass.classifier.class_edits import ClassEdits, EditedClasses
from anyclass.classifier.head_formats import (
    HEAD,
    build,
    check_parts,
    class_weights,
    own_scale,
    parts_of,
    take_apart,
    weights_width,
)
from anyclass.classifier.heads import (
    FittedHead,
    Head,
    MetaNet,
    edited,
    edits_of,
    fitted_head,
)
from anyclass.classifier.precomputed import AnyRepresentation, Precomputed
from anyclass.classifier.representation import Representation
from anyclass.classifier.settings import (
    EditSettings,
    FeatureSettings,
    Settings,
    check_file,
    read_settings,
)
from anyclass.data import Classes
from anyclass.errors import ModelError, RequestError
from anyclass.estimators.linear import Linear
from anyclass.files import atomic_write, write_json

MIN_COSINE = 0.9999
"""Smallest cosine between fingerprints of the same model on two machines."""

TENSORS = "classifier.safetensors"
SETTINGS = "classifier.json"
PARAMETER = "parameter."
NAMES = ("weights", "bias", "fingerprint", "class_text", HEAD, PARAMETER)
"""Beginnings of the names of all tensors."""


class Saved(NamedTuple):
    """Content of a saved classifier."""

    representation: AnyRepresentation
    head: Head
    classes: Classes
    method: str
    fields: Mapping[str, Any]


def write(folder: Path, saved: Saved) -> None:
    """Write both files into `folder`, each atomically."""
    head = fitted_head(saved.head)
    edits = edits_of(saved.head, len(saved.classes))
    parts = take_apart(head)
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
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(folder / TENSORS) as path:
        save_file(tensors, path)
    settings = Settings(
        format=1,
        method=saved.method,
        fields=dict(saved.fields),
        own=representation.space == "both",
        head={"kind": parts.kind, **parts.numbers} if parts.kind else None,
        pooled=representation.space == "pooled",
        **model,
        **_class_settings(EditedClasses(saved.classes, edits)),
    )
    write_json(folder / SETTINGS, settings.to_json())


def read_classes(folder: Path) -> EditedClasses:
    """Classes of a saved classifier and their edits; no model is loaded.

    Raises:
        ModelError: the file is missing or damaged.
    """
    settings = read_settings(folder / SETTINGS)
    classes = Classes.from_json(settings.classes)
    try:
        return EditedClasses(classes, _edits(settings, len(classes)))
    except ValueError as error:
        raise ModelError(f"{folder} is damaged: {error}") from error


def with_classes(folder: Path, changed: EditedClasses) -> dict[str, Any]:
    """The content of `classifier.json` with other classes and edits.

    Raises:
        ModelError: the file is missing or damaged.
    """
    settings = read_settings(folder / SETTINGS)
    return settings.model_copy(update=_class_settings(changed)).to_json()


def _class_settings(changed: EditedClasses) -> dict[str, Any]:
    """Classes and edits as settings."""
    edits = changed.edits
    settings = None if edits.changes_nothing else EditSettings(**edits.to_json())
    return {"classes": changed.classes.to_json(), "edits": settings}


def _edits(settings: Settings, classes: int) -> ClassEdits:
    """Edits of a saved classifier.

    Raises:
        ValueError: they do not fit the classes.
    """
    saved = settings.edits
    if saved is None:
        return ClassEdits.none(classes)
    edits = ClassEdits.from_json(saved.members, saved.divided, saved.gates)
    if len(edits.members) != classes:
        raise ValueError("the number of classes differs from its edited classes")
    return edits


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


def read(
    folder: Path,
    device: str,
    allow_pickle: bool,
    engine: EngineName,
    base: Backbone | None,
    model: str | None = None,
) -> Saved:
    """Read both files; arguments and errors as for `Classifier.load`."""
    settings = read_settings(folder / SETTINGS)
    tensors = _tensors(folder / TENSORS)
    if settings.features is not None:
        return _read_of_features(folder, settings, settings.features, tensors)
    if settings.model is None or "fingerprint" not in tensors:
        raise ModelError(f"{folder} is damaged: its model or its fingerprint is missing")
    given = model is not None
    model = settings.model if model is None else absolute_id(model)
    if base is not None and base.model_id == model:
        clip = base.copy() if settings.part else base
    else:
        try:
            clip = Backbone.load(model, device, allow_pickle, engine)
        except RequestError as error:
            if given:
                raise
            raise ModelError(f"the model that {folder / SETTINGS} names: {error}") from error
    classes = Classes.from_json(settings.classes)
    try:
        towers = (clip, clip.copy()) if settings.beside else (clip,)
        representation = Representation(towers, settings.part, settings.space)
        edits = _edits(settings, len(classes))
        of_head = {name: tensors.pop(name) for name in list(tensors) if name.startswith(HEAD)}
        _load_parameters(clip, settings.part, tensors)
        _check_weights(clip, settings)
        if clip.preprocessing.to_json() != settings.preprocessing:
            raise ValueError("its preprocessing differs (size, mean or standard deviation)")
        fingerprint = representation.fingerprint()
        parts = parts_of(settings.head, of_head)
        sizes = {"C": edits.fitted, "D": fingerprint.shape[1], "E": tensors["weights"].shape[-1]}
        check_parts(parts, sizes)
        _check_fingerprint(fingerprint, tensors)
        _check_shapes(tensors, (edits.fitted, weights_width(parts, representation)))
        _check_gates(edits, representation)
        prompts = settings.classes["prompts"]
        found = build(parts, tensors, settings.scale, prompts, representation)
        head = edited(found, edits)
        _check_numbers(head, representation)
    except (ValueError, RequestError) as error:
        raise ModelError(
            f"{folder} does not match {model}: {error}; load the model it was fitted on"
        ) from error
    method = settings.method.replace("_", "-")  # 0.1 wrote zero_shot
    return Saved(representation, head, classes, method, settings.fields)


def _read_of_features(
    folder: Path,
    settings: Settings,
    features: FeatureSettings,
    tensors: dict[str, Tensor],
) -> Saved:
    """A classifier that was fitted on features; there is no model to load."""
    classes = Classes.from_json(settings.classes)
    try:
        edits = _edits(settings, len(classes))
        text = tensors.pop("class_text", torch.zeros(0, 0))
        if text.ndim != 2 or text.shape[1] != features.width or len(text) > edits.fitted:
            raise ValueError("class_text has another shape")
        text[~text.any(1)] = torch.nan
        text = edited_texts(text, edits)
        representation = Precomputed(
            features.width, features.extra, text, features.logit_scale, settings.space
        )
        of_head = {name: tensors.pop(name) for name in list(tensors) if name.startswith(HEAD)}
        parts = parts_of(settings.head, of_head)
        check_parts(parts, {"C": edits.fitted, "D": features.width})
        _check_shapes(tensors, (edits.fitted, weights_width(parts, representation)))
        _check_gates(edits, representation)
        prompts = settings.classes["prompts"]
        found = build(parts, tensors, settings.scale, prompts, representation)
        head = edited(found, edits)
        _check_numbers(head, representation)
    except ValueError as error:
        raise ModelError(f"{folder} is damaged: {error}") from error
    return Saved(representation, head, classes, settings.method, settings.fields)


def _tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors: float32, all numbers finite. Unknown ones are refused unread."""
    check_file(path)
    try:
        with safe_open(path, "pt") as file:
            unknown = [name for name in file.keys() if not name.startswith(NAMES)]  # noqa: SIM118
        if unknown:
            raise ModelError(f"{path} is damaged: it has an unknown tensor {unknown[0]!r:.100}")
        # clone: the alignment of memory-mapped tensors changes the rounding of products
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error!s:.200}") from error
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise ModelError(f"{path} is damaged: {name!r:.100} is not float32 or not finite")
    if tensors.get("weights", torch.empty(0)).ndim != 2:
        raise ModelError(f"{path} is damaged: weights missing, or of another shape")
    if not {"fingerprint", "class_text"} & set(tensors):
        raise ModelError(f"{path} is damaged: its fingerprint is missing")
    return tensors


@torch.no_grad()
def _load_parameters(clip: Backbone, part: Part | None, tensors: Mapping[str, Tensor]) -> None:
    """Copy the trained parameters into the model; names and shapes must match the part."""
    named = clip.parameters(part) if part else {}
    found = {
        name.removeprefix(PARAMETER): tensor
        for name, tensor in tensors.items()
        if name not in ("weights", "fingerprint", "bias")
    }
    shapes = {name: tensor.shape for name, tensor in found.items()}
    if shapes != {name: parameter.shape for name, parameter in named.items()}:
        raise ValueError("its trained parameters have other names or shapes")
    for name, tensor in found.items():
        named[name].copy_(tensor)


def _check_weights(clip: Backbone, settings: Settings) -> None:
    """Compare the weights that were not trained with those of the fit, which 0.1 did not note."""
    then = settings.weights_sha256
    if then is not None and clip.untrained_sha256(settings.part) != then:
        raise ValueError("its weights differ (sha256): they have changed since the fit")


def _check_fingerprint(now: Float[Tensor, "3 E"], tensors: Mapping[str, Tensor]) -> None:
    """Compare the features of the synthetic images with the saved ones."""
    then = tensors["fingerprint"]
    if now.shape != then.shape:
        raise ValueError("the width of features or the number of classes differs")
    if not cosine_similarity(now, then).min() > MIN_COSINE:
        raise ValueError("its weights differ, as the features of synthetic images show")


@torch.no_grad()
def _check_numbers(head: Head, representation: AnyRepresentation) -> None:
    """Compute probabilities: finite numbers may still be so large that there are none."""
    if isinstance(fitted_head(head), MetaNet):  # encodes all class names for each row
        return
    rows = torch.eye(representation.width, device=representation.device)[:3]
    if not head.logits(rows).softmax(1).isfinite().all():
        raise ValueError("its numbers are too large for probabilities")


def edited_texts(texts: Float[Tensor, "J D"], edits: ClassEdits) -> Float[Tensor, "C D"]:
    """Text features of edited classes: those of the part that a class continues; NaN: none."""
    if edits.changes_nothing:
        return texts
    first = torch.tensor([parts[0] for parts in edits.members])
    found = texts.new_full((len(first), texts.shape[1]), torch.nan)
    has_row = first < len(texts)
    found[has_row] = texts[first[has_row]]
    return found


def _check_gates(edits: ClassEdits, representation: AnyRepresentation) -> None:
    """Compare the length of the gates with the width of a row."""
    if len(edits.gates) and edits.gates.shape[1] != representation.width + 1:
        raise ValueError("the width of features differs from its edited classes")


def _check_shapes(tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> None:
    """Compare the shapes of `weights` and `bias` with C and E."""
    if tensors["weights"].shape != shape:
        raise ValueError("the width of features or the number of classes differs")
    if "bias" in tensors and tensors["bias"].shape != shape[:1]:
        raise ValueError("the number of classes differs")
