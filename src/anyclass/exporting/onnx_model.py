"""A classifier as one ONNX file: preprocessing, image encoder and head in one graph.

    images         uint8 (n, h, w, 3)   RGB, upright, any size; images of one call have the same
    probabilities  float32 (n, C)
    familiarity    float32 (n)          share of the training images that are at least as unusual
    outlier_score  float32 (n)          higher where no class stands out

The last two are there if the head can tell (`OpenWorldModel`). Class names and the largest
difference from PyTorch are in the file's metadata.
"""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from anyclass.backbone.onnx_runtime import onnx_runtime
from anyclass.backbone.onnx_trunk import LARGEST
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import MetaNet, fitted_head
from anyclass.classifier.precomputed import NO_MODEL
from anyclass.classifier.representation import Representation
from anyclass.data import Preprocessing
from anyclass.errors import AnyclassError, RequestError
from anyclass.estimators.open_world_model import OpenWorldModel
from anyclass.exporting.preprocessing import preprocessing_graph
from anyclass.files import atomic_write

TOLERANCE = 1e-3
"""Largest difference between a probability by ONNX Runtime and by PyTorch."""

SHAPES = ((60, 90), (301, 97), (224, 224), (17, 640))
"""Height and width of the images that are made for the check."""

Pixels = UInt8[np.ndarray, "h w 3"]
"""An RGB image."""


class OnnxCheck(NamedTuple):
    """An ONNX model beside PyTorch."""

    images: int
    """Number of images that both predicted."""
    largest_difference: dict[str, float]
    """Name of an output -> largest absolute difference."""


def write_onnx(classifier: Classifier, path: Path, images: Sequence[Image.Image] = ()) -> OnnxCheck:
    """Write a classifier as an ONNX file, after a comparison with PyTorch.

    Args:
        classifier: it must be on the CPU.
        path: the file.
        images: images to compare on, next to some that are made for it.

    Raises:
        RequestError: the classifier has no model, cannot be exported, or is too large for a file.
        AnyclassError: the exported model differs from PyTorch.
    """
    import onnx

    runtime = onnx_runtime("ONNX export")
    check_exportable(classifier)
    model = _model(classifier)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    check = check_onnx(classifier, session, [*_made(), *(np.asarray(image) for image in images)])
    worst = check.largest_difference["probabilities"]
    if not worst <= TOLERANCE:
        raise AnyclassError(
            f"{path} is not written: its probabilities differ from PyTorch's by up to {worst:.2g}, "
            f"more than {TOLERANCE:g}"
        )
    about = _about(classifier, check) | {"onnxruntime": runtime.__version__}
    onnx.helper.set_model_props(model, about)
    with atomic_write(path) as draft:
        onnx.save_model(model, draft)
    return check


def check_exportable(classifier: Classifier) -> None:
    """Refuse a classifier that does not fit into one graph.

    Raises:
        RequestError: it has no model, its head needs the text encoder, or it is too large.
    """
    representation = classifier.representation
    if not isinstance(representation, Representation):
        raise RequestError(f"no ONNX file: {NO_MODEL}")
    if isinstance(classifier.head, MetaNet):
        raise RequestError(
            "no ONNX file: cocoop encodes all class names anew for each image, so that the text "
            "encoder would have to be in the graph; fit coop, or another method"
        )
    towers = {id(p): p.nbytes for t in representation.towers for p in t.model.visual.parameters()}
    if sum(towers.values()) > LARGEST:
        raise RequestError("no ONNX file: the image encoder is larger than the 2 GB that one takes")


def check_onnx(classifier: Classifier, session: Any, images: Sequence[Pixels]) -> OnnxCheck:
    """Predict images with ONNX Runtime and with PyTorch.

    Args:
        classifier: the classifier.
        session: an inference session of the exported model.
        images: RGB images, one or more.
    """
    graph = _Graph(classifier)
    names = graph.outputs
    largest = dict.fromkeys(names, 0.0)
    for image in images:
        found = session.run(names, {"images": image[None]})
        with torch.no_grad():
            wanted = graph(_pixels(classifier, image)[None])
        for name, ours, theirs in zip(names, found, wanted, strict=True):
            difference = float(np.abs(ours - theirs.numpy()).max())
            largest[name] = max(largest[name], difference)
    return OnnxCheck(len(images), largest)


