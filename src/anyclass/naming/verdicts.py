"""Verdicts on discovered classes in `naming.json`, and what to do by each."""

from anyclass.files import Json

SOUND = "sound"
UNSURE = "unsure"
SEVERAL = "several classes"
SAME = "same as nearest"
FEW = "few images"
"""Verdicts in `naming.json`."""

HINTS = {
    SOUND: "looks sound",
    UNSURE: "unsure at its edges: check its least certain images",
    SEVERAL: "likely more than one class: look at its images, then split or reject it",
    SAME: "may be the same as {nearest}: compare their images, then merge them",
}
"""Verdict -> what to do, in plain words; that of `FEW` is in `quality`."""


def with_hint(quality: Json) -> Json:
    """An entry `quality` of `naming.json`, with what to do by its verdict."""
    text = HINTS.get(quality["verdict"], "").replace("{nearest}", str(quality["nearest"]))
    return quality | {"hint": text}
