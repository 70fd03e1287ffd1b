"""Reads a saved classifier and checks that it fits its base model; the files: `saving.py`."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cosine_similarity

from anyclass.backbone import Backbone, EngineName, Part
from anyclass.backbone.loading import absolute_id
from anyclass.classifier.class_edits import ClassEdits
from anyclass.classifier.head_formats import HEAD, build, check_parts, saved_parts, weights_width
from anyclass.classifier.heads import Head, MetaNet, edited, fitted_head
from anyclass.classifier.precomputed import AnyRepresentation, Precomputed
from anyclass.classifier.representation import Representation
from anyclass.classifier.saved_classes import edits_in
from anyclass.classifier.saving import NAMES, PARAMETER, TENSORS, Saved
from anyclass.classifier.settings import (
    SETTINGS,
    FeatureSettings,
    Settings,
    check_file,
    read_settings,
)
from anyclass.data import Classes
from anyclass.data.image import Decoding
from anyclass.errors import ModelError, RequestError

MIN_COSINE = 0.9999
"""Smallest cosine between fingerprints of the same model on two machines."""


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
    name = settings.model if model is None else absolute_id(model)
    try:
        clip = _base_model(name, settings, device, allow_pickle, engine, base)
    except RequestError as error:
        if model is not None:
            raise
        raise ModelError(f"the model that {folder / SETTINGS} names: {error}") from error
    classes = Classes.from_json(settings.classes)
    try:
        edits = edits_in(settings, len(classes))
        head_tensors = _pop_head_tensors(tensors)
        representation = _trained_representation(clip, settings, tensors)
        widths = {"D": tensors["fingerprint"].shape[1], "E": tensors["weights"].shape[-1]}
        head = _head(settings, tensors, head_tensors, edits, representation, widths)
    except (ValueError, RequestError) as error:
        raise ModelError(
            f"{folder} does not match {name}: {error!s:.500}; load the model it was fitted on"
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
        edits = edits_in(settings, len(classes))
        text = tensors.pop("class_text", torch.zeros(0, 0))
        if text.ndim != 2 or text.shape[1] != features.width or len(text) > edits.fitted:
            raise ValueError("class_text has another shape")
        text[~text.any(1)] = torch.nan
        representation = Precomputed(
            features.width,
            features.extra,
            edited_texts(text, edits),
            features.logit_scale,
            settings.space,
        )
        head_tensors = _pop_head_tensors(tensors)
        widths = {"D": features.width}
        head = _head(settings, tensors, head_tensors, edits, representation, widths)
    except ValueError as error:
        raise ModelError(f"{folder} is damaged: {error!s:.500}") from error
    return Saved(representation, head, classes, settings.method, settings.fields)


def _base_model(
    name: str,
    settings: Settings,
    device: str,
    allow_pickle: bool,
    engine: EngineName,
    base: Backbone | None,
) -> Backbone:
    """The model in use, if it is the one that is named, or load it; a copy if a part is trained."""
    if base is None or base.model_id != name:
        reduced = settings.preprocessing.get("decoding") == "reduced"
        decoding: Decoding = "reduced" if reduced else "full"
        return Backbone.load(name, device, allow_pickle, engine, decoding=decoding)
    return base.copy() if settings.part else base


def _trained_representation(
    clip: Backbone, settings: Settings, tensors: Mapping[str, Tensor]
) -> Representation:
    """Load the trained parameters into the model, and compare it with that of the fit.

    Raises:
        ValueError: it is another model.
    """
    towers = (clip, clip.copy()) if settings.beside else (clip,)
    representation = Representation(towers, settings.part, settings.space)
    _load_parameters(clip, settings.part, tensors)
    _check_weights(clip, settings)
    if clip.preprocessing.to_json() != settings.preprocessing:
        raise ValueError("its preprocessing differs (size, mean, standard deviation or decoding)")
    _check_fingerprint(representation.fingerprint(), tensors)
    return representation


def _pop_head_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the further tensors of the head out of all tensors."""
    names = [name for name in tensors if name.startswith(HEAD)]
    return {name: tensors.pop(name) for name in names}


def _head(
    settings: Settings,
    tensors: Mapping[str, Tensor],
    head_tensors: Mapping[str, Tensor],
    edits: ClassEdits,
    representation: AnyRepresentation,
    widths: Mapping[str, int],
) -> Head:
    """Build the head and its edits.

    Args:
        settings: `classifier.json`.
        tensors: `weights` and, of a linear head, `bias`.
        head_tensors: further tensors of the head.
        edits: edits of the classes.
        representation: of the images.
        widths: length of the axes D and E.

    Raises:
        ValueError: parts of the head do not fit.
    """
    parts = saved_parts(settings.head, head_tensors)
    check_parts(parts, {"C": edits.fitted, **widths})
    _check_shapes(tensors, (edits.fitted, weights_width(parts, representation)))
    _check_gates(edits, representation)
    prompts = settings.classes["prompts"]
    found = build(parts, tensors, settings.scale, prompts, representation)
    head = edited(found, edits)
    _check_numbers(head, representation)
    return head


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
