"""Bulk work on Ray Data: actors hold the model, each task is a part, a killed one is repeated.

Ray is imported here and nowhere else, with its usage statistics switched off. A cluster that is
started here has no dashboard, and answers only who knows a token that is drawn for this run.
"""

import json
import logging
import os
import secrets
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, NamedTuple

from anyclass.bulk import Bulk
from anyclass.bulk.results import Tally
from anyclass.bulk.sources import Part
from anyclass.bulk.worker import Task, Worker
from anyclass.data.image import one_line
from anyclass.errors import AnyclassError, RequestError
from anyclass.files import temporary_folder
from anyclass.run.progress import Progress

BLOCKS = 10_000
"""Maximum number of tasks that Ray plans at once; each then has several parts."""

MEMORY = 200 * 2**20
"""Bytes of Ray's object store on this machine: tasks and counts go through it, no images."""

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Read by Ray when it is imported: no usage statistics, no lines of its own on the screen."""


def compute(
    task: Task, parts: Sequence[Part], bulk: Bulk, device: str, log: Progress
) -> Iterator[tuple[int, Tally]]:
    """Let workers write parts; yields the number of each, and what is in it, as they finish.

    Args:
        task: what all workers know.
        parts: the parts to compute.
        bulk: address and workers.
        device: device of a worker: a GPU each, if it may be one and there are some.
        log: gets warnings.

    Raises:
        RequestError: Ray is not installed, does not answer, or a worker says that the request is
            wrong.
        AnyclassError: a part cannot be computed.
    """
    ray = _ray(bulk)
    by_number = {part.number: part for part in parts}
    # Ray tells of killed workers on standard output, where results go
    with redirect_stdout(sys.stderr), _connected(ray, bulk) as resources:
        try:
            for row in _rows(ray, task, parts, bulk, _Size.of(resources, bulk, device)):
                for sentence in json.loads(row["said"]):
                    log.say(sentence)
                if row["error"]:
                    raise _error(row, by_number[row["part"]])
                yield row["part"], Tally.of(row["tally"])
        except ray.exceptions.RayError as error:
            raise AnyclassError(
                f"Ray failed: {one_line(error)}. Run the same command again: parts are kept"
            ) from error


class _Size(NamedTuple):
    """What a cluster has for workers."""

    workers: int
    """Number of workers."""
    gpus: int
    """GPUs of each."""

    @classmethod
    def of(cls, resources: Mapping[str, float], bulk: Bulk, device: str) -> "_Size":
        """A GPU each, if the device may be one and there are some; else processor cores."""
        gpus = int(resources.get("GPU", 0)) if device == "auto" or "cuda" in device else 0
        most = gpus or int(resources.get("CPU", 1)) // bulk.cpus
        return cls(bulk.workers or max(1, most), min(gpus, 1))


def _rows(
    ray: Any, task: Task, parts: Sequence[Part], bulk: Bulk, size: _Size
) -> Iterator[dict[str, Any]]:
    """Rows of `Worker`, as they come, from actors that Ray starts anew when they are killed."""
    attempts = ray.remote(num_cpus=0, max_restarts=-1)(_Attempts).remote()
    items = [{"part": json.dumps(part)} for part in parts]
    pool = ray.data.ActorPoolStrategy(
        size=min(size.workers, len(parts)), max_tasks_in_flight_per_actor=1
    )
    rows = ray.data.from_items(items, override_num_blocks=min(len(parts), BLOCKS)).map_batches(
        _Actor,
        batch_size=1,
        compute=pool,
        fn_constructor_args=[task, attempts],
        num_cpus=bulk.cpus,
        num_gpus=size.gpus or None,
    )
    yield from rows.iter_rows()


def _error(row: Mapping[str, Any], part: Part) -> AnyclassError:
    """The error of a worker, with its part."""
    kind = RequestError if row["wrong"] else AnyclassError
    return kind(
        f"{row['error']}\n(part {part.number}: {part.images}; other parts are kept, and the same "
        "command goes on from there)"
    )


class _Attempts:
    """Counts how often each part was begun."""

    def __init__(self) -> None:
        self._count = Counter[int]()

    def begin(self, part: int) -> int:
        """Count, and say how often."""
        self._count[part] += 1
        return self._count[part]


class _Actor(Worker):
    """A worker as an actor of Ray."""

    def __init__(self, task: Task, attempts: Any) -> None:
        import ray

        def begin(part: int) -> int:
            return int(ray.get(attempts.begin.remote(part)))

        super().__init__(task, begin)


def _ray(bulk: Bulk) -> Any:
    """Import Ray.

    Raises:
        RequestError: it is not installed; or it was imported before, without a token.
    """
    os.environ.update(_ENVIRONMENT)
    protected = os.environ.get("RAY_AUTH_MODE") == "token"
    if bulk.address is None and not protected and "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it once, when it is imported
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        protected = True
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RequestError(
            f"--on ray needs the package {error.name}: pip install 'anyclass[ray]'"
        ) from error
    if bulk.address is None and not (protected or ray.is_initialized()):
        raise RequestError(
            "Ray was imported before, so that no token can protect a cluster: call ray.init first, "
            "which --on ray then uses, or set RAY_AUTH_MODE=token before Ray is imported"
        )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return ray


@contextmanager
def _connected(ray: Any, bulk: Bulk) -> Iterator[dict[str, float]]:
    """Connect to a cluster, or start one; yields what it has."""
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if ray.is_initialized():  # by the program that called us
        yield ray.cluster_resources()
        return
    if bulk.address is None:
        with _started(ray, bulk, quiet):
            yield ray.cluster_resources()
        return
    try:
        ray.init(address=bulk.address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RequestError(
            f"--address {bulk.address}: no Ray cluster can be reached there ({one_line(error)})"
        ) from error
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


@contextmanager
def _started(ray: Any, bulk: Bulk, quiet: dict[str, Any]) -> Iterator[None]:
    """A cluster on this machine: no dashboard, and each call needs the token of this process."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with temporary_folder("anyclass-ray-") as folder:
        try:
            try:
                ray.init(
                    address="local",
                    num_cpus=max(here or 1, (bulk.workers or 1) * bulk.cpus),
                    include_dashboard=False,
                    object_store_memory=MEMORY,
                    _temp_dir=str(folder / "ray"),  # Ray opens it to everybody, not its parent
                    **quiet,
                )
            except (RuntimeError, ConnectionError, ValueError) as error:
                why = one_line(error)
                raise AnyclassError(f"Ray does not start on this machine: {why}") from error
            yield
        finally:
            ray.shutdown()
