"""The processes that compute together: who they are, and what the first one does for all.

They share one cache and one run folder. Everything but training is done by the first
process; the others wait for it. With one process nothing here has an effect.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from anyclass.errors import ProcessLost, out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")
"""What JSON can hold."""


@dataclass
class _State:
    """What this process does with the others."""

    alone: bool = False
    """Whether it computes by itself for a while."""


_state = _State()


def world() -> int:
    """W, number of processes that compute together now."""
    dist = _group()
    return 1 if dist is None or _state.alone else int(dist.get_world_size())


def rank() -> int:
    """Number of this process; 0 is the first, and the only one without torchrun."""
    dist = _group()
    return 0 if dist is None else int(dist.get_rank())


@contextmanager
def alone() -> Iterator[None]:
    """Compute without the other processes: nothing inside waits for them."""
    before = _state.alone
    _state.alone = True
    try:
        yield
    finally:
        _state.alone = before


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process run the block before the others, who then find what it has written."""
    if world() == 1:
        yield
        return
    if rank():
        wait()
    with alone():
        yield
    if not rank():
        wait()


def from_first(make: Callable[[], Value]) -> Value:
    """What `make()` returns in the first process, sent to all others as JSON."""
    if world() == 1:
        return make()
    import torch

    text = b""
    if not rank():
        with alone():
            text = json.dumps(make()).encode()
    size = torch.tensor(len(text))
    broadcast(size)
    data = torch.frombuffer(bytearray(text or bytes(int(size))), dtype=torch.uint8)
    broadcast(data)
    value: Value = json.loads(data.numpy().tobytes())
    return value


def wait() -> None:
    """Wait until all processes are here."""
    if world() > 1:
        import torch

        add_up(torch.zeros(1))


def broadcast(tensor: "Tensor") -> None:
    """Replace a tensor by that of the first process."""
    if world() > 1:
        with _lost():
            _group().broadcast(tensor, src=0)


def add_up(tensor: "Tensor") -> None:
    """Replace a tensor by its sum over the processes."""
    if world() > 1:
        with _lost():
            _group().all_reduce(tensor)


def agreed(value: Any) -> bool:
    """Whether a value, of the kind that JSON can hold, is the same in all processes."""
    if world() == 1:
        return True
    import torch

    text = json.dumps(value, sort_keys=True, default=str)
    digest = torch.tensor(list(hashlib.sha256(text.encode()).digest()))
    first = digest.clone()
    broadcast(first)
    different = torch.tensor(int(not torch.equal(digest, first)))
    add_up(different)
    return not different


def _group() -> Any:
    """`torch.distributed`, if it has connected processes; else None, and torch is not loaded."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


@contextmanager
def _lost() -> Iterator[None]:
    """Turn PyTorch's error of a lost connection into `ProcessLost`."""
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise ProcessLost(
            "another process of this training has ended. Run the same command again: it goes on "
            "from the features and steps so far"
        ) from error
