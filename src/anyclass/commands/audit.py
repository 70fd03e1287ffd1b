"""`audit`: what to look at in images, labels and class names before a fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.auditing.classes import class_findings, unlisted_labels
from anyclass.auditing.copies import Images, exact_findings, near_findings
from anyclass.auditing.findings import Audit, Finding, check_writable
from anyclass.auditing.labels import never_predicted, suspicious_labels, text_findings
from anyclass.auditing.pixels import pixel_findings
from anyclass.commands.request import Request, request_of
from anyclass.commands.second_round import with_inherited
from anyclass.data import ImageDataset
from anyclass.data.class_files import class_names
from anyclass.data.inspection import Inspection, inspect, joined
from anyclass.errors import RequestError
from anyclass.features.cache import Embedding
from anyclass.features.precomputed import AnyFeatures, PrecomputedFeatures
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN
from anyclass.methods import METHODS
from anyclass.run.opinions import opinions_of
from anyclass.run.progress import Callback, Progress

QUICK = "names, labels and files with the same content"
"""What is looked at without a flag."""


def audit(
    images: Path | str | None = None,
    evaluation: Path | str | None = None,
    out: Path | str | None = None,
    model_checks: bool = True,
    overwrite: bool = False,
    callback: Callback | None = None,
    **options: Any,
) -> Audit:
    """Look for problems in images, labels and class names: copies, blur, wrong labels and more.

    Example: `audit("photos", labels="folders").to_pandas()`. Nothing is changed. Features are
    cached, so that `fit` does not compute them again.

    Args:
        images: folder of images.
        evaluation: folder of images for evaluation; images of both folders are reported.
        out: folder for `audit.csv` and `audit.json`; None: nothing is written.
        model_checks: also use the model: labels that it contradicts, classes that it never
            predicts, names that mean the same to it.
        overwrite: replace the files of an earlier audit.
        callback: gets the metrics of each step.
        options: the fields of `Request`: classes, labels, model, seed ...

    Raises:
        RequestError: the request cannot be fulfilled, or there are files of an earlier audit.
    """
    request = request_of(with_inherited({"images": images, **options}))
    if out is not None:
        check_writable(Path(out), overwrite)
    precomputed = request.precomputed()
    read = read_for_audit(request, precomputed, evaluation)
    with Progress(callback=callback) as log:
        found = full_audit(request, precomputed, read, evaluation, model_checks, log)
    if out is not None:
        found.write(Path(out))
    return found


class ReadImages(NamedTuple):
    """Images, and labels that are not in the list of classes."""

    dataset: ImageDataset
    """The images; labels that are not in the list are left out."""
    unlisted: Finding | None = None
    """These labels."""
    error: RequestError | None = None
    """What `fit` says of them."""


def read_for_audit(
    request: Request, precomputed: PrecomputedFeatures | None, evaluation: Path | str | None
) -> ReadImages:
    """Read images also where labels are not in the list of classes, which `fit` refuses.

    Args:
        request: what is known.
        precomputed: its features, if they were given in place of images.
        evaluation: folder of images for evaluation.

    Raises:
        RequestError: the request cannot be fulfilled for another reason, or features would have to
            be compared with images.
    """
    if precomputed is not None:
        if evaluation is not None:
            raise RequestError("--eval compares images: it needs --images, not --features")
        return ReadImages(precomputed.dataset)
    try:
        return ReadImages(request.dataset())
    except RequestError as error:
        if request.classes is None or request.labels is None:
            raise
        free = replace(request, classes=None).dataset()
        listed = class_names(request.classes).names
        names = free.classes.names
        labels = [names[c] if c >= 0 else None for c in free.labels]
        missing = {
            file: label
            for file, label in zip(free.files, labels, strict=True)
            if label is not None and label not in listed
        }
        if not missing:
            raise
        kept = [
            None if file in missing else name for file, name in zip(free.files, labels, strict=True)
        ]
        unknown = 0 if request.unknown == "auto" else request.unknown
        dataset = ImageDataset.with_labels(
            free.root, free.files, kept, request.classes, unknown, free.skipped
        )
        return ReadImages(dataset, unlisted_labels(missing, listed), error)


def quick_audit(dataset: ImageDataset, evaluation: Path | str | None) -> tuple[Audit, Images]:
    """Look at names, labels and equal files: no image is decoded, no model loaded.

    Args:
        dataset: the images to fit on.
        evaluation: folder of images for evaluation.

    Raises:
        RequestError: there is no such folder, or no image in it.
    """
    other = None if evaluation is None else ImageDataset.read(evaluation)
    images = Images.of(dataset, other)
    return Audit([*exact_findings(images), *class_findings(dataset)], [QUICK]), images


def full_audit(
    request: Request,
    precomputed: PrecomputedFeatures | None,
    read: ReadImages,
    evaluation: Path | str | None,
    model_checks: bool,
    log: Progress,
) -> Audit:
    """Look at everything; arguments as of `audit`."""
    dataset = read.dataset
    unlisted = [read.unlisted] if read.unlisted else []
    if precomputed is not None:
        checked = ["names", "labels", "the features"]
        return Audit([*class_findings(dataset), *_model_findings(precomputed, log)], checked)
    quick, images = quick_audit(dataset, evaluation)
    distinct, of = np.unique(images.first, return_inverse=True)
    found = _inspected(images, distinct, log)
    features = None
    model: list[Finding] = []
    if model_checks:
        store = FeatureStore(request.backbone(), dataset.with_unknown(0))
        usable, features = _features(store, images, distinct, log)
        if len(usable):
            model = _model_findings(usable, log)
    near = near_findings(images, found, of, features, log)
    inner = slice(0, len(dataset))
    pixels = pixel_findings(dataset.files, found, of[inner])
    findings = [*unlisted, *quick.findings, *near, *model, *pixels]
    order = {name: i for i, name in enumerate(ORDER)}
    findings.sort(key=lambda finding: order[finding.issue])
    checked = [QUICK, "pixels", "copies of a photograph"]
    if model_checks:
        checked.append(f"labels and names, by {request.model}")
    return Audit(findings, checked)


ORDER = (
    "label-not-in-list",
    "in-evaluation",
    "near-evaluation",
    "evaluation-folder",
    "conflicting-labels",
    "suspicious-label",
    "exact-copies",
    "near-copies",
    "equal-text",
    "similar-names",
    "cut-name",
    "never-predicted",
    "one-image-class",
    "imbalance",
    "unreadable",
    "blurred",
    "dark",
    "bright",
    "uninformative",
    "tiny",
    "odd-aspect",
)
"""All issues, the most severe first."""


def _inspected(images: Images, distinct: Int[np.ndarray, " R"], log: Progress) -> Inspection:
    """Measurements of the images with the indices `distinct`, of both folders."""
    size = len(images.fit)
    inner = inspect(images.fit[distinct[distinct < size]], log)
    outside = distinct[distinct >= size] - size
    if images.evaluation is None or not len(outside):
        return inner
    return joined([inner, inspect(images.evaluation[outside], log)])


def _features(
    store: FeatureStore, images: Images, distinct: Int[np.ndarray, " R"], log: Progress
) -> tuple[AnyFeatures, Float[Tensor, "R D"]]:
    """Readable images to fit on, and unit features of different images, NaN if not readable."""
    usable, x = _embedded(store, log)
    rows = np.full(len(images.files), -1)
    rows[: len(images.fit)] = x.rows
    parts = [x.features]
    if images.evaluation is not None:
        _, other = _embedded(FeatureStore(store.clip, images.evaluation), log)
        rows[len(images.fit) :] = np.where(other.rows >= 0, other.rows + len(x.features), -1)
        parts.append(other.features)
    everything = torch.cat(parts)
    chosen = torch.from_numpy(rows[distinct])
    found = torch.full((len(distinct), everything.shape[1]), torch.nan)
    found[chosen >= 0] = everything[chosen[chosen >= 0]]
    return usable, found


class _Embedded(NamedTuple):
    """Unit features of readable images, and the row of each image, -1 if it is not readable."""

    features: Float[Tensor, "M D"]
    rows: Int[np.ndarray, " N"]


def _embedded(store: FeatureStore, log: Progress) -> tuple[FeatureStore, _Embedded]:
    """Store of the readable images, and their features."""
    hidden = store.embed(Embedding("head"), log)
    usable = store.of(store.dataset[hidden.ok])
    rows = np.where(hidden.ok, hidden.ok.cumsum() - 1, -1)
    features = usable.image_features("head", log).cpu() if len(usable) else torch.zeros(0, 1)
    return usable, _Embedded(features, rows)


def _model_findings(data: AnyFeatures, log: Progress) -> list[Finding]:
    """What the model says of labels and names of readable images."""
    dataset = data.dataset
    if not len(dataset.classes):
        return []
    found: list[Finding | None] = []
    named, texts = data.named_class_features(dataset.classes, [PLAIN])
    if len(named):
        x = data.image_features("head", log).to(texts)
        predicted = named[(x @ texts.T).argmax(1).cpu().numpy()]
        found.append(never_predicted(dataset, predicted, named.tolist()))
    if isinstance(data, FeatureStore):
        found += text_findings(data.clip, dataset, texts)
    if len(dataset.classes.labelled) > 1:
        method: Any = METHODS["open-world"]()  # it takes features as well
        classifier = method.fit(data, log)
        opinions = opinions_of(classifier.record)
        if opinions is not None:
            found.append(suspicious_labels(dataset, opinions))
    return [finding for finding in found if finding]
