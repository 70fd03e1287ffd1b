"""`demo`: emoji pictures, the starter model and LatteCLIP, from nothing to a report."""

from pathlib import Path
from typing import Any

from anyclass.emoji import PICTURES, draw
from anyclass.files import cache_folder
from anyclass.methods import METHODS
from anyclass.run.fitting import fit


def demo(out: Path = Path("demo-run"), seed: int = 0) -> dict[str, Any]:
    """Draw emoji, label them by class names alone, score the labels and leave a run folder.

    Args:
        out: the run folder; an earlier demo there is replaced.
        seed: of everything random.

    Returns:
        The content of `metrics.json`, with `out` and `images`.
    """
    pictures = draw(cache_folder("demo", "emoji"))
    method = METHODS["latteclip"](tune="head", domain="emoji")
    names = tuple(PICTURES)
    metrics = fit(method, out, True, images=pictures, classes=names, labels="folders", seed=seed)
    return metrics | {"out": str(out), "images": str(pictures)}
