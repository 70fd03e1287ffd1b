"""Images that are dark, bright, blurred, empty, tiny or very long.

The thresholds of dark, bright, empty and long images are those of the package cleanvision. Of
16,049 photographs of clothing, groceries and CIFAR-10 they report 3, that of blur 15.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from anyclass.auditing.findings import Finding
from anyclass.data.classes import plural
from anyclass.data.inspection import SIDE, Inspection

DARK = 0.32
"""Images whose 99th percentile of grey (0 to 1) is below it are dark."""
BRIGHT = 0.95
"""Images whose 5th percentile of grey is above it are bright."""
EMPTY = 3.0
"""Images with less bits of entropy show next to nothing."""
BLURRED = 0.77
"""Images with a larger blur (Crete et al.) are blurred: 0.1 % of sharp photographs are above, 97 %
of those that were blurred with a standard deviation of 1 % of their short side."""
LONG = 0.35
"""Images whose short side is less than this share of the long one are odd."""
TINY = 32
"""Images with a shorter side of less pixels are tiny."""
SMALLER = 8
"""Images whose short side is less than the median short side by this factor are tiny, too."""

MANY = 10
"""Least number of images with an issue that can be the kind of all images, not a fault of some."""
THEIR_KIND = "more than half of the images are: that is their kind, and no fault of some"
"""Advice where more than half of the images have an issue, as drawings on white have."""


class Check(NamedTuple):
    """One kind of issue of pixels."""

    issue: str
    words: str
    """What such images are."""
    advice: str
    criterion: str
    value: Callable[[Inspection], Float[np.ndarray, " N"]]
    bad: Callable[[Float[np.ndarray, " N"]], Bool[np.ndarray, " N"]]


def short_side(found: Inspection) -> Float[np.ndarray, " N"]:
    """Short side of each image in pixels; NaN where it cannot be read."""
    return np.where(found.ok, np.minimum(found.width, found.height), np.nan)


def shape(found: Inspection) -> Float[np.ndarray, " N"]:
    """Short side as a share of the long one; NaN where an image cannot be read."""
    longest = np.maximum(found.width, found.height)
    return np.where(found.ok, short_side(found) / np.maximum(longest, 1), np.nan)


def _is_tiny(sides: Float[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    known = sides[~np.isnan(sides)]
    usual = float(np.median(known)) if len(known) else 0.0
    return sides < max(TINY, usual / SMALLER)


CHECKS = (
    Check(
        "blurred",
        "blurred",
        "leave them out if you cannot tell what they show",
        f"blur by Crete's metric at {SIDE} pixels above {BLURRED}",
        lambda found: found.blur,
        lambda blur: blur > BLURRED,
    ),
    Check(
        "dark",
        "dark",
        "brighten them, or leave them out",
        f"99th percentile of grey below {DARK}",
        lambda found: found.dark,
        lambda dark: dark < DARK,
    ),
    Check(
        "bright",
        "bright all over",
        "leave them out if you cannot tell what they show",
        f"5th percentile of grey above {BRIGHT}",
        lambda found: found.bright,
        lambda bright: bright > BRIGHT,
    ),
    Check(
        "uninformative",
        "next to empty",
        "leave them out",
        f"entropy of the grey values below {EMPTY:g} bits",
        lambda found: found.detail,
        lambda detail: detail < EMPTY,
    ),
    Check(
        "tiny",
        "tiny",
        "look for larger files, or leave them out: they may be thumbnails",
        f"short side below {TINY} pixels, or below 1/{SMALLER} of the median",
        short_side,
        _is_tiny,
    ),
    Check(
        "odd-aspect",
        "very long or very wide",
        "crop them: a model sees the middle, or a squeezed image",
        f"short side less than {LONG} of the long side",
        shape,
        lambda ratio: ratio < LONG,
    ),
)
"""All checks of single images."""


def pixel_findings(
    files: Sequence[str], found: Inspection, of: Int[np.ndarray, " N"]
) -> list[Finding]:
    """Findings about the pixels of single images.

    Args:
        files: names of the N images.
        found: measurements of images with different contents.
        of: row of `found` of each file.
    """
    reports = [_unreadable(files, found, of)]
    for check in CHECKS:
        values = check.value(found)[of]
        bad = np.flatnonzero(check.bad(values))
        rows = [{"file_name": files[i], "value": round(float(values[i]), 4)} for i in bad.tolist()]
        if rows:
            verb = "is" if len(rows) == 1 else "are"
            summary = f"{plural(len(rows), 'image')} {verb} {check.words}"
            usual = len(rows) >= MANY and 2 * len(rows) > len(files)
            advice = THEIR_KIND if usual else check.advice
            reports.append(Finding(check.issue, summary, advice, rows, check.criterion))
    return [finding for finding in reports if finding]


def _unreadable(
    files: Sequence[str], found: Inspection, of: Int[np.ndarray, " N"]
) -> Finding | None:
    bad = np.flatnonzero(~found.ok)
    if not len(bad):
        return None
    reasons = dict(zip(bad.tolist(), found.rejections, strict=True))
    rows = []
    for i in np.flatnonzero(~found.ok[of]).tolist():
        rejection = reasons[int(of[i])]
        detail = ": ".join(filter(None, [rejection.reason, rejection.detail]))
        rows.append({"file_name": files[i], "detail": detail})
    return Finding(
        "unreadable",
        f"{plural(len(rows), 'image')} cannot be read",
        "repair them or leave them out: fit passes them over, up to --max-rejected",
        rows,
    )
