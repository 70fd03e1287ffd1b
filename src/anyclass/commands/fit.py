"""`fit`: train a classifier on a folder of images and write a run folder."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import anyclass
from anyclass.auditing.classes import remarks
from anyclass.classifier.classifier import Classifier
from anyclass.commands.chosen_method import ChosenMethod, choose_method
from anyclass.commands.command_words import command_words
from anyclass.commands.request import Request, request_of
from anyclass.commands.requirements import check_enough, check_processes
from anyclass.commands.score import score
from anyclass.commands.second_round import with_inherited
from anyclass.commands.train import train
from anyclass.commands.write_run import write_run
from anyclass.data import ImageDataset
from anyclass.data.inputs import ImageSource
from anyclass.distributed.processes import agreed, alone, first_process_first, rank, wait
from anyclass.distributed.torchrun import check_shared, group
from anyclass.errors import RequestError
from anyclass.features.precomputed import AnyFeatures
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN
from anyclass.files import Json, cache_folder, read_json
from anyclass.methods import Method
from anyclass.run.folder import SCRATCH, begin, locked_run
from anyclass.run.progress import Callback, Progress


class Fitted(NamedTuple):
    """Result of a fit; the run folder holds more."""

    classifier: Classifier
    """The fitted classifier."""
    metrics: Json
    """The content of `metrics.json`."""


def fit(
    method: Method | str = "auto",
    out: Path | str = "run",
    overwrite: bool = False,
    callback: Callback | None = None,
    **options: Any,
) -> Fitted:
    """Fit a method on a folder of images and write a run folder.

    Example: `fit(LatteClip(), images="photos", classes="names.txt", out="run")`. If a run was
    interrupted, the same call continues it. Several processes (torchrun) train together; the first
    one does everything else.

    Args:
        method: a method with its hyper-parameters, its name for the defaults, or "auto".
        out: the run folder.
        overwrite: replace an existing run; other files in its folder stay.
        callback: gets the metrics of each step.
        options: the fields of `Request`: images or features, classes, labels, model, seed ...

    Returns:
        The classifier, and the content of `metrics.json`.

    Raises:
        RequestError: the request cannot be fulfilled; the message names the change needed.
        AnyclassError: too many images are unreadable, training failed, or the disk is full.
    """
    request = request_of(with_inherited(options))
    precomputed = request.precomputed(method)
    dataset = precomputed.dataset if precomputed else request.dataset()
    choice = choose_method(method, dataset, request.unknown)
    workload = choice.method.workload(len(dataset), len(dataset.classes))
    check_enough(request, choice, dataset, workload)
    check_processes(choice, workload)
    precomputed = precomputed and precomputed.checked()
    config = _config(request, choice) | _source(request, dataset)
    config |= {"features_sha256": precomputed.digest} if precomputed else {}
    with group(request.torch_device), locked_run(Path(out), config, overwrite) as folder:
        check_shared(folder)
        check_shared(cache_folder())
        with first_process_first():  # it may have to fetch the model
            data = precomputed or FeatureStore(request.backbone(), dataset)
        _check_alike(config, data)
        begin(folder, config, overwrite)
        with Progress(folder / "log.jsonl", callback) as log:
            if choice.asked == "auto":
                log.say(f"auto chooses {choice.name}: {'; '.join(choice.why)}")
            for notice in (*request.notices(dataset, workload), *remarks(dataset)):
                log.say(notice)
            trained = train(request, choice.method, data, folder / SCRATCH, log)
            classifier = trained.classifier
            if not rank():
                with alone():
                    learned = score(request, trained, log)
                    write_run(folder, learned)
                    classifier = learned.classifier
            wait()
    return Fitted(classifier, read_json(folder / "metrics.json"))


def _check_alike(config: Json, data: AnyFeatures) -> None:
    """Require the same request, images, labels and weights in all processes.

    Raises:
        RequestError: they differ.
    """
    dataset = data.dataset
    if not agreed([config, dataset.files, dataset.labels.tolist()]):
        raise RequestError(
            "the processes of torchrun differ in their request, images or labels: give the same "
            "command on each machine, and paths on a file system that all of them share"
        )
    if isinstance(data, FeatureStore) and not agreed(data.clip.weights_sha256):
        raise RequestError(
            f"the machines have loaded different weights of {data.clip.model_id}: use machines of "
            "one kind, or a model in a shared folder (--model local-dir:FOLDER)"
        )


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
    config["again"] = command_words(request, choice)
    config |= {"version": anyclass.__version__, "template": fields.get("template", PLAIN)}
    return dict(json.loads(json.dumps(config | {"fields": fields})))
