"""Engines for fast inference of the frozen image tower.

On a CPU, a convolutional tower is several times faster in ONNX Runtime, and a transformer in
bfloat16 if the processor computes in it natively. On a GPU "auto" is PyTorch in float32, and
bfloat16 if it is asked for. An engine is used only if it agrees with PyTorch: cosine above 0.999 on
synthetic images. `benchmarks/speed.py` measures them.
"""

from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import cosine_similarity

from anyclass.backbone import Backbone, EngineName, Part
from anyclass.backbone.onnx_trunk import OnnxTrunk
from anyclass.errors import RequestError

DEVICES = {"bf16": ("cpu", "cuda"), "onnx": ("cpu",)}
"""Engines that are not for every device, and the kinds of device they are for."""

AGREEMENT = 0.999
"""Smallest cosine between the features of an engine and PyTorch's."""


class Engine(NamedTuple):
    """A frozen trunk that is ready to run."""

    name: str
    """torch, bf16 or onnx; part of every cache key."""
    run: Callable[[UInt8[Tensor, "B 3 H W"]], Float[Tensor, "B ..."]]
    """Normalises pixels and computes `Backbone.trunk` for one part."""


def engine(clip: Backbone, part: Part) -> Engine:
    """Create the engine `clip.engine`; for "auto" the fastest that agrees with PyTorch.

    Which one agrees is kept; it is then started at its first use.

    Raises:
        RequestError: the requested engine is not installed or does not agree.
    """
    name = _fastest(clip) if clip.engine == "auto" else clip.engine
    if part == "all" or clip.device.type not in DEVICES.get(name, (clip.device.type,)):
        return _torch(clip, part)
    key = f"engine {clip.engine} {name} {part}"
    known = clip.metadata.known(key)
    if known in ENGINES:
        return Engine(known, _LazyTrunk(clip, part, known))
    agreeing = _agreeing(clip, part, name)
    clip.metadata.get(key, lambda: agreeing.name)
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


class _LazyTrunk:
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

    def __call__(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B ..."]:
        """Compute the trunk."""
        return self._engine.run(pixels)


def _fastest(clip: Backbone) -> EngineName:
    """The fastest installed engine, according to measurements of convolutions and attention."""
    if clip.device.type != "cpu":
        return "torch"
    if not clip.batch_normed and multiplies_bf16():
        return "bf16"
    return "onnx" if find_spec("onnxruntime") and find_spec("onnxscript") else "torch"


def has_amx() -> bool:
    """Whether this processor has AMX, which makes bfloat16 twice as fast as float32."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def multiplies_bf16() -> bool:
    """Whether products of matrices are twice as fast in bfloat16 as in float32.

    So they are with AMX, and on AMD's processors with AVX-512 BF16, where convolutions gain
    nothing. On Intel's with AVX-512 BF16 alone both take the same time.
    """
    found = torch.cpu.get_capabilities()
    amd = str(found.get("cpu_name", "")).startswith("AMD")
    return has_amx() or bool(amd and found.get("avx512_bf16"))


@torch.no_grad()
def _agrees(clip: Backbone, part: Part, candidate: Engine) -> bool:
    """Whether the engine's features agree with PyTorch's on three noise images."""
    noise = torch.Generator().manual_seed(0)
    shape = (3, 3, *clip.preprocessing.size)
    pixels = torch.randint(256, shape, generator=noise, dtype=torch.uint8).to(clip.device)
    features = clip.tail(candidate.run(pixels), part)
    wanted = clip.images(clip.preprocessing.normalise(pixels))
    return bool(cosine_similarity(features, wanted).min() > AGREEMENT)


def _torch(clip: Backbone, part: Part) -> Engine:
    def run(pixels: Tensor) -> Tensor:
        return clip.trunk(clip.preprocessing.normalise(pixels.to(clip.device)), part)

    return Engine("torch", run)


def _bf16(clip: Backbone, part: Part) -> Engine:
    def run(pixels: Tensor) -> Tensor:
        with torch.autocast(clip.device.type, dtype=torch.bfloat16):
            return clip.trunk(clip.preprocessing.normalise(pixels.to(clip.device)), part).float()

    return Engine("bf16", run)


def _onnx(clip: Backbone, part: Part) -> Engine:
    return Engine("onnx", OnnxTrunk(clip, part))


ENGINES: dict[str, Callable[[Backbone, Part], Engine]] = {
    "torch": _torch,
    "bf16": _bf16,
    "onnx": _onnx,
}
"""Name of an engine -> creates it."""
