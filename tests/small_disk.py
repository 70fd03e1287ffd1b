"""A small disk of its own for one process, so that a test can fill it: a tmpfs in a namespace."""

import ctypes
import multiprocessing
import os
import shutil
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

NEW_NAMES = 0x00020000
NEW_USER = 0x10000000
"""Flags of unshare(2)."""


def on_small_disk(folder: Path, kilobytes: int, work: Callable[[], Any]) -> Any:
    """What `work()` returns in a fork of this process, to which `folder` is a disk of that size."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=_child, args=(folder, kilobytes, work, sender))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, none of ours
        child.start()
    sender.close()
    answer = receiver.recv()
    child.join(30)
    if isinstance(answer, NotMounted):
        pytest.skip(f"mounts are forbidden here: {answer}")
    if isinstance(answer, BaseException):
        raise answer
    return answer


class NotMounted(str):
    """Why there is no small disk."""


def fill(folder: Path, kilobytes: int) -> None:
    """Leave so much space on the disk of a folder."""
    filler = folder / "filler"
    filler.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free - 1024 * kilobytes
    filler.write_bytes(b"x" * max(0, free))


def _child(folder: Path, kilobytes: int, work: Callable[[], Any], sender: Connection) -> None:
    """Mount, work, send the result, and end without the clean-up of pytest."""
    try:
        sender.send(_mounted(folder, kilobytes) or work())
    except BaseException as error:  # to be raised in the test
        sender.send(error)
    sender.close()
    os._exit(0)


def _mounted(folder: Path, kilobytes: int) -> NotMounted | None:
    """Mount the disk for this process alone; why not, if it cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    user = os.geteuid()
    if libc.unshare(NEW_NAMES | (NEW_USER if user else 0)):
        return NotMounted(os.strerror(ctypes.get_errno()))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    private = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE
    size = f"size={kilobytes}k".encode()
    if libc.mount(b"none", b"/", None, private, None) or libc.mount(
        b"tmpfs", os.fsencode(folder), b"tmpfs", 0, size
    ):
        return NotMounted(os.strerror(ctypes.get_errno()))
    return None
