"""`plan`: what a fit would do, before anything is paid for."""

from typing import Any

from anyclass.data import Photos
from anyclass.describe import Estimate
from anyclass.methods import Method
from anyclass.run.request import choose, remarks, request_of
from anyclass.tuning import cached_views, trained_part

SPEED = 60.0
"""Pictures a second through the starter on two ordinary cores, decoding included; cautious."""


def plan(method: Method | str = "auto", **options: Any) -> dict[str, Any]:
    """Pictures, classes, method and why, roughly how long and how much disk.

    Minutes and megabytes are those of the starter on a CPU, and None for what was not measured:
    other models, GPUs, and training of everything from pixels. What a describer is asked comes on
    top, in `language_model`; nothing is asked yet, and no connection is made.

    Args:
        method: a method with its hyper-parameters, its name for the defaults, or "auto".
        options: the fields of `Request`.

    Raises:
        RequestError: the request cannot be met.
    """
    request = request_of(options)
    photos = request.photos("fit")
    choice = choose(method, photos)
    embeddings = len(photos) * (1 + cached_views(choice.method))
    cost, whole = _asking(choice.method, photos), trained_part(choice.method) == "all"
    measured = request.model == "starter" and request.torch_device == "cpu" and not whole
    return {
        "pictures": len(photos),
        "classes": [
            {"name": n, "kind": k}
            for n, k in zip(photos.classes.names, photos.classes.kinds, strict=True)
        ],
        "labelled": int((photos.labels >= 0).sum()),
        "method": choice.name,
        "why": choice.why,
        "remarks": remarks(photos, choice.method, request.torch_device),
        "embeddings": embeddings,
        "minutes": round(embeddings / SPEED / 60, 1) if measured else None,
        "disk_mb": round(embeddings * _bytes(choice.method) / 2**20, 1) if measured else None,
        "language_model_calls": cost.calls,
        "language_model": cost._asdict(),
    }


def _asking(method: Any, photos: Photos) -> Estimate:
    """What the describer of a method costs at most."""
    if not hasattr(method, "describer"):
        return Estimate()
    most = method.questions(len(photos), len(photos.classes))
    cost: Estimate = method.describer.estimate(most)
    return cost


def _bytes(method: Method) -> int:
    """Of one cached view of the starter: 1280 float32, or 192 x 7 x 7 float16."""
    return 2 * 192 * 7 * 7 if trained_part(method) == "tail" else 4 * 1280
