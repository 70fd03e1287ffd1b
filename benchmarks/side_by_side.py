"""Two ways to compute the same, timed in turns in one process."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


class Comparison(NamedTuple):
    """Seconds of a straightforward implementation and of anyclass, one pair for each turn."""

    plain: list[float]
    here: list[float]
    bound: float
    """Seconds of anyclass if it did nothing but products of matrices at the best rate."""

    def row(self) -> dict[str, float]:
        """Median seconds of both, and how many times faster: median, least and most."""
        times = [plain / here for plain, here in zip(self.plain, self.here, strict=True)]
        return {
            "seconds_plain": round(statistics.median(self.plain), 3),
            "seconds_here": round(statistics.median(self.here), 3),
            "seconds_bound": round(self.bound, 3),
            "times_faster": round(statistics.median(times), 2),
            "least": round(min(times), 2),
            "most": round(max(times), 2),
        }


def side_by_side(
    plain: Callable[[], Any],
    here: Callable[[], Any],
    repeat: int = 3,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Comparison:
    """Run both once to warm up, then in turns.

    Args:
        plain: the straightforward implementation.
        here: that of anyclass.
        repeat: number of turns.
        dtype: precision in which `here` multiplies matrices.
        device: torch device.
    """
    plain()
    with FlopCounterMode(display=False) as counter:
        here()
    best = multiplied_per_second(dtype, device)
    found = Comparison([], [], counter.get_total_flops() / best)
    for _ in range(repeat):
        found.plain.append(seconds(plain))
        found.here.append(seconds(here))
    return found


def seconds(run: Callable[[], Any]) -> float:
    """Seconds of one run, to the end of what it started on a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def multiplied_per_second(
    dtype: torch.dtype = torch.float32, device: str = "cpu", side: int = 2048
) -> float:
    """Floating-point operations per second of a product of matrices, the best of five."""
    a = torch.rand(side, side, dtype=dtype, device=device)
    return 2 * side**3 / min(seconds(lambda: a @ a) for _ in range(5))


def step(loss: Callable[[], Tensor], parameters: Sequence[Tensor]) -> Callable[[], None]:
    """A training step: forward, backward and SGD."""
    sgd = torch.optim.SGD(parameters, 0.001, 0.9)

    def run() -> None:
        sgd.zero_grad()
        loss().backward(inputs=parameters)
        sgd.step()

    return run


def main(
    about: str,
    measure: Callable[[int, str, str], list[dict[str, Any]]],
    results: Path,
    batch: int,
    model: str,
) -> None:
    """Measure with the options of the command line, print, write the results.

    Rows of other models, batches and devices stay in the file.

    Args:
        about: docstring of the benchmark.
        measure: gives rows for a batch size, a torch device and a model.
        results: file of the rows.
        batch: default of the batch size.
        model: default of the model.
    """
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("--batch", type=int, default=batch, help="batch size")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--model", default=model, help="open_clip architecture")
    asked = parser.parse_args()
    rows = measure(asked.batch, asked.device, asked.model)
    print(*map(json.dumps, rows), sep="\n")
    earlier = json.loads(results.read_text()) if results.is_file() else []
    measured = list(map(_key, rows))
    kept = [row for row in earlier if _key(row) not in measured]
    results.write_text(json.dumps(kept + rows, indent=1) + "\n")


def _key(row: dict[str, Any]) -> list[Any]:
    """What tells rows of results apart."""
    return [row.get(name) for name in ("what", "model", "batch", "device")]
