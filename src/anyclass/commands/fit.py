"""`fit`: a folder of images becomes a run folder with a classifier, zero-shot beside it."""

import json
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

import anyclass
from anyclass.backbone import Backbone, Part
from anyclass.commands.discovery import counted, discovery, fit_baselines, hold_out
from anyclass.commands.request import Choice, Request, choose, remarks, request_of
from anyclass.data import ImageDataset, Rejection, content_hashes
from anyclass.errors import AnyclassError
from anyclass.features.extract import Embedding, cached_part, embed
from anyclass.features.text import PLAIN
from anyclass.files import write_json, write_manifest, write_text
from anyclass.methods import Method
from anyclass.naming.class_names import name_classes, write_naming
from anyclass.report.html import write
from anyclass.report.model_card import card
from anyclass.run.folder import CONTROLS, SCRATCH, begin, environment, opened
from anyclass.run.progress import Callback, Progress
from anyclass.run.scoring import compare, predict_all, score_baselines
from anyclass.run.tables import COMPARED, compared_rows, write_rejected, write_table
from anyclass.training.tuning import trained_part

Json = dict[str, Any]


def fit(
    method: Method | str = "auto",
    out: Path | str = "run",
    overwrite: bool = False,
    callback: Callback | None = None,
    **options: Any,
) -> Json:
    """Fit a method on a folder and leave a run folder.

    `fit(LatteClip(), images="photos", classes="names.txt", out="run")`.
    The same call continues an unfinished run.

    Args:
        method: a method with its hyper-parameters, its name for the defaults, or "auto".
        out: the run folder.
        overwrite: replace a run that is there; only its own files are touched.
        callback: gets the numbers of every step.
        options: the fields of `Request`: images, classes, labels, model, seed, device ...

    Returns:
        The content of `metrics.json`.

    Raises:
        RequestError: the request cannot be met; the message says what to change.
        AnyclassError: too many images are unreadable, training failed, or the disk is full.
    """
    request = request_of(options)
    dataset = request.dataset("fit")
    choice = choose(method, dataset, request.unknown)
    config = _config(request, choice)
    with opened(Path(out), config, overwrite) as folder:
        clip = request.backbone()  # a model that cannot be had leaves the folder as it was
        begin(folder, config, overwrite)
        with Progress(folder / "log.jsonl", callback) as log:
            if choice.asked == "auto":
                log.say(f"auto takes {choice.name}: {'; '.join(choice.why)}")
            for remark in remarks(dataset, choice.method, request.torch_device, request.precision):
                log.say(remark)
            return _fit(folder, request, clip, dataset, choice.method, log)


