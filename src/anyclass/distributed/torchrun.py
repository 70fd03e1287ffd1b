"""Processes that torchrun has started: their connection, devices, folders and errors."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from anyclass.distributed import launched
from anyclass.distributed.processes import add_up, from_first, rank, wait, world
from anyclass.errors import ProcessLost, RequestError
from anyclass.files import storage, temporary_name

LONGEST = timedelta(days=30)
"""Longest wait for the first process, which may embed or caption for days. It is no limit for a
process that died: torchrun ends the others at once."""


CONNECTING = timedelta(minutes=5)
"""Longest wait for the store of torchrun."""


@dataclass
class _State:
    """What this process has done so far."""

    failed_first: bool | None = None
    """Whether it was the first to fail; None: it has not failed."""
    groups: int = 0
    """How often it was connected to the others."""


_state = _State()


def local_device(name: str) -> str:
    """The GPU of this process, if `name` is "cuda" and there are several processes.

    Raises:
        RequestError: there are fewer GPUs in this machine than processes, or one is for all.
    """
    if launched() == 1 or not name.startswith("cuda"):
        return name
    if name != "cuda":
        raise RequestError(f"--device {name} is one GPU for all processes: leave it out")
    import torch

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
    import torch
    from torch import distributed as dist

    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    _state.groups += 1
    try:
        store = _store(_state.groups)
        store.set_timeout(LONGEST)
        number = int(os.environ["RANK"])
        dist.init_process_group(
            backend, store=store, rank=number, world_size=launched(), timeout=LONGEST
        )
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


def check_shared(folder: Path) -> None:
    """Require that all processes see the same folder.

    Raises:
        RequestError: a process does not; the message names its machine.
    """
    if world() == 1:
        return
    import torch

    mark = folder / from_first(lambda: temporary_name(folder / "seen", "").name)
    if not rank():
        with storage(mark):
            mark.touch()
    wait()
    unseen = torch.zeros(world(), dtype=torch.long)
    unseen[rank()] = 0 if mark.is_file() else 1
    add_up(unseen)
    if not rank():
        mark.unlink()
    if unseen.any():
        raise RequestError(
            f"process {int(unseen.argmax())} does not see what the first one writes into {folder}: "
            "the machines need one file system for the run folder (--out) and the cache "
            "(ANYCLASS_CACHE)"
        )


def first_to_fail() -> bool:
    """Whether no other process has failed before this one: only the first reports its error.

    A process without torchrun always reports it.
    """
    if _state.failed_first is None:
        _state.failed_first = launched() == 1 or _claimed()
    return _state.failed_first


def _claimed() -> bool:
    """Whether this process is the first to take a number from the store of torchrun."""
    try:
        return bool(_store().add("failed", 1) == 1)
    except (RuntimeError, KeyError):  # the store is gone: report it twice rather than never
        return True


def _store(*key: int) -> Any:
    """Store of torchrun, with keys of this start of the processes (`--max-restarts`) and of `key`.

    PyTorch's own keys are the same at each start: processes would look for those of the last one.
    """
    from torch import distributed as dist

    address = os.environ["MASTER_ADDR"]
    start = [os.environ[f"TORCHELASTIC_{name}"] for name in ("RUN_ID", "RESTART_COUNT")]
    store = _connected(address, int(os.environ["MASTER_PORT"]))
    prefix = "/".join(["anyclass", *start, *map(str, key)])
    return dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]


@cache
def _connected(address: str, port: int) -> Any:
    """Connect to the store, which torchrun hosts; if it does not, the first process."""
    from torch import distributed as dist

    hosts = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and os.environ["RANK"] == "0"
    return dist.TCPStore(  # type: ignore[attr-defined]
        address, port, is_master=hosts, wait_for_workers=False, timeout=CONNECTING
    )
