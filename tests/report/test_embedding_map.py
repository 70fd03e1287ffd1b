"""The drawn map: every image once, colours far from their own kind, room for the labels."""

import re
from string import ascii_uppercase

import numpy as np
import pyarrow as pa
import pytest

from anyclass.report.embedding_map import COLOURS, LABELS, NAMED, SIDE, embedding_map


def table_of(rows: list[tuple[str, str | None, str, float | None]]) -> pa.Table:
    """Predictions: file, label, status, familiarity."""
    names = ("file_name", "label", "status", "familiarity")
    return pa.table(
        {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    )


def test_embedding_map__draws_each_image_by_what_it_is() -> None:
    rows = [
        ("a", "wren", "ok", 0.9),
        ("b", "wren", "given", 0.01),
        ("c", "wren", "ok", 0.01),
        ("d", "found 1", "ok", 0.5),
        ("e", None, "ok", 0.5),
        ("f", None, "rejected", None),
        ("not on the map", "wren", "ok", 0.5),
    ]
    places = {"a": (0.0, 0.0), "b": (0.5, 0.25), "c": (1.0, 0.5), "d": (0.5, 0.0), "e": (0.9, 0.9)}
    found = embedding_map(places, table_of(rows), {"wren": "labelled", "found 1": "unknown"})
    assert found is not None
    wren, other = found["classes"]
    assert (wren["name"], wren["count"], wren["discovered"]) == ("wren", 3, False)
    assert (other["name"], other["count"], other["discovered"]) == ("found 1", 1, True)
    assert wren["dots"] == "M40 40h0M500 270h0"  # a and b: what was given is never unlike
    assert wren["given"] == "M500 270h0"
    assert wren["crosses"].startswith("M953 493")
    assert other["dots"] == "M500 40h0"
    assert (found["points"], found["unlike"], found["given"]) == (4, 1, 1)
    assert found["height"] == 540  # twice as wide as high
    assert wren["colour"] != other["colour"]


@pytest.mark.parametrize("classes", [NAMED, 100])
def test_embedding_map__has_a_legend_and_labels_that_do_not_overlap(classes: int) -> None:
    draw = np.random.default_rng(0)
    centres = draw.random((classes, 2))
    rows = []
    places = {}
    for k in range(classes):
        for i in range(3 + k % 5):
            file = f"{k}/{i}"
            rows.append((file, f"class {k}", "ok", None))
            places[file] = tuple((centres[k] + 0.01 * draw.normal(size=2)).tolist())
    found = embedding_map(places, table_of(rows), {})
    assert found is not None
    drawn = found["classes"]
    assert [row["mark"] for row in drawn] == [str(k + 1) for k in range(classes)]
    assert [row["count"] for row in drawn] == sorted((row["count"] for row in drawn), reverse=True)
    assert sum(len(re.findall("M", row["dots"])) for row in drawn) == len(rows)
    assert {row["colour"] for row in drawn} == set(range(min(classes, COLOURS)))
    labels = [row for row in drawn if row["label"]]
    assert labels[0] is drawn[0]
    assert len(labels) <= LABELS
    few = classes <= NAMED
    assert {row["text"] for row in labels} <= {row["name"] if few else row["mark"] for row in drawn}
    for i, one in enumerate(labels):
        assert 0 < one["x"] < SIDE
        for other in labels[:i]:
            assert abs(one["y"] - other["y"]) > 34 or abs(one["x"] - other["x"]) > 30


def test_embedding_map__marks_of_discovered_classes_are_no_numbers() -> None:
    names = [f"discovered {k}" for k in range(1, 31)]
    places = {name: (k / 30, k % 5 / 5) for k, name in enumerate(names)}
    table = table_of([(name, name, "ok", None) for name in names])
    found = embedding_map(places, table, dict.fromkeys(names, "unknown"))
    assert found is not None
    assert "".join(row["mark"] for row in found["classes"]) == f"{ascii_uppercase}AAABACAD"
    assert not any(re.search("[0-9]", row["text"]) for row in found["classes"])


def test_embedding_map__same_colours_are_far_apart() -> None:
    side = 8
    places = {f"{x}{y}": (x / side, y / side) for x in range(side) for y in range(side)}
    found = embedding_map(places, table_of([(f, f, "ok", None) for f in places]), {})
    assert found is not None
    nearest = min(
        np.hypot(one["x"] - other["x"], one["y"] - other["y"])
        for i, one in enumerate(found["classes"])
        for other in found["classes"][:i]
        if one["colour"] == other["colour"]
    )
    assert nearest > 1.4 * (SIDE - 80) / (side - 1)  # not beside, and not even diagonal


def test_embedding_map__none_without_a_map() -> None:
    assert embedding_map({}, table_of([("a", "wren", "ok", 0.9)]), {}) is None
