"""The torch device that a name stands for."""

import torch

from anyclass.errors import RequestError


def torch_device(name: str) -> str:
    """The torch device that `name` stands for; auto is a GPU where there is one.

    Raises:
        RequestError: there is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as wrong:
        reason = str(wrong).splitlines()[0][:120]
        raise RequestError(f"--device {name} cannot be used here ({reason}); say cpu") from wrong
    return name
