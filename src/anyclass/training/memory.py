"""A training step that does not fit into memory ends with an error, before the system ends it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

SHARE = 0.8
"""Share of the available memory for what a step keeps; the rest is for gradients and copies."""

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


@contextmanager
def within_memory() -> Iterator[None]:
    """Check that what a loss keeps for its gradients fits into the memory of the machine.

    Linux kills a process that uses more memory than there is, without a word. A GPU raises an error
    by itself.

    Raises:
        MemoryError: it does not fit.
    """
    left = available_memory()
    if left is None:
        yield
        return
    left = int(SHARE * left)
    known: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        nonlocal left
        storage = tensor.untyped_storage()
        if tensor.device.type == "cpu" and storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            left -= storage.nbytes()
        if left < 0:
            raise MemoryError("the activations of a step do not fit")
        return tensor.detach()  # an output that keeps itself would never be freed

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield


def available_memory() -> int | None:
    """Bytes that this process can still take, also in a container; None if the system is silent."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        words = _MEMINFO.read_text("ascii").split()
        found.append(1024 * int(words[words.index("MemAvailable:") + 1]))
    with suppress(OSError, ValueError):  # "max" is no limit
        limit, used = (int((_GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        found.append(limit - used)
    return min(found, default=None)
