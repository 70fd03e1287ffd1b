"""Choice of the torch device."""

import torch

from anyclass.errors import RequestError


def torch_device(name: str) -> str:
    """Check a device name; `auto` is a GPU if there is one.

    Raises:
        RequestError: there is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=name).item()  # `meta` can be created, but holds nothing
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:120]
        raise RequestError(f"--device {name} cannot be used here ({reason}); use cpu") from error
    return name
