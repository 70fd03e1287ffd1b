"""Time of a training step of the starter's last stage, compared with timm's own modules.

    python benchmarks/tail_step.py [--views 256] [--threads 2]

Plain: the modules in sequence, with separate normalisation. Here: frozen normalisation folded into
the convolutions (`backbone/folding.py`). bf16: the same with `--precision bf16`. Forward and
backward passes alternate between the variants; the medians are compared.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.backbone.engine import has_amx

RESULTS = Path(__file__).parent / "results" / "tail_step.json"


def seconds(features: Callable[[], Tensor], parameters: Sequence[Tensor]) -> float:
    """Time of forward and backward pass."""
    start = time.perf_counter()
    torch.autograd.grad(features().square().sum(), parameters)
    return time.perf_counter() - start


def main() -> None:
    """Measure all variants ten times, alternately, after one warm-up."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--views", type=int, default=256, help="batch size")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    clip = Backbone.load("starter")
    rounded = Backbone.load("starter", precision="bf16")
    tower = clip.model.visual.trunk
    parameters = list(clip.last_stage().values())
    of_rounded = list(rounded.last_stage().values())
    with torch.no_grad():
        hidden = clip.trunk(torch.zeros(1, 3, *clip.preprocessing.size), "tail")
    hidden = torch.rand(asked.views, *hidden.shape[1:])

    def plain() -> Tensor:
        maps = tower.bn2(tower.conv_head(tower.blocks[-1](hidden)))
        pooled: Tensor = tower.forward_head(maps)
        return pooled

    def here() -> Tensor:
        return clip.pooled(hidden, "tail")

    def bf16() -> Tensor:
        return rounded.pooled(hidden, "tail")

    with torch.no_grad():
        assert torch.allclose(plain(), here(), rtol=1e-3, atol=1e-4)
    ways = {"plain": (plain, parameters), "here": (here, parameters), "bf16": (bf16, of_rounded)}
    turns = []
    for _ in range(11):
        turns.append([seconds(*way) for way in ways.values()])
    middle = list(map(statistics.median, zip(*turns[1:], strict=True)))
    row = {"views": asked.views, "threads": asked.threads, "amx": has_amx()}
    row |= {name: round(value, 3) for name, value in zip(ways, middle, strict=True)}
    row |= {"times_faster": round(middle[0] / middle[1], 2)}
    row |= {"bf16_times_faster": round(middle[1] / middle[2], 2)}
    print(json.dumps(row))
    RESULTS.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
