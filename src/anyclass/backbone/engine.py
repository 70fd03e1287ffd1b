"""Engines for fast inference of the frozen image tower.

On a CPU, a convolutional tower is several times faster in ONNX Runtime, and a transformer in
bfloat16 if the processor has AMX. An engine is used only if it agrees with PyTorch: cosine above
0.999 on synthetic images. `benchmarks/speed.py` measures them.
"""

from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from anyclass.backbone import Backbone, EngineName, Part
from anyclass.backbone.onnx_runtime import onnx_runtime
from anyclass.errors import RequestError
from anyclass.files import atomic_write, cache_folder

AGREEMENT = 0.999
"""Smallest cosine between the features of an engine and PyTorch's."""


LARGEST = 2_000_000_000
"""Maximum number of bytes of weights in one ONNX file."""


class Engine(NamedTuple):
    """A frozen trunk that is ready to run."""

    name: str
    """torch, bf16 or onnx; part of every cache key."""
    run: Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B ..."]]
    """Computes `Backbone.trunk` for one part."""


def engine(clip: Backbone, part: Part) -> Engine:
    """Create the engine `clip.engine`; for "auto" the fastest that agrees with PyTorch.

    Which one agrees is kept; it is then started at its first use.

    Raises:
        RequestError: the requested engine is not installed or does not agree.
    """
    if part == "all" or clip.device.type != "cpu":
        return _torch(clip, part)
    name = _fastest(clip) if clip.engine == "auto" else clip.engine
    fact = f"engine {clip.engine} {name} {part}"
    known = clip.facts.known(fact)
    if known in ENGINES:
        return Engine(known, _Later(clip, part, known))
    agreeing = _agreeing(clip, part, name)
    clip.facts.get(fact, lambda: agreeing.name)
    return agreeing


def _agreeing(clip: Backbone, part: Part, name: EngineName) -> Engine:
    """Create an engine; PyTorch if it does not agree and was not requested."""
    try:
        created = ENGINES[name](clip, part)
        if name == "torch" or _agrees(clip, part, created):
            return created
        raise RequestError(f"the {name} engine does not agree with PyTorch; use --engine torch")
    except RequestError:
        if clip.engine != "auto":
            raise
    return _torch(clip, part)


class _Later:
    """The trunk in an engine that is created when the first batch comes."""

    def __init__(self, clip: Backbone, part: Part, name: EngineName) -> None:
        self._clip = clip
        self._part = part
        self._name = name

    @cached_property
    def _engine(self) -> Engine:
        """The engine.

        Raises:
            RequestError: it does not agree any more.
        """
        created = _agreeing(self._clip, self._part, self._name)
        if created.name != self._name:
            raise RequestError(f"the {self._name} engine has stopped working: use --engine torch")
        return created

    def __call__(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B ..."]:
        """Compute the trunk."""
        return self._engine.run(pixels)


def _fastest(clip: Backbone) -> EngineName:
    """The fastest installed engine, according to measurements of convolutions and attention."""
    if not clip.batch_normed and has_amx():
        return "bf16"
    return "onnx" if find_spec("onnxruntime") and find_spec("onnxscript") else "torch"


def has_amx() -> bool:
    """Whether this processor has AMX, which makes bfloat16 twice as fast as float32.

    With vector instructions only (AVX-512 BF16), bfloat16 takes twice as long as float32.
    """
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


@torch.no_grad()
def _agrees(clip: Backbone, part: Part, candidate: Engine) -> bool:
    """Whether the engine's features agree with PyTorch's on three noise images."""
    noise = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, 3, *clip.preprocessing.size, generator=noise) * 2 - 1
    features = clip.tail(candidate.run(pixels), part)
    return bool(cosine_similarity(features, clip.images(pixels)).min() > AGREEMENT)


def _torch(clip: Backbone, part: Part) -> Engine:
    return Engine("torch", lambda pixels: clip.trunk(pixels.to(clip.device), part))


def _bf16(clip: Backbone, part: Part) -> Engine:
    def run(pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return clip.trunk(pixels, part).float()

    return Engine("bf16", run)


def _onnx(clip: Backbone, part: Part) -> Engine:
    onnx_runtime()
    height, width = clip.preprocessing.size
    name = f"{clip.frozen_sha256(part)[:32]}-{part}-{height}x{width}.onnx"
    path = cache_folder("engines") / name
    session = (_session(path) if path.is_file() else None) or _session(_export(clip, part, path))
    if session is None:
        raise RequestError("this image encoder does not run in ONNX Runtime; use --engine torch")

    def run(pixels: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])

    return Engine("onnx", run)


def _session(path: Path) -> Any:
    """Load an exported tower; None if the file is damaged or not supported."""
    onnxruntime = onnx_runtime()
    errors = onnxruntime.capi.onnxruntime_pybind11_state
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
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


ENGINES: dict[str, Callable[[Backbone, Part], Engine]] = {
    "torch": _torch,
    "bf16": _bf16,
    "onnx": _onnx,
}
"""Name of an engine -> creates it."""


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
