"""Training by several processes, started by torchrun: each encodes its part of every batch.

L is the loss of the whole batch. Each of the W processes computes it, from features that `gather`
collects from all. Two rules then give every parameter exactly dL/dtheta (`g_r`: what reaches it
through the rows of process r; the g_r of all rows add up to g):

    gather, backwards: W times the gradient of the own rows
    a parameter's gradient: the mean over the processes

    encoder of the own rows:          mean_r W g_r = sum_r g_r = g
    head, which sees all rows:        mean_r g = g
    a parameter of both:              the sum of both

Towers are trained in evaluation mode (no dropout, constant statistics of batch normalisation), so
the feature of a row does not depend on the rows beside it.

The processes share one cache and one run folder. What is no training is done by the first process;
the others wait for it. Without torchrun there is one process, and nothing here does anything.
"""

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from anyclass.errors import ProcessLost, RequestError, out_of_memory
from anyclass.files import storage

LONGEST = timedelta(days=30)
"""Longest wait for the first process, which may embed or caption for days. It is no limit for a
process that died: torchrun ends the others at once."""

Value = TypeVar("Value")
"""What JSON can hold."""


@dataclass
class _State:
    """What this process does with the others."""

    alone: bool = False
    """Whether it computes by itself for a while."""
    speaks: bool | None = None
    """Whether it was the first to fail; None: it has not failed."""


_state = _State()


def launched() -> int:
    """Number of processes that torchrun has started; 1 without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 1
    return int(os.environ.get("WORLD_SIZE", "1"))


def world() -> int:
    """W, number of processes that compute together now."""
    return dist.get_world_size() if _grouped() and not _state.alone else 1


def rank() -> int:
    """Number of this process; 0 is the first, and the only one without torchrun."""
    return dist.get_rank() if _grouped() else 0


def local_device(name: str) -> str:
    """The GPU of this process, if `name` is "cuda" and there are several processes.

    Raises:
        RequestError: there are fewer GPUs in this machine than processes, or one is for all.
    """
    if launched() == 1 or not name.startswith("cuda"):
        return name
    if name != "cuda":
        raise RequestError(f"--device {name} is one GPU for all processes: leave it out")
    here = int(os.environ.get("LOCAL_RANK", "0"))
    if here >= torch.cuda.device_count():
        raise RequestError(
            f"{os.environ.get('LOCAL_WORLD_SIZE')} processes and {torch.cuda.device_count()} GPUs "
            f"in {socket.gethostname()}: start a process for each GPU (--nproc-per-node gpu)"
        )
    return f"cuda:{here}"


@contextmanager
def group(device: str) -> Iterator[None]:
    """Connect the processes of torchrun; without it, do nothing.

    Args:
        device: torch device of this process. Tensors on a GPU are sent by NCCL, others by Gloo.
    """
    if launched() == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(backend, timeout=LONGEST)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ProcessLost(f"the processes of torchrun cannot connect: {reason:.200}") from error
    try:
        yield
    except BaseException as error:
        if not isinstance(error, ProcessLost):
            first_to_fail()  # before the others notice that this one is gone
        raise  # the group ends with the process: NCCL could wait for one that is dead
    dist.destroy_process_group()


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
    text = b""
    if not rank():
        with alone():
            text = json.dumps(make()).encode()
    size = torch.tensor(len(text))
    broadcast(size)
    data = torch.tensor(list(text or bytes(int(size))), dtype=torch.uint8)
    broadcast(data)
    value: Value = json.loads(data.numpy().tobytes())
    return value


def wait() -> None:
    """Wait until all processes are here."""
    _all_reduce(torch.zeros(1))


def broadcast(tensor: Tensor) -> None:
    """Replace a tensor by that of the first process."""
    if world() > 1:
        with _lost():
            dist.broadcast(tensor, src=0)


def agreed(value: Any) -> bool:
    """Whether a value, of the kind that JSON can hold, is the same in all processes."""
    text = json.dumps(value, sort_keys=True, default=str)
    digest = torch.tensor(list(hashlib.sha256(text.encode()).digest()))
    first = digest.clone()
    broadcast(first)
    different = torch.tensor(int(not torch.equal(digest, first)))
    _all_reduce(different)
    return not different


def check_shared(folder: Path) -> None:
    """Require that all processes see the same folder.

    Raises:
        RequestError: a process does not; the message names its machine.
    """
    if world() == 1:
        return
    mark = folder / f".anyclass-seen-{from_first(lambda: uuid4().hex)}"
    if not rank():
        with storage(mark):
            mark.touch()
    wait()
    blind = torch.zeros(world(), dtype=torch.long)
    blind[rank()] = 0 if mark.is_file() else 1
    _all_reduce(blind)
    if not rank():
        mark.unlink()
    if blind.any():
        raise RequestError(
            f"process {int(blind.argmax())} does not see what the first one writes into {folder}: "
            "the machines need one file system for the run folder (--out) and the cache "
            "(ANYCLASS_CACHE)"
        )


def own_part(rows: int) -> slice:
    """Which of so many rows this process encodes: all if there are fewer than processes."""
    count = world()
    if count == 1 or rows < count:
        return slice(0, rows)
    return slice(rows * rank() // count, rows * (rank() + 1) // count)


def gather(own: Shaped[Tensor, "n ..."], rows: int, views: int = 1) -> Shaped[Tensor, "N ..."]:
    """All rows from the `own_part` of each process, with gradient.

    Args:
        own: rows of this process; those of one view stand together.
        rows: number of rows of a view in all processes.
        views: number of views.
    """
    if world() == 1 or rows < world():
        return own
    whole: Tensor = _Gather.apply(own.unflatten(0, (views, -1)), rows)
    return whole.flatten(0, 1)


def divided(encode: Callable[[Tensor], Tensor], x: Shaped[Tensor, "N ..."]) -> Tensor:
    """Compute `encode(x)`, each process a part of the rows."""
    return gather(encode(x[own_part(len(x))]), len(x))


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over the processes; none that is none in all of them."""
    if world() == 1:
        return
    trained = list(parameters)
    used = torch.tensor([p.grad is not None for p in trained], dtype=torch.long)
    _all_reduce(used)
    for parameter, count in zip(trained, used.tolist(), strict=True):
        if not count:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        total = parameter.grad.contiguous()  # weights of convolutions have their channels last
        _all_reduce(total)
        parameter.grad.copy_(total / world())


