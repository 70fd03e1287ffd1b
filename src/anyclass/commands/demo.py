"""`demo`: emoji images, the starter model and open-world, from nothing to a report."""

from pathlib import Path
from typing import Any

from anyclass.commands.emoji import IMAGES, draw
from anyclass.commands.fit import fit
from anyclass.files import MANIFEST, cache_folder, read_json
from anyclass.methods import METHODS
from anyclass.run.folder import is_run


def demo(out: Path = Path("demo-run"), seed: int = 0) -> dict[str, Any]:
    """Draw emoji, classify them by class names alone and write a run folder with scores.

    Args:
        out: run folder to write; a finished demo there is replaced.
        seed: random seed.

    Returns:
        The content of `metrics.json`, with `out` and `images`.
    """
    images = draw(cache_folder("demo", "emoji"))
    method = METHODS["open-world"](shots=0)  # labels only score
    names = tuple(IMAGES)
    again = (out / MANIFEST).is_file() and _of_demo(out, images)
    fitted = fit(method, out, again, images=images, classes=names, labels="folders", seed=seed)
    return fitted.metrics | {"out": str(out), "images": str(images)}


def _of_demo(out: Path, images: Path) -> bool:
    """Whether a run folder belongs to a demo."""
    return is_run(out) and read_json(out / "config.json")["images"] == str(images.resolve())
