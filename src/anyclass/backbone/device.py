"""Choice of the torch device."""

import torch

from anyclass.backbone.options import Precision
from anyclass.distributed.torchrun import local_device
from anyclass.errors import RequestError

NATIVE_BF16 = (8, 0)
"""Compute capability from which a GPU of NVIDIA computes in bfloat16 (Ampere; not T4 or V100)."""

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Type of numbers of each precision but `auto`."""


def training_dtype(device: torch.device, precision: Precision) -> torch.dtype:
    """Type of numbers in which the encoders compute while they are trained.

    An older GPU emulates bfloat16 slowly: `auto` is float32 there.
    """
    if precision != "auto":
        return DTYPES[precision]
    return torch.bfloat16 if device.type == "cuda" and _native_bf16(device) else torch.float32


def _native_bf16(gpu: torch.device) -> bool:
    if torch.version.hip is not None:  # AMD's numbers are no compute capability
        return bool(torch.cuda.is_bf16_supported())
    return torch.cuda.get_device_capability(gpu) >= NATIVE_BF16


def torch_device(name: str) -> str:
    """Check a device name; `auto` is a GPU if there is one, the own one of each process.

    Raises:
        RequestError: there is no such device here.
    """
    if name == "auto":
        return local_device("cuda" if torch.cuda.is_available() else "cpu")
    name = local_device(name)
    try:
        torch.ones(1, device=name).item()  # `meta` can be created, but holds nothing
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:120]
        raise RequestError(f"--device {name} cannot be used here ({reason}); use cpu") from error
    return name
