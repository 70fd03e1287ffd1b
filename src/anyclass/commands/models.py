"""`models`: the models to choose from: size, accuracy, speed here, and whether they are here."""

import json
import logging
import time
from collections.abc import Sequence
from typing import Annotated, Any

from tyro.conf import arg

from anyclass.backbone.device import torch_device
from anyclass.backbone.hub import at_hand
from anyclass.backbone.loading import STARTER
from anyclass.backbone.recommended import RECOMMENDED, REFERENCE, Choice
from anyclass.errors import RequestError
from anyclass.files import Json, cache_folder, write_json

BYTES = 4
"""Bytes of a parameter in published files."""


def models(
    contains: str = "",
    all_models: Annotated[bool, arg(name="all")] = False,
    speed: bool = True,
) -> Json:
    """Show models to choose from, or list every model that `--model` takes.

    Args:
        contains: list the models with this text in their name.
        all_models: list all models of open_clip, as NAME/TAG.
        speed: time the starter and a ViT-B/32 on this machine, once, and estimate the others; turn
            it off to skip that.

    Returns:
        `recommended`, a row for each model, or `models`, names.

    Raises:
        RequestError: no name contains the text.
    """
    if contains or all_models:
        return {"models": _names(contains)}
    timed = _speeds() if speed else {}
    return {"recommended": [_row(choice, timed) for choice in RECOMMENDED]}


RIGHT = (1, 2, 3, 4)
"""Columns of the table that are aligned on the right."""


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A row of the table of models."""
    padded = []
    for i, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        padded.append(cell.rjust(width) if i in RIGHT else cell.ljust(width))
    return "  ".join(padded).rstrip()


def models_lines(result: Json) -> list[str]:
    """The models for people."""
    if "models" in result:
        return [str(name) for name in result["models"]]
    head = ("--model", "parameters", "download", "ImageNet", "images/s", "here", "licence", "")
    rows = [head, *(_cells(row) for row in result["recommended"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        *(_line(row, widths) for row in rows),
        "",
        "ImageNet: zero-shot accuracy as published. images/s: on this machine as busy as it was,",
        "without reading files; ~ is an estimate from a ViT-B/32 that was timed. here: it loads",
        "without a network. `anyclass models --all` lists every open_clip model; hf-hub:OWNER/NAME",
        "and local-dir:FOLDER take others.",
    ]


def _names(contains: str) -> list[str]:
    """Names with a text in them."""
    import open_clip

    names = [STARTER, *(f"{name}/{tag}" for name, tag in open_clip.list_pretrained())]
    others = [choice.model for choice in RECOMMENDED if choice.model.startswith("hf-hub:")]
    forms = [*others, "hf-hub:OWNER/NAME", "local-dir:FOLDER"]
    found = [name for name in [*names, *forms] if contains.lower() in name.lower()]
    if not found:
        raise RequestError(
            f"no model has {contains!r} in its name; `anyclass models --all` lists all"
        )
    return found


def _row(choice: Choice, timed: dict[str, float]) -> Json:
    """One model as JSON values."""
    reference = timed.get(REFERENCE.model)
    measured = choice.model in timed
    rate = timed.get(choice.model)
    if rate is None and reference is not None and choice.model != STARTER:
        rate = reference * REFERENCE.gflops / choice.gflops
    return {
        "model": choice.model,
        "parameters_m": choice.parameters,
        "download_mb": 0 if choice.model == STARTER else round(choice.parameters * BYTES),
        "imagenet": choice.imagenet,
        "images_per_second": None if rate is None else float(f"{rate:.2g}"),
        "measured": measured,
        "here": at_hand(choice.model),
        "licence": choice.licence,
        "note": choice.note,
    }


def _cells(row: Json) -> tuple[str, ...]:
    """One model as texts."""
    rate = row["images_per_second"]
    speed = "" if rate is None else f"{'' if row['measured'] else '~'}{rate:g}"
    size = row["download_mb"]
    return (
        row["model"],
        f"{row['parameters_m']:g} M",
        "-" if not size else f"{size / 1000:.1f} GB",
        "" if row["imagenet"] is None else f"{row['imagenet']:.1f} %",
        speed,
        "yes" if row["here"] else "no",
        row["licence"],
        row["note"],
    )


def _speeds() -> dict[str, float]:
    """Images per second of the starter and of a ViT-B/32 on this machine, timed once."""
    import torch

    device = torch_device("auto")
    about = f"{device}-{torch.get_num_threads()}-{torch.__version__}"
    path = cache_folder("speed") / f"{about}.json"
    try:
        kept: dict[str, float] = json.loads(path.read_text("utf-8"))
        return kept
    except (OSError, ValueError):
        timed = {REFERENCE.model: _reference_speed(device)}
    starter = _starter_speed(device)
    timed |= {} if starter is None else {STARTER: starter}
    write_json(path, timed)
    return timed


def _reference_speed(device: str) -> float:
    """Images per second of a ViT-B/32 with random weights."""
    import open_clip
    import torch

    logging.disable(logging.WARNING)  # open_clip warns of random weights
    try:
        with torch.random.fork_rng(devices=[]):
            model = open_clip.create_model("ViT-B-32", device=device, load_weights=False).eval()
    finally:
        logging.disable(logging.NOTSET)
    return _rate(model.encode_image, torch.zeros(16, 3, 224, 224, device=device))


def _starter_speed(device: str) -> float | None:
    """Images per second of the starter with its fastest engine; None if it is not installed."""
    import torch

    from anyclass.backbone import Backbone
    from anyclass.backbone.engine import engine
    from anyclass.errors import AnyclassError

    try:
        clip = Backbone.load(STARTER, device)
    except AnyclassError:
        return None
    pixels = torch.zeros(64, 3, *clip.preprocessing.size, dtype=torch.uint8)
    return _rate(engine(clip, "head").run, pixels)


def _rate(run: Any, pixels: Any) -> float:
    """Images per second, in the best of a few rounds."""
    import torch

    best = 0.0
    with torch.no_grad():
        for _ in range(4):
            start = time.perf_counter()
            float(run(pixels).float().sum())  # waits for a GPU
            best = max(best, len(pixels) / (time.perf_counter() - start))
    return best
