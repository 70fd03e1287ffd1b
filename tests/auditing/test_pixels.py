"""Findings about pixels: thresholds from both sides, copies and unreadable images."""

from typing import Any

import numpy as np
import pytest

from anyclass.auditing.pixels import THEIR_KIND, pixel_findings
from anyclass.data.inspection import Inspection
from anyclass.data.rejection import Rejection

USUAL = {"width": 200, "height": 150, "dark": 0.9, "bright": 0.1, "detail": 7.0, "blur": 0.5}


def inspection(*rows: dict[str, Any]) -> Inspection:
    columns = {name: np.array([{**USUAL, **row}[name] for row in rows]) for name in USUAL}
    count = len(rows)
    hashes = np.zeros((count, 64), bool)
    thumbs = np.zeros((count, 32, 32), np.uint8)
    lost = [i for i, row in enumerate(rows) if row.get("width") == 0]
    rejections = tuple(Rejection(f"first{i}", "not an image", "no JPEG") for i in lost)
    return Inspection(**columns, hashes=hashes, thumbs=thumbs, rejections=rejections)


@pytest.mark.parametrize(
    ("issue", "bad", "good"),
    [
        ("blurred", {"blur": 0.78}, {"blur": 0.76}),
        ("dark", {"dark": 0.31}, {"dark": 0.33}),
        ("bright", {"bright": 0.96}, {"bright": 0.94}),
        ("uninformative", {"detail": 2.9}, {"detail": 3.1}),
        ("odd-aspect", {"width": 500}, {"width": 420}),
        ("tiny", {"height": 31, "width": 40}, {"height": 32, "width": 40}),
    ],
)
def test_pixel_findings__thresholds(issue: str, bad: dict[str, Any], good: dict[str, Any]) -> None:
    of = np.arange(5)
    found = inspection({}, bad, good, {}, {})
    (report,) = pixel_findings(["a", "b", "c", "d", "e"], found, of)
    assert report.issue == issue
    assert [row["file_name"] for row in report.rows] == ["b"]
    assert report.summary.startswith("1 image is")
    assert report.criterion


def test_pixel_findings__tiny_beside_the_others() -> None:
    large = {"width": 4000, "height": 3000}
    found = inspection(
        large, large, {"width": 480, "height": 374}, {"width": 480, "height": 376}, large
    )
    (report,) = pixel_findings(["a", "b", "c", "d", "e"], found, np.arange(5))
    assert [(row["file_name"], row["value"]) for row in report.rows] == [("c", 374)]


@pytest.mark.parametrize(("count", "usual"), [(9, False), (10, False), (11, True)])
def test_pixel_findings__what_most_images_are_is_no_fault(count: int, usual: bool) -> None:
    found = inspection({"detail": 1.0}, {})
    of = np.array([0] * count + [1] * 10)
    (report,) = pixel_findings([str(i) for i in range(len(of))], found, of)
    assert (report.issue, len(report.rows)) == ("uninformative", count)
    assert (report.advice == THEIR_KIND) == usual
    (few,) = pixel_findings(["a", "b"], found, np.array([0, 0]))
    assert few.advice == "leave them out"


def test_pixel_findings__lists_each_copy() -> None:
    found = inspection({}, {"dark": 0.1}, {"width": 0, "dark": np.nan, "blur": np.nan})
    reports = pixel_findings(["a", "b", "c", "d", "e"], found, np.array([1, 0, 2, 1, 2]))
    assert [report.issue for report in reports] == ["unreadable", "dark"]
    assert reports[0].rows == [
        {"file_name": "c", "detail": "not an image: no JPEG"},
        {"file_name": "e", "detail": "not an image: no JPEG"},
    ]
    assert [row["file_name"] for row in reports[1].rows] == ["a", "d"]
    assert reports[1].summary == "2 images are dark"
