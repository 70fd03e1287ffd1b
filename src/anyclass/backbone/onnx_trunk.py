"""The frozen image tower in ONNX Runtime."""

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from anyclass.backbone import Backbone, Part
from anyclass.backbone.onnx_runtime import onnx_runtime
from anyclass.errors import RequestError
from anyclass.files import atomic_write, cache_folder

LARGEST = 2_000_000_000
"""Maximum number of bytes of weights in one ONNX file."""

AT_ONCE = 4
"""Images that one thread computes at once: their activations stay in the cache of its core."""


class OnnxTrunk:
    """`Backbone.trunk` of uint8 pixels in ONNX Runtime.

    Each thread computes a few images by itself. Threads that share each layer wait for each other,
    and for cores on which images are read: 80 to 88 images of the starter a second on two cores,
    107 to 117 here. A single image is shared by all threads.
    """

    def __init__(self, clip: Backbone, part: Part) -> None:
        """Load the exported tower; export it if that has not been done.

        Raises:
            RequestError: ONNX Runtime is not installed, or the tower cannot be exported.
        """
        onnx_runtime()
        height, width = clip.preprocessing.size
        name = f"{clip.frozen_sha256(part)[:32]}-{part}-{height}x{width}.onnx"
        self._path = cache_folder("engines") / name
        self._normalise = clip.preprocessing.normalise
        session = _session(self._path, 1) if self._path.is_file() else None
        session = session or _session(_export(clip, part, self._path), 1)
        if session is None:
            raise RequestError(
                "this image encoder does not run in ONNX Runtime; use --engine torch"
            )
        self._session = session
        self._threads = ThreadPoolExecutor(torch.get_num_threads())

    def __call__(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B ..."]:
        """Normalise the pixels and compute the trunk."""
        if len(pixels) == 1:
            return self._run(self._shared, pixels)
        parts = pixels.split(AT_ONCE)
        return torch.cat(list(self._threads.map(lambda x: self._run(self._session, x), parts)))

    @cached_property
    def _shared(self) -> Any:
        """A session whose layers are shared by all threads."""
        several = torch.get_num_threads() > 1
        return (_session(self._path, torch.get_num_threads()) if several else None) or self._session

    def _run(self, session: Any, pixels: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"pixels": self._normalise(pixels).numpy()})[0])


def _session(path: Path, threads: int) -> Any:
    """Load an exported tower; None if the file is damaged or not supported."""
    onnxruntime = onnx_runtime()
    errors = onnxruntime.capi.onnxruntime_pybind11_state
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # silent: failures are handled below
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.InvalidProtobuf,
        errors.NotImplemented,
    ):
        return None


class _Trunk(nn.Module):
    """`Backbone.trunk` as a module, for the exporter."""

    def __init__(self, clip: Backbone, part: Part) -> None:
        super().__init__()
        self.visual = clip.visual
        self.clip = clip
        self.part = part

    def forward(self, pixels: Tensor) -> Tensor:
        return self.clip.trunk(pixels, self.part)


def _export(clip: Backbone, part: Part, path: Path) -> Path:
    """Export the trunk to an ONNX file and return its path.

    Raises:
        RequestError: it does not fit into one file, or the exporter does not support it.
    """
    if sum(parameter.nbytes for parameter in clip.visual.parameters()) > LARGEST:
        raise RequestError("this image encoder is too large for one ONNX file; use --engine torch")
    pixels = torch.zeros(2, 3, *clip.preprocessing.size)
    batch = {"pixels": {0: torch.export.Dim("batch", min=1, max=65536)}}
    try:
        program: Any = torch.onnx.export(
            _Trunk(clip, part).eval(),
            (pixels,),
            input_names=["pixels"],
            dynamic_shapes=batch,
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise RequestError(
            "this image encoder could not be exported; use --engine torch"
        ) from error
    with atomic_write(path) as draft:
        program.save(draft)
    return path
