"""`fit`: images and what is known of them in, a `Run` out."""

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec

from anyclass.api.run import Run
from anyclass.api.words import names_arguments
from anyclass.commands.fit import fit as fit_and_write
from anyclass.commands.request import Request
from anyclass.data.inputs import ImageSource, image_source
from anyclass.data.label_inputs import class_source
from anyclass.distributed import launched
from anyclass.errors import RequestError
from anyclass.files import temporary_folder
from anyclass.methods import METHODS, Method
from anyclass.run.progress import Callback

P = ParamSpec("P")

EXAMPLE = 'anyclass.fit("photos", classes=["cat", "dog"])'


def _images_first(function: Callable[P, Run]) -> Callable[P, Run]:
    """Explain calls with other arguments by position, such as those of version 0.1."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Run:
        first = args[0] if args else None
        method = first if isinstance(first, str) and first in ("auto", *METHODS) else None
        if type(first) in METHODS.values():
            method = f"{type(first).__name__}(...)"
        if method and (kwargs.keys() & {"images", "features", "from_run"} or method != first):
            named = repr(method) if method == first else method
            raise RequestError(
                f"fit takes the images first and the method by name: "
                f'anyclass.fit("photos", method={named}, classes=[...])'
            )
        if len(args) > 1:
            raise RequestError(
                f"fit takes only the images by position: write classes=... or labels=..., as in "
                f"{EXAMPLE}"
            )
        return function(*args, **kwargs)

    return call


@_images_first
@names_arguments
def fit(
    images: Any = None,
    *,
    classes: Any = None,
    labels: Any = None,
    unknown: int | Literal["auto"] | None = None,
    method: Method | str = "auto",
    model: str | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
    device: str | None = None,
    seed: int | None = None,
    image_column: str | None = None,
    from_run: Run | Path | str | None = None,
    callback: Callback | None = None,
    **options: Any,
) -> Run:
    """Fit a classifier on images and whatever is known of their classes.

    Example: `clf = anyclass.fit("photos", classes=["cat", "dog"])`, then `clf.predictions` for the
    photos and `clf.predict("new")` for others.

    Args:
        images: a folder, a list of files, of Pillow images or of arrays (H, W, 3), an array
            (N, H, W, 3), a tensor (N, 3, H, W), a pandas or pyarrow table or a Hugging Face data
            set with a row per image. Pixels are uint8, or floats from 0 to 1.
        classes: class names, a mapping from names to prompts ({"daisy": "daisy flower"}), or a file
            of names. Name every class you know, with or without labelled images.
        labels: labels of any of the images: a list in their order with None for unknown; a mapping,
            Series or table by path; the name of a column of the images' own table; a table in a
            file; or "folders", for the parent folder of each image. Numbers are indices of
            `classes`, -1 for unknown.
        unknown: number of unnamed classes to discover; "auto" estimates it.
        method: "auto", the name of a method, or a method with its hyper-parameters.
        model: image-text model: "starter" (the default), an open_clip name, hf-hub:OWNER/NAME or
            local-dir:FOLDER.
        out: run folder to write, as the command line does; the same call continues an unfinished
            run. None: a temporary folder that lasts as long as the returned object.
        overwrite: replace an existing run in `out`.
        device: device to compute on: "auto" (a GPU if there is one), "cpu", "cuda", "mps".
        seed: random seed, 0 by default.
        image_column: column of a table with the images or their paths; by default it is looked for.
        from_run: finished run to start from: its labels, and what else you do not give.
        callback: gets the metrics of each step as keyword arguments.
        options: further fields of `Request`, such as `features`, `class_text`, `holdout`, `names`.

    Returns:
        The run: `predict`, `predict_proba`, `evaluate`, `predictions`, `metrics`, `report`, `save`.

    Raises:
        RequestError: the request cannot be fulfilled; the message names the change needed.
        AnyclassError: too many images are unreadable, training failed, or the disk is full.
    """
    given = {"classes": class_source(classes), "labels": labels, "unknown": unknown, "model": model}
    given |= {"device": device, "seed": seed, "from_run": from_run}
    source = None if images is None else image_source(images, image_column)
    if isinstance(from_run, Run):
        given["from_run"] = from_run.folder
        if images is None and "features" not in options:
            source = from_run.source
    given["images"] = source
    chosen = _checked(options) | {name: v for name, v in given.items() if v is not None}
    listed = source if isinstance(source, ImageSource) else None
    if out is not None:
        learned = fit_and_write(method, out, overwrite, callback, **chosen)
        return Run(Path(out), learned.classifier, device or "auto", source=listed)
    if launched() > 1:
        raise RequestError("give out=FOLDER, a run folder that all processes of torchrun see")
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder("anyclass-fit-")) / "run"
        learned = fit_and_write(method, folder, False, callback, **chosen)
        run = Run(folder, learned.classifier, device or "auto", source=listed)
        weakref.finalize(run, stack.pop_all().close)
    return run


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """Refuse options that do not exist."""
    known = [field.name for field in fields(Request)]
    for name in options:
        if name not in known:
            near = get_close_matches(name, [*known, "method", "out", "overwrite"], n=1)
            hint = f"did you mean {near[0]}?" if near else f"use {', '.join(known)}"
            raise RequestError(f"fit has no argument {name!r}: {hint}")
    return options