def _fit(
    folder: Path,
    request: Request,
    clip: Backbone,
    dataset: ImageDataset,
    method: Method,
    log: Progress,
) -> Json:
    """Everything between a run folder that has begun and its manifest."""
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), _Clock()
    everything = dataset
    part = cached_part(trained_part(method))
    dataset, rejections = readable(clip, dataset, part, request.max_rejected, log)
    clock("embed")
    seed_everything(request.seed)
    scratch = _scratch(folder, clip, dataset)
    features, found = hold_out(dataset, request.holdout, request.seed), None
    if request.unknown == "auto":
        features, found = counted(clip, features, part, request.seed, log, scratch)
        log.say(found["why"])
        clock("count")
    classifier = method.fit(clip, features, log, scratch)
    clock("fit")
    dataset, everything = (
        replace(some, classes=classifier.classes) for some in (dataset, everything)
    )
    seen = predict_all(clip, classifier, dataset, log)
    rows = compared_rows(everything, seen, rejections)
    scored, caveats = _unseen(dataset, classifier.record.get("learned_from", ()))
    controls = classifier.record.get("controls", {}) | fit_baselines(
        clip, features, dataset.classes, log
    )
    metrics = compare(scored.labels, seen, dataset.classes) | {
        "n": len(everything),
        "rejected": len(rejections),
        "facts": classifier.record.get("facts", {}),
        "controls": score_baselines(clip, controls, scored, log),
        "classes_estimated": found,
    }
    metrics |= discovery(seen.adapted.argmax(1), dataset.classes, metrics, not caveats)
    metrics["warnings"] = [*log.warnings, *caveats, *metrics["warnings"]]
    naming = name_classes(clip, classifier, features, seen.adapted, request.names, log)
    if naming:
        metrics["naming"] = {key: value for key, value in naming.items() if key != "classes"}
        clock("name")
    metrics["seconds"] = clock.seconds | {"total": clock.total}

    classifier.save(folder / "model")
    for name, write_to in classifier.record.get("files", {}).items():
        write_to(folder / "model" / name)
    for name, control in controls.items():
        control.save(folder / CONTROLS / name)
    write_table(folder / "predictions.parquet", rows, COMPARED)
    write_table(folder / "predictions.csv", rows, COMPARED)
    write_rejected(folder / "rejected.csv", rejections)
    write_json(folder / "classes.json", dataset.classes.to_json())
    write_json(folder / "metrics.json", metrics)
    if naming:
        write_naming(folder, naming)
    write_json(folder / "environment.json", environment(clip, started, clock.total))
    texts = classifier.record.get("descriptions", [])
    lines = (json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
    write_text(folder / "descriptions.jsonl", "".join(lines))
    write_text(folder / "model" / "README.md", card(folder))
    write(folder)
    shutil.rmtree(folder / SCRATCH)
    write_manifest(folder)
    return metrics


def _unseen(dataset: ImageDataset, learned_from: Sequence[str]) -> tuple[ImageDataset, list[str]]:
    """The images with the labels that may score, and what has to be said of the score.

    No label that was learned from scores, as long as there are others.
    """
    learned = np.isin(dataset.files, learned_from)
    labelled = dataset.labels >= 0
    if not (learned & labelled).any():
        return dataset, []
    if (labelled & ~learned).any():
        return replace(dataset, labels=np.where(learned, -1, dataset.labels)), []
    return dataset, [
        "every label was learned from, so the scores here are of images that it knows; for an "
        "honest one run `anyclass evaluate` on others, or keep some back (--holdout 0.1)"
    ]


def seed_everything(seed: int) -> None:
    """One seed for python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (libraries draw from the global state)
    torch.manual_seed(seed)


def _config(request: Request, choice: Choice) -> Json:
    method: Any = choice.method
    fields = asdict(method)
    config = request.to_json() | {"asked": choice.asked, "method": choice.name, "why": choice.why}
    config |= {"version": anyclass.__version__, "template": fields.get("template", PLAIN)}
    return dict(json.loads(json.dumps(config | {"fields": fields})))


def _scratch(folder: Path, clip: Backbone, dataset: ImageDataset) -> Path:
    """What an unfinished run goes on from, as long as model and images are the same."""
    key = json.dumps([clip.weights_sha256, dataset.files, content_hashes(dataset)])
    scratch = folder / SCRATCH / sha256(key.encode()).hexdigest()[:24]
    scratch.mkdir(exist_ok=True)
    return scratch


class _Clock:
    """Seconds since the last call, by name."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name], self.last = round(now - self.last, 2), now

    @property
    def total(self) -> float:
        return round(time.monotonic() - self.start, 2)


def readable(
    clip: Backbone, dataset: ImageDataset, part: Part, max_rejected: float, log: Progress
) -> tuple[ImageDataset, list[Rejection]]:
    """The images that can be used, embedded once, and why the others cannot.

    Raises:
        AnyclassError: more than `max_rejected` of them cannot, or all.
    """
    features = embed(clip, dataset, Embedding(part), log)
    lost = len(features.rejections)
    for row in features.rejections[:3]:
        log.say(f"rejected {row.file_name}: {row.reason}. {row.detail}")
    if lost == len(dataset) or lost > max_rejected * len(dataset):
        first = features.rejections[0]
        few = f"more than --max-rejected allows ({max_rejected:.0%})"
        raise AnyclassError(
            f"{lost} of {len(dataset)} images cannot be used, "
            f"{few if lost < len(dataset) else 'so there is nothing to learn from'}.\n"
            f"The first is {first.file_name} ({first.reason}): repair or remove such files"
        )
    return dataset[features.ok], features.rejections