class _Graph(nn.Module):
    """Pixels to outputs, for the exporter."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.representation = _representation(classifier)
        self.head = classifier.head
        self.visuals = nn.ModuleList(t.model.visual for t in self.representation.towers)

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        can_tell = isinstance(fitted_head(self.head), OpenWorldModel)
        return ["probabilities", *(["familiarity", "outlier_score"] if can_tell else [])]

    def forward(self, pixels: Float[Tensor, "n 3 H W"]) -> tuple[Tensor, ...]:
        """Outputs of normalised pixels."""
        rows = self.representation.rows(self.representation.clip.trunk(pixels, "head"), "head")
        probabilities = self.head.logits(rows).softmax(1)
        fitted = fitted_head(self.head)
        if not isinstance(fitted, OpenWorldModel):
            return (probabilities,)
        return probabilities, fitted.familiarity(rows), fitted.outlier_score(rows)


def _representation(classifier: Classifier) -> Representation:
    representation = classifier.representation
    if not isinstance(representation, Representation):
        raise RequestError(NO_MODEL)
    return representation


def _pixels(classifier: Classifier, image: Pixels) -> Float[Tensor, "3 H W"]:
    """Normalised pixels as PyTorch gets them."""
    preprocessing = classifier.clip.preprocessing
    return preprocessing.normalise(preprocessing.view(Image.fromarray(image)))


def _model(classifier: Classifier) -> Any:
    """The ONNX model, without metadata."""
    import onnx
    from onnx.inliner import inline_local_functions

    tower = _exported(classifier)
    opset = next(entry.version for entry in tower.opset_import if not entry.domain)
    before = preprocessing_graph(classifier.clip.preprocessing, opset, tower.ir_version)
    before = inline_local_functions(before)
    before = onnx.compose.add_prefix(before, "preprocessing/", rename_inputs=False)
    pixels = before.graph.output[0].name
    model = onnx.compose.merge_models(before, tower, io_map=[(pixels, "pixels")])
    del model.opset_import[:]  # it lists some twice, and that of functions which are inlined
    model.opset_import.extend(tower.opset_import)
    return model


def _exported(classifier: Classifier) -> Any:
    """ONNX model of encoder and head, without the traces that name files of this machine.

    Raises:
        RequestError: the exporter does not support the model.
    """
    graph = _Graph(classifier).eval()
    pixels = torch.zeros(2, 3, *classifier.clip.preprocessing.size)
    batch = {"pixels": {0: torch.export.Dim("n", min=1, max=65536)}}
    try:
        with torch.no_grad(), _silence():
            program: Any = torch.onnx.export(
                graph,
                (pixels,),
                input_names=["pixels"],
                output_names=graph.outputs,
                dynamic_shapes=batch,
                custom_translation_table={torch.ops.aten.searchsorted.Tensor: _searchsorted},
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise RequestError(
            f"no ONNX file: PyTorch cannot export {classifier.clip.model_id}"
        ) from error
    model = program.model_proto
    for part in (model.graph, *model.functions):
        del part.metadata_props[:]
        for node in part.node:
            del node.metadata_props[:]
            node.doc_string = ""
    return model


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what the exporter says of itself from the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _searchsorted(ascending: Any, values: Any, **_: Any) -> Any:
    """How many of the `ascending` numbers are below each of the `values`, in ONNX operators."""
    import onnxscript

    operators: Any = onnxscript.opset20
    column = operators.Unsqueeze(values, [-1])
    below = operators.Cast(operators.Less(ascending, column), to=7)
    return operators.ReduceSum(below, [-1], keepdims=0)


def _made() -> list[Pixels]:
    """Images of noise over a gradient, of several shapes."""
    draw = np.random.Generator(np.random.PCG64(0))
    images = []
    for height, width in SHAPES:
        rows, columns = np.mgrid[0:height, 0:width]
        gradient = (rows / height + columns / width)[..., None] * (90, 60, 100)
        noise = draw.integers(0, 56, (height, width, 3))
        images.append((gradient + noise).clip(0, 255).astype(np.uint8))
    return images


def _about(classifier: Classifier, check: OnnxCheck) -> dict[str, str]:
    """Metadata of the file."""
    from anyclass import __version__

    classes = classifier.classes
    model = classifier.clip.model_id
    preprocessing = classifier.clip.preprocessing
    return {
        "classes": json.dumps(classes.names, ensure_ascii=False),
        "kinds": json.dumps(classes.kinds),
        "method": classifier.method,
        "model": "a local folder" if model.startswith("local-dir:") else model,
        "preprocessing": json.dumps(preprocessing.to_json()),
        "decoding": _decoding(preprocessing),
        "largest_difference": json.dumps(check.largest_difference),
        "checked_on": f"{check.images} images",
        "anyclass": __version__,
        "pillow": PIL.__version__,
        "torch": torch.__version__,
    }


def _decoding(preprocessing: Preprocessing) -> str:
    """How JPEGs were decoded, which is before the graph, in words."""
    least = preprocessing.shorter_side
    if not least:
        return "JPEGs at their full size"
    return (
        "JPEGs at the smallest of 1/1, 1/2, 1/4 and 1/8 of their size (libjpeg's scale_denom, "
        f"Pillow's draft) that leaves the shorter side {least} pixels"
    )
