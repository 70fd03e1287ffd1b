"""Several processes that compute together, as torchrun starts them, as forks of the test's own."""

import multiprocessing
import os
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch.distributed as dist


def together(count: int, folder: Path, work: Callable[[], Any]) -> list[Any]:
    """What `work()` returns in each of `count` processes that are connected by Gloo.

    An interpreter takes seconds to import what a fork has already.
    """
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in range(count)]
    place = folder / "rendezvous"
    children = [
        fork.Process(target=_child, args=(rank, count, place, work, pipes[rank][1]))
        for rank in range(count)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, none of ours
        for child in children:
            child.start()
    for _, sender in pipes:
        sender.close()
    try:
        answers = [receiver.recv() for receiver, _ in pipes]
    finally:
        for child in children:
            child.join(30)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


def _child(rank: int, count: int, place: Path, work: Callable[[], Any], sender: Connection) -> None:
    """Connect, work, send the result, and end without the clean-up of pytest."""
    try:
        dist.init_process_group("gloo", f"file://{place}", rank=rank, world_size=count)
        sender.send(work())
    except BaseException as error:  # to be raised in the test
        sender.send(error)
    sender.close()
    os._exit(0)