def first_to_fail() -> bool:
    """Whether no other process has failed before this one: one alone says why.

    Processes without torchrun always say it.
    """
    if _state.speaks is None:
        _state.speaks = launched() == 1 or _claimed()
    return _state.speaks


def _claimed() -> bool:
    """Whether this process is the first to take a number from the store of torchrun."""
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]  # documented
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=10),
        )
        return store.add(f"anyclass/{run}/{attempt}/failed", 1) == 1
    except (RuntimeError, KeyError):  # the store is gone: better twice than never
        return True


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def _all_reduce(tensor: Tensor) -> None:
    """Replace a tensor by its sum over the processes."""
    if world() > 1:
        with _lost():
            dist.all_reduce(tensor)


@contextmanager
def _lost() -> Iterator[None]:
    """Say that another process is gone where PyTorch says that a connection is."""
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise ProcessLost(
            "another process of this training has ended. Run the same command again: it goes on "
            "from the features and steps so far"
        ) from error


class _Gather(torch.autograd.Function):
    """Rows of all processes from those of each."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, rows: int) -> Tensor:
        """Add up tensors that are zero but for the own rows: parts may differ in size."""
        ctx.part = own_part(rows)
        ctx.world = world()
        whole = own.new_zeros(own.shape[0], rows, *own.shape[2:])
        whole[:, ctx.part] = own
        _all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """W times the gradient of the own rows; the loss of each process is that of all rows."""
        return ctx.world * gradients[0][:, ctx.part], None
