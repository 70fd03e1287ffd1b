"""`plan`: what a fit would do, before anything is paid for."""

from typing import Any

from anyclass.captioning import CostEstimate
from anyclass.commands.discovery import counted, hold_out
from anyclass.commands.fit import readable
from anyclass.commands.request import Request, choose, remarks, request_of
from anyclass.data import ImageDataset
from anyclass.features.extract import cached_part
from anyclass.methods import Method
from anyclass.run.progress import Progress
from anyclass.training.tuning import cached_views, trained_part

SPEED = 60.0
"""Images a second through the starter on two ordinary cores, decoding included; cautious."""

QUICK = 1000
"""Most images that `plan` embeds to estimate the number of classes."""


def plan(method: Method | str = "auto", **options: Any) -> dict[str, Any]:
    """Images, classes, method and why, roughly how long and how much disk.

    Minutes and megabytes are those of the starter on a CPU, and None for what was not measured:
    other models, GPUs, training of everything from pixels and, for minutes, training in epochs.
    With `unknown="auto"` up to 1,000 images are embedded, where the model needs no download, to
    estimate the number of classes; nothing is trained. What a captioner is asked comes on
    top, in `language_model`; nothing is asked yet, and no connection is made.

    Args:
        method: a method with its hyper-parameters, its name for the defaults, or "auto".
        options: the fields of `Request`.

    Raises:
        RequestError: the request cannot be met.
    """
    request = request_of(options)
    dataset = request.dataset("fit")
    choice = choose(method, dataset, request.unknown)
    found, said = (
        _count(request, dataset, choice.method) if request.unknown == "auto" else (None, [])
    )
    unknown = found["unknown"] if found else request.unknown
    on = (request.torch_device, request.precision)
    embeddings = len(dataset) * (1 + cached_views(choice.method))
    cost, whole = _asking(choice.method, dataset), trained_part(choice.method) == "all"
    measured = request.model == "starter" and request.torch_device == "cpu" and not whole
    short = not getattr(getattr(choice.method, "tuning", None), "epochs", 0)
    return {
        "images": len(dataset),
        "classes": [
            {"name": n, "kind": k}
            for n, k in zip(dataset.classes.names, dataset.classes.kinds, strict=True)
        ],
        "unknown": unknown,
        "classes_estimated": found,
        "labelled": int((dataset.labels >= 0).sum()),
        "method": choice.name,
        "why": choice.why,
        "remarks": [*said, *remarks(dataset, choice.method, *on)],
        "embeddings": embeddings,
        "minutes": round(embeddings / SPEED / 60, 1) if measured and short else None,
        "disk_mb": round(embeddings * _bytes(choice.method) / 2**20, 1) if measured else None,
        "language_model_calls": cost.calls,
        "language_model": cost._asdict(),
    }


def _count(
    request: Request, dataset: ImageDataset, method: Method
) -> tuple[dict[str, Any] | None, list[str]]:
    """The estimated number of classes where that is quick; what is to be said of it."""
    here = request.model == "starter" or request.model.startswith("local-dir:")
    if len(dataset) > QUICK or not here:
        return None, [
            "fit estimates the number of classes before it trains, from the features of all "
            f"images; plan does so for up to {QUICK} and a model that is on this machine"
        ]
    clip, part = request.backbone(), cached_part(trained_part(method))
    with Progress() as log:
        dataset, _ = readable(clip, dataset, part, request.max_rejected, log)
        dataset = hold_out(dataset, request.holdout, request.seed)
        found = counted(clip, dataset, part, request.seed, log)[1]
    return found, [found["why"]]


def _asking(method: Any, dataset: ImageDataset) -> CostEstimate:
    """What the captioner of a method costs at most."""
    if not hasattr(method, "captioner"):
        return CostEstimate()
    most = method.questions(len(dataset), len(dataset.classes))
    cost: CostEstimate = method.captioner.estimate(most)
    return cost


def _bytes(method: Method) -> int:
    """Of one cached view of the starter: 1280 float32, or 192 x 7 x 7 float16."""
    return 2 * 192 * 7 * 7 if trained_part(method) == "tail" else 4 * 1280
