"""`plan`: what a fit would do, before anything is paid for."""

from typing import Any

from anyclass.methods import Method
from anyclass.run.request import choose, remarks, request_of

SPEED = 60.0
"""Pictures a second through the starter on two ordinary cores, decoding included; cautious."""


def plan(method: str = "auto", **options: Any) -> dict[str, Any]:
    """Pictures, classes, method and why, roughly how long and how much disk.

    Args:
        method: name of a method, or "auto".
        options: the fields of `Request`.

    Raises:
        RequestError: the request cannot be met.
    """
    request = request_of(options)
    photos = request.photos("fit")
    name, chosen, why = choose(method, photos, request.torch_device)
    views = _views(chosen)
    return {
        "pictures": len(photos),
        "classes": [
            {"name": n, "kind": k}
            for n, k in zip(photos.classes.names, photos.classes.kinds, strict=True)
        ],
        "labelled": int((photos.labels >= 0).sum()),
        "method": name,
        "why": why,
        "remarks": remarks(photos),
        "embeddings": len(photos) * (1 + views),
        "minutes": round(len(photos) * (1 + views) / SPEED / 60, 1),
        "disk_mb": round(len(photos) * (1 + views) * _bytes(chosen) / 2**20, 1),
        "language_model_calls": 0,
    }


def _views(method: Method) -> int:
    """Cached views per picture."""
    return getattr(method, "views", 0) if getattr(method, "tune", "") in ("head", "tail") else 0


def _bytes(method: Method) -> int:
    """Of one cached view of the starter: 1280 float32, or 192 x 7 x 7 float16."""
    return 2 * 192 * 7 * 7 if getattr(method, "tune", "") == "tail" else 4 * 1280
