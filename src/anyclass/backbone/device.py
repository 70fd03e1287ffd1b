"""Choice of the torch device."""

import torch

from anyclass.backbone.options import Precision
from anyclass.distributed.torchrun import local_device
from anyclass.errors import RequestError

NATIVE_BF16 = (8, 0)
"""Compute capability from which a GPU of NVIDIA computes in bfloat16 (Ampere; not T4 or V100)."""


def trains_in_bf16(device: torch.device, precision: Precision) -> bool:
    """Whether training uses bfloat16.

    An older GPU emulates bfloat16 slowly, and float16 would need its losses scaled: `auto` trains
    in float32 there.
    """
    if precision != "auto" or device.type != "cuda":
        return precision == "bf16"
    if torch.version.hip is not None:  # AMD's numbers are no compute capability
        return bool(torch.cuda.is_bf16_supported())
    return torch.cuda.get_device_capability(device) >= NATIVE_BF16


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
