"""`plan`: preview a fit: method, duration, disk space, questions to a captioner."""

from typing import Any

from anyclass.commands.learn import readable
from anyclass.commands.num_classes import estimate_unknown
from anyclass.commands.request import Request, choose_method, request_of
from anyclass.commands.second_round import training_labels, with_inherited
from anyclass.data import ImageDataset
from anyclass.features.cache import cached_part
from anyclass.features.precomputed import PrecomputedFeatures
from anyclass.features.store import FeatureStore
from anyclass.methods import Method, Workload
from anyclass.run.progress import Progress

IMAGES_PER_SECOND = 60.0
"""Conservative speed of the starter model on two ordinary cores, decoding included."""

MAX_EMBEDDED = 1000
"""Largest number of images that `plan` embeds to estimate the number of classes."""


def plan(method: Method | str = "auto", **options: Any) -> dict[str, Any]:
    """Preview a fit: images, classes, method with reasons, duration and disk space.

    Minutes and megabytes are estimates for the starter model on a CPU. They are None without a
    measurement: for other models, on GPUs, for training from pixels and, for minutes, for
    training in epochs. With `unknown="auto"` up to 1,000 images are embedded to estimate the
    number of classes, if the model needs no download. Nothing is trained. `language_model` counts
    the questions to a captioner; none is sent.

    Args:
        method: a method with its hyper-parameters, its name for the defaults, or "auto".
        options: the fields of `Request`.

    Raises:
        RequestError: the request cannot be fulfilled.
    """
    request = request_of(with_inherited(options))
    given = request.precomputed(method)
    dataset = given.dataset if given else request.dataset("fit")
    choice = choose_method(method, dataset, request.unknown)
    workload = choice.method.workload(len(dataset), len(dataset.classes))
    estimate = None
    remarks: list[str] = []
    if request.unknown == "auto":
        estimate, remarks = _estimate_unknown(request, given, dataset, workload)
    device = request.torch_device
    embeddings = 0 if given else len(dataset) * (1 + workload.views)
    measured = request.model == "starter" and device == "cpu" and workload.trains != "all"
    timed = measured and not (workload.pairs and workload.pairs.epochs)
    disk = embeddings * _bytes_per_view(workload) / 2**20
    minutes = embeddings / IMAGES_PER_SECOND / 60
    return {
        "images": len(dataset),
        "classes": [
            {"name": name, "kind": kind, "labelled": int((dataset.labels == c).sum())}
            for c, (name, kind) in enumerate(
                zip(dataset.classes.names, dataset.classes.kinds, strict=True)
            )
        ],
        "unknown": estimate["unknown"] if estimate else request.unknown,
        "classes_estimated": estimate,
        "labelled": int((dataset.labels >= 0).sum()),
        "method": choice.name,
        "why": choice.why,
        "remarks": [*remarks, *request.notices(dataset, workload)],
        "embeddings": embeddings,
        "minutes": round(minutes, 1) if timed else None,
        "disk_mb": round(disk, 1) if measured else None,
        "language_model_calls": workload.captions.calls,
        "language_model": workload.captions._asdict(),
    }


def _estimate_unknown(
    request: Request, given: PrecomputedFeatures | None, dataset: ImageDataset, workload: Workload
) -> tuple[dict[str, Any] | None, list[str]]:
    """Estimate the number of unknown classes if that is quick; return remarks as well."""
    local = given or request.model == "starter" or request.model.startswith("local-dir:")
    if len(dataset) > MAX_EMBEDDED or not local:
        return None, [
            "fit estimates the number of classes before training, from the features of all images; "
            f"plan does so for at most {MAX_EMBEDDED} images and a model on this machine"
        ]
    part = cached_part(workload.trains)
    with Progress() as log:
        store = given or FeatureStore(request.backbone(), dataset)
        data, _ = readable(store, part, request.max_rejected, log)
        data = data.of(training_labels(request, data.dataset))
        estimate = estimate_unknown(data, part, request.seed, log)
    return estimate, [estimate["why"]]


def _bytes_per_view(workload: Workload) -> int:
    """Bytes of one cached view of the starter model: 1280 float32, or 192 x 7 x 7 float16."""
    return 2 * 192 * 7 * 7 if workload.trains == "tail" else 4 * 1280
