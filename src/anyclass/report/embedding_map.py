"""The map of the embeddings for a report: points, colours, shapes and labels of the classes."""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from anyclass.data.label_tables import GIVEN
from anyclass.files import Json
from anyclass.report.words import plain
from anyclass.run.columns import UNUSUAL

Points = Float[np.ndarray, "n 2"]

SIDE = 1000
"""Side of the map, in units of its own."""
MARGIN = 40
"""Space around the points."""
COLOURS = 12
"""Colours in the style sheet: `c0`, `c1`, ..."""
NAMED = 12
"""Maximum number of classes whose names stand on the map; of more, their marks in the list beside
it do."""
LABELS = 60
"""Maximum number of classes with a name or mark on the map."""
LEGEND = 24
"""Classes in the legend before it is folded."""


def embedding_map(
    places: Mapping[str, tuple[float, float]], table: pa.Table, kinds: Mapping[str, str]
) -> Json | None:
    """Paths and labels of the classes, from the largest to the smallest; None without a map.

    Args:
        places: file name -> position in the unit square.
        table: predictions of all images.
        kinds: class -> labelled, named or unknown (discovered).
    """
    rows = [row for row in _columns(table) if row["file_name"] in places and row["label"]]
    if not rows:
        return None
    xy = _scaled(np.array([places[row["file_name"]] for row in rows]))
    classes = _classes(rows, xy, kinds)
    few = len(classes) <= NAMED
    _choose_labels(classes, few)
    unlike = sum(map(_is_unlike, rows))
    given = [row["status"] for row in rows].count(GIVEN)
    return {
        "side": SIDE,
        "height": int(xy[:, 1].max()) + MARGIN,
        "classes": classes,
        "shown": LEGEND,
        "points": len(rows),
        "width": int(np.clip(420 / np.sqrt(len(rows)), 9, 22)),
        "few": few,
        "discovered": any(row["discovered"] for row in classes),
        "unlike": unlike,
        "given": given,
    }


def _classes(
    rows: Sequence[Mapping[str, Any]], xy: Points | Any, kinds: Mapping[str, str]
) -> list[Json]:
    """Marks, colours and paths of the classes, from the largest to the smallest."""
    of_class: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        of_class.setdefault(row["label"], []).append(i)
    order = sorted(of_class, key=lambda name: (-len(of_class[name]), name))
    centres = np.array([_centre(xy[of_class[name]]) for name in order])
    colours = _colours(centres)
    marks = _marks(len(order), letters="unknown" in kinds.values())
    few = len(order) <= NAMED
    classes = []
    for k, name in enumerate(order):
        look = {
            "mark": marks[k],
            "name": plain(name, 80),
            "count": len(of_class[name]),
            "colour": colours[k],
            "discovered": kinds.get(name) == "unknown",
            "x": int(centres[k, 0]),
            "y": int(centres[k, 1]),
            "text": plain(name, 24) if few else marks[k],
            "label": False,
        }
        classes.append(look | _paths(rows, xy, of_class[name]))
    return classes


def _paths(
    rows: Sequence[Mapping[str, Any]], xy: Points | Any, members: Sequence[int]
) -> dict[str, str]:
    """Paths of the members of a class: dots, crosses for those unlike all classes, given labels."""
    others = [i for i in members if not _is_unlike(rows[i])]
    unlike = [i for i in members if _is_unlike(rows[i])]
    given = [i for i in members if rows[i]["status"] == GIVEN]
    return {"dots": _dots(xy[others]), "crosses": _crosses(xy[unlike]), "given": _dots(xy[given])}


def _scaled(xy: Points | Any) -> Any:
    """Points in whole units of the map, the margin around them."""
    return (MARGIN + (xy - xy.min(0)) * (SIDE - 2 * MARGIN) / _size(xy)).round().astype(int)


def _size(xy: Points | Any) -> float:
    """Width of the points, or their height if they would be higher than wide."""
    return float(np.ptp(xy, axis=0).max()) or 1.0


def _columns(table: pa.Table) -> list[dict[str, Any]]:
    """The columns of a prediction table that the map needs."""
    names = ["file_name", "label", "status", "familiarity"]
    return list(table.select([n for n in names if n in table.column_names]).to_pylist())


def _is_unlike(row: Mapping[str, Any]) -> bool:
    """Whether an image is unlike all classes."""
    familiarity = row.get("familiarity")
    return familiarity is not None and familiarity < UNUSUAL and row["status"] != GIVEN


def _centre(xy: Points | Any) -> Any:
    """The point that is nearest to the median."""
    distance = np.abs(xy - np.median(xy, axis=0)).sum(1)
    return xy[distance.argmin()]


def _marks(count: int, letters: bool) -> list[str]:
    """1, 2, ...; or A, ..., Z, AA, ...: names such as "discovered 3" have a number already."""
    if not letters:
        return [str(k + 1) for k in range(count)]
    alphabet = ["", *ascii_uppercase]
    return [a + b for a in alphabet for b in ascii_uppercase][:count] + [""] * (count - 702)


def _colours(centres: Any) -> list[int]:
    """A colour for each class, so that classes of the same colour are far from each other."""
    nearest = np.full((len(centres), COLOURS), np.inf)  # distance to the classes of each colour
    chosen: list[int] = []
    for k in range(len(centres)):
        colour = int(nearest[k].argmax())
        chosen.append(colour)
        apart = np.hypot(*(centres - centres[k]).T)
        nearest[:, colour] = np.minimum(nearest[:, colour], apart)
    return chosen


def _choose_labels(classes: Sequence[Json], few: bool) -> None:
    """Mark the classes whose text finds room on the map, the largest first."""
    taken: list[tuple[float, float, float]] = []
    for row in classes[:LABELS]:
        half = (9 if few else 12) * len(row["text"]) + 8
        row["x"] = int(np.clip(row["x"], half, SIDE - half))
        room = all(
            abs(row["y"] - y) > 34 or abs(row["x"] - x) > half + other for x, y, other in taken
        )
        if room:
            row["label"] = True
            taken.append((row["x"], row["y"], half))


def _dots(xy: Points | Any) -> str:
    """A path of points: its line caps draw them."""
    return "".join(f"M{x} {y}h0" for x, y in xy.tolist())


def _crosses(xy: Points | Any) -> str:
    """A path of small crosses."""
    return "".join(f"M{x - 7} {y - 7}l14 14m0-14l-14 14" for x, y in xy.tolist())
