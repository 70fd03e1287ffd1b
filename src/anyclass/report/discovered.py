"""Discovered classes of a run for its report: suggested names, quality, typical images."""

from collections.abc import Sequence

from anyclass.files import Json
from anyclass.report.gallery import GALLERY, tiles
from anyclass.report.thumbnails import Thumbnail
from anyclass.report.words import plain

TYPICAL, DOUBTFUL = 9, 6
"""Most typical and least certain images of a discovered class."""


def discovered(naming: Json, rows: Sequence[Json], thumbnail_of: Thumbnail) -> list[Json]:
    """Discovered classes, the largest first: row, suggested names, quality, images.

    Args:
        naming: the content of `naming.json`.
        rows: the rows of all classes.
        thumbnail_of: makes thumbnails.
    """
    row_of = {row["label"]: row for row in rows}
    found = [one for one in naming["classes"] if one["kind"] == "unknown" and one["name"] in row_of]
    found.sort(key=lambda one: -row_of[one["name"]]["count"])
    most = GALLERY // max(1, len(found))
    typical = min(TYPICAL, max(1, most * 3 // 5))
    doubtful = min(DOUBTFUL, most * 2 // 5)
    classes = []
    for one in found[:GALLERY]:
        names = {
            "suggested": plain(one["suggested"] or "", 80),
            "runners_up": [plain(word, 80) for word in one["runners_up"]],
            "confidence": plain(one["confidence"] or ""),
        }
        images = {
            "typical": tiles(one["typical"], typical, thumbnail_of),
            "doubtful": tiles(one["borderline"], doubtful, thumbnail_of),
        }
        classes.append(row_of[one["name"]] | names | images | {"quality": quality(one)})
    return classes


def quality(one: Json) -> Json | None:
    """How far a discovered class can be trusted; None if the run does not tell.

    `agreement`: chance that two of its images stay together when a share of the images is clustered
    anew; `nearest`: the class that it is most easily confused with; `hint`: what to do.
    """
    found = one.get("quality")
    if not found:
        return None
    nearest = found.get("nearest")
    return {
        "agreement": found.get("agreement"),
        "nearest": "" if nearest is None else plain(nearest, 80),
        "hint": plain(found.get("hint") or "", 300),
    }
