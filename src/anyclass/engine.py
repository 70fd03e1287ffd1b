"""The frozen image tower, run as fast as this machine allows.

On a CPU a convolutional tower runs several times faster in ONNX Runtime, and a transformer in
bfloat16 where the processor computes in it. An engine is used only if it agrees with PyTorch:
cosine above 0.999 on synthetic pictures. `benchmarks/speed.py` measures them.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from anyclass.backbone import Backbone, EngineName, Part
from anyclass.errors import RequestError
from anyclass.files import cache_folder, whole

AGREEMENT = 0.999
"""Least cosine between the features of an engine and PyTorch's."""


class Engine(NamedTuple):
    """A frozen trunk, ready to run."""

    name: str
    """torch, bf16 or onnx; part of every cache key."""
    run: Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B ..."]]
    """`Backbone.trunk` for one part."""


def engine(clip: Backbone, part: Part) -> Engine:
    """The engine that `clip.engine` names; for "auto" the fastest that agrees with PyTorch.

    Raises:
        RequestError: the engine asked for is not installed or does not agree.
    """
    if part == "all" or clip.device.type != "cpu":
        return Engine("torch", lambda pixels: clip.trunk(pixels, part))
    name = _fastest(clip) if clip.engine == "auto" else clip.engine
    made = {"torch": _torch, "bf16": _bf16, "onnx": _onnx}[name](clip, part)
    if name == "torch" or _agrees(clip, part, made):
        return made
    if clip.engine == "auto":
        return _torch(clip, part)
    raise RequestError(f"the {name} engine does not agree with PyTorch; use --engine torch")


def _fastest(clip: Backbone) -> EngineName:
    """The fastest engine that is installed, as measured for convolutions and for attention."""
    convolutional = any(
        isinstance(module, nn.BatchNorm2d) for module in clip.model.visual.modules()
    )
    if not convolutional and torch.cpu.get_capabilities().get("avx512_bf16"):
        return "bf16"
    return "onnx" if find_spec("onnxruntime") and find_spec("onnxscript") else "torch"


@torch.no_grad()
def _agrees(clip: Backbone, part: Part, made: Engine) -> bool:
    """Whether features by this engine are those of PyTorch, on three noisy pictures."""
    noise = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, 3, *clip.preprocessing.size, generator=noise) * 2 - 1
    features = clip.tail(made.run(pixels), part)
    return bool(cosine_similarity(features, clip.images(pixels)).min() > AGREEMENT)


def _torch(clip: Backbone, part: Part) -> Engine:
    return Engine("torch", lambda pixels: clip.trunk(pixels, part))


def _bf16(clip: Backbone, part: Part) -> Engine:
    def run(pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return clip.trunk(pixels, part).float()

    return Engine("bf16", run)


def _onnx(clip: Backbone, part: Part) -> Engine:
    if not find_spec("onnxruntime") or not find_spec("onnxscript"):
        raise RequestError("the onnx engine is not installed: pip install 'anyclass[onnx]'")
    import onnxruntime

    path = cache_folder("engines") / f"{clip.frozen_sha256(part)[:32]}-{part}.onnx"
    if not path.is_file():
        _export(clip, part, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(pixels: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])

    return Engine("onnx", run)


class _Trunk(nn.Module):
    """`Backbone.trunk` as a module, for the exporter."""

    def __init__(self, clip: Backbone, part: Part) -> None:
        super().__init__()
        self.visual = clip.model.visual
        self.clip, self.part = clip, part

    def forward(self, pixels: Tensor) -> Tensor:
        return self.clip.trunk(pixels, self.part)


def _export(clip: Backbone, part: Part, path: Path) -> None:
    pixels = torch.zeros(2, 3, *clip.preprocessing.size)
    batch = {"pixels": {0: torch.export.Dim("batch", min=1, max=65536)}}
    program = torch.onnx.export(
        _Trunk(clip, part).eval(),
        (pixels,),
        input_names=["pixels"],
        dynamic_shapes=batch,
        dynamo=True,
        verbose=False,
    )
    if program is None:  # pragma: no cover (what its signature allows)
        raise RequestError("this tower could not be exported; use --engine torch")
    with whole(path) as draft:
        program.save(draft)
