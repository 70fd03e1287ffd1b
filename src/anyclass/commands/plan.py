"""`plan`: preview a fit: method, duration, disk space, questions to a captioner; audit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from anyclass.auditing.classes import class_findings
from anyclass.auditing.findings import Audit, check_writable
from anyclass.commands.audit import ReadImages, full_audit, quick_audit, read_for_audit
from anyclass.commands.chosen_method import choose_method
from anyclass.commands.duration import minutes, pairs_per_minute, texts, trained_texts
from anyclass.commands.num_classes import estimate_unknown
from anyclass.commands.request import Request, request_of
from anyclass.commands.requirements import check_enough
from anyclass.commands.second_round import training_labels, with_inherited
from anyclass.commands.train import embed_readable
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.features.cache import cached_part
from anyclass.features.precomputed import PrecomputedFeatures
from anyclass.features.store import FeatureStore
from anyclass.methods import Method, Workload
from anyclass.naming.words import read_words
from anyclass.run.progress import Callback, Progress

MAX_EMBEDDED = 1000
"""Largest number of images that `plan` embeds to estimate the number of classes."""


def plan(
    method: Method | str = "auto",
    audit: Path | str | None = None,
    evaluation: Path | str | None = None,
    audit_model: bool = True,
    overwrite: bool = False,
    callback: Callback | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Preview a fit: images, classes, method with reasons, duration and disk space; audit the data.

    Minutes and megabytes are estimates for the starter model on a CPU. They are None without a
    measurement: for other models, on GPUs and for training from pixels. With `unknown="auto"` up to
    1,000 images are embedded to estimate the number of classes, if the model needs no download.
    Nothing is trained. `language_model` counts the questions to a captioner; none is sent.

    Names, labels and files with the same content are always looked at; everything else with
    `audit`.

    Args:
        method: a method with its hyper-parameters, its name for the defaults, or "auto".
        audit: folder for `audit.csv` and `audit.json` of a full audit.
        evaluation: folder of images for evaluation; images in both folders are reported.
        audit_model: let the full audit use the model.
        overwrite: replace the files of an earlier audit.
        callback: gets the metrics of each step of the audit.
        options: the fields of `Request`.

    Raises:
        RequestError: the request cannot be fulfilled.
    """
    request = request_of(with_inherited(options))
    if audit is not None:
        check_writable(Path(audit), overwrite)
    precomputed = request.precomputed(method)
    read = read_for_audit(request, precomputed, evaluation)
    dataset = read.dataset

    def full(log: Progress) -> Audit:
        return full_audit(request, precomputed, read, evaluation, audit_model, log)

    if read.error is not None:
        _explain(read, full, audit, callback)
    choice = choose_method(method, dataset, request.unknown)
    workload = choice.method.workload(len(dataset), len(dataset.classes))
    check_enough(request, choice, dataset, workload)
    if audit is not None:
        found = _written(full, Path(audit), callback)
    elif precomputed is not None:
        found = Audit(class_findings(dataset), ["names and labels"])
    else:
        found, _ = quick_audit(dataset, evaluation)
    estimate: dict[str, Any] | None = None
    remarks: list[str] = []
    if request.unknown == "auto":
        estimate, remarks = _estimate_unknown(request, precomputed, dataset, workload)
    return {
        "images": len(dataset),
        "classes": _classes(dataset),
        "unknown": estimate["unknown"] if estimate else request.unknown,
        "classes_estimated": estimate,
        "labelled": int((dataset.labels >= 0).sum()),
        "method": choice.name,
        "why": choice.why,
        "remarks": [*remarks, *request.notices(dataset, workload)],
        **_cost(request, precomputed, dataset, workload),
        "language_model_calls": workload.captions.calls,
        "language_model": workload.captions._asdict(),
        "audit": found.to_json() | {"out": None if audit is None else str(audit)},
    }


def _classes(dataset: ImageDataset) -> list[dict[str, Any]]:
    """Name and kind of each class, and its number of labelled images."""
    counts = np.bincount(dataset.labels[dataset.labels >= 0], minlength=len(dataset.classes))
    rows = zip(dataset.classes.names, dataset.classes.kinds, counts.tolist(), strict=True)
    return [{"name": name, "kind": kind, "labelled": count} for name, kind, count in rows]


def _cost(
    request: Request,
    precomputed: PrecomputedFeatures | None,
    dataset: ImageDataset,
    workload: Workload,
) -> dict[str, Any]:
    """What is computed, how long that takes, and the size of the cache."""
    views = workload.labelled(dataset) * workload.labelled_views
    embeddings = 0 if precomputed else len(dataset) * (1 + workload.views) + views
    encoded = 0 if precomputed else texts(dataset, request.prompt_ensemble, _candidates(request))
    rate = pairs_per_minute(request.precision)
    trained = trained_texts(dataset, workload)
    expected = minutes(embeddings, encoded, trained, len(dataset), workload, rate)
    disk = embeddings * _bytes_per_view(workload) / 2**20
    on_cpu = request.model == "starter" and request.torch_device == "cpu"
    measured = on_cpu and workload.trains != "all"
    return {
        "embeddings": embeddings,
        "texts": encoded,
        "minutes": round(expected, 1) if measured and expected is not None else None,
        "disk_mb": round(disk, 1) if measured else None,
    }


def _candidates(request: Request) -> int:
    """Number of words that discovered classes may be called."""
    return len(read_words(request.names)) if request.unknown else 0


def _written(full: Callable[[Progress], Audit], folder: Path, callback: Callback | None) -> Audit:
    """Do a full audit and write it."""
    with Progress(callback=callback) as log:
        found = full(log)
    found.write(folder)
    return found


def _explain(
    read: ReadImages,
    full: Callable[[Progress], Audit],
    audit: Path | str | None,
    callback: Callback | None,
) -> None:
    """Raise what `fit` says of labels that are not in the list of classes, with their files.

    Raises:
        RequestError: always.
    """
    if audit is None:
        raise RequestError(f"{read.error} `anyclass plan --audit DIR` lists the images.")
    _written(full, Path(audit), callback)
    raise RequestError(f"{read.error} The images are listed in {Path(audit) / 'audit.csv'}.")


def _estimate_unknown(
    request: Request,
    precomputed: PrecomputedFeatures | None,
    dataset: ImageDataset,
    workload: Workload,
) -> tuple[dict[str, Any] | None, list[str]]:
    """Estimate the number of unknown classes if that is quick; return remarks as well."""
    local = precomputed or request.model == "starter" or request.model.startswith("local-dir:")
    if len(dataset) > MAX_EMBEDDED or not local:
        return None, [
            "fit estimates the number of classes before training, from the features of all images; "
            f"plan does so for at most {MAX_EMBEDDED} images and a model on this machine"
        ]
    part = cached_part(workload.trains)
    with Progress() as log:
        store = precomputed or FeatureStore(request.backbone(), dataset)
        data, _ = embed_readable(store, part, request.max_rejected, log)
        data = data.of(training_labels(request, data.dataset))
        estimate = estimate_unknown(data, part, request.seed, log)
    workload.check_clusters(data.dataset.with_unknown(estimate["unknown"]))
    return estimate, [estimate["why"]]


def _bytes_per_view(workload: Workload) -> int:
    """Bytes of one cached view of the starter model: 1280 float32, or 192 x 7 x 7 float16."""
    return 2 * 192 * 7 * 7 if workload.trains == "tail" else 4 * 1280
