"""`fit`: train a classifier on a folder of images and write a run folder."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyclass
from anyclass.auditing.classes import remarks
from anyclass.commands.again import again
from anyclass.commands.learn import Learned, learn
from anyclass.commands.request import ChosenMethod, Request, choose_method, request_of
from anyclass.commands.requirements import check_enough
from anyclass.commands.second_round import with_inherited
from anyclass.commands.write_run import write_run
from anyclass.data import ImageDataset
from anyclass.data.inputs import ImageSource
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN
from anyclass.methods import Method
from anyclass.run.folder import SCRATCH, begin, opened
from anyclass.run.progress import Callback, Progress

Json = dict[str, Any]


def fit(
    method: Method | str = "auto",
    out: Path | str = "run",
    overwrite: bool = False,
    callback: Callback | None = None,
    **options: Any,
) -> Json:
    """Fit a method on a folder of images and write a run folder.

    Example: `fit(LatteClip(), images="photos", classes="names.txt", out="run")`. If a run was
    interrupted, the same call continues it.

    Args:
        method: a method with its hyper-parameters, its name for the defaults, or "auto".
        out: the run folder.
        overwrite: replace an existing run; other files in its folder stay.
        callback: gets the figures of each step.
        options: the fields of `Request`: images or features, classes, labels, model, seed ...

    Returns:
        The content of `metrics.json`.

    Raises:
        RequestError: the request cannot be fulfilled; the message names the change needed.
        AnyclassError: too many images are unreadable, training failed, or the disk is full.
    """
    return fit_run(method, out, overwrite, callback, **options).metrics


def fit_run(
    method: Method | str,
    out: Path | str,
    overwrite: bool = False,
    callback: Callback | None = None,
    **options: Any,
) -> Learned:
    """Fit and write a run folder as `fit` does; return everything that is in it."""
    request = request_of(with_inherited(options))
    given = request.precomputed(method)
    dataset = given.dataset if given else request.dataset("fit")
    choice = choose_method(method, dataset, request.unknown)
    workload = choice.method.workload(len(dataset), len(dataset.classes))
    check_enough(request, choice, dataset, workload)
    given = given and given.checked()
    config = _config(request, choice) | _source(request, dataset)
    config |= {"features_sha256": given.digest} if given else {}
    with opened(Path(out), config, overwrite) as folder:
        data = given or FeatureStore(request.backbone(), dataset)  # loading may fail: do it first
        begin(folder, config, overwrite)
        with Progress(folder / "log.jsonl", callback) as log:
            if choice.asked == "auto":
                log.say(f"auto chooses {choice.name}: {'; '.join(choice.why)}")
            for notice in (*request.notices(dataset, workload), *remarks(dataset)):
                log.say(notice)
            learned = learn(request, choice.method, data, folder / SCRATCH, log)
            write_run(folder, learned)
    return learned


def _source(request: Request, dataset: ImageDataset) -> Json:
    """Where a list of files lies, for `config.json`: it is no whole folder."""
    if not isinstance(request.images, ImageSource) or dataset.memory is not None:
        return {}
    return {"images": str(dataset.root), "listed": len(dataset)}


def _config(request: Request, choice: ChosenMethod) -> Json:
    """The content of `config.json`."""
    method: Any = choice.method
    fields = asdict(method)
    config = request.to_json() | {"asked": choice.asked, "method": choice.name, "why": choice.why}
    config["again"] = again(request, choice)
    config |= {"version": anyclass.__version__, "template": fields.get("template", PLAIN)}
    return dict(json.loads(json.dumps(config | {"fields": fields})))
