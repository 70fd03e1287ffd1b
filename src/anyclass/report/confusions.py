"""What is confused: the confusion matrix, the most frequent pairs with images, changed labels."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from anyclass.files import Json
from anyclass.report.gallery import tiles
from anyclass.report.scored import Scored
from anyclass.report.thumbnails import Thumbnail
from anyclass.report.words import plain

MATRIX = 24
"""Maximum number of classes of a confusion matrix that is shown in full."""
PAIRS = 6
"""Maximum number of pairs of classes that are shown side by side."""
MIXED_UP, EXAMPLES = 4, 3
"""Images of a pair: mistakes in each direction, and correct examples of each class."""
COUNTS = ("true", "predicted", "count")
"""Keys of `confusion_counts`."""
MISTAKES = 12
"""Maximum number of confusions that are listed."""


def confusion_table(names: Sequence[str], metrics: Json) -> Json:
    """Confusion matrix as rows (true class, [(count, share), ...]), if small, and mistakes.

    Classes that occur neither as the true nor as the predicted one, as discovered ones do among
    labels, have no row and no column; `unused` is their number.

    Args:
        names: the classes.
        metrics: has `confusion`, or `confusion_counts` of many classes; both None without labels.
    """
    matrix = np.array(metrics.get("confusion") or np.zeros((0, 0)), dtype=np.int64)
    true, predicted, count = _entries(matrix, metrics.get("confusion_counts"))
    last = max(true.max(initial=-1), predicted.max(initial=-1), len(matrix) - 1)
    names = [*names, *(f"unknown {i + 1}" for i in range(last + 1 - len(names)))]
    wrong = np.flatnonzero((true != predicted) & (count > 0))
    most = wrong[np.argsort(-count[wrong], kind="stable")[:MISTAKES]]
    used = np.flatnonzero(matrix.any(axis=0) | matrix.any(axis=1)).tolist()
    rows = _rows([names[c] for c in used], matrix[np.ix_(used, used)])
    return {
        "rows": rows if len(used) <= MATRIX else [],
        "unused": len(matrix) - len(used),
        "mistakes": [(names[true[i]], names[predicted[i]], int(count[i])) for i in most],
        "total": int(count[wrong].sum()),
    }


def _entries(
    matrix: Int[np.ndarray, "C C"], counts: Mapping[str, list[int]] | None
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """True class, predicted class and count of the entries of a confusion matrix."""
    if counts:
        true, predicted, count = (np.array(counts[k], np.int64) for k in COUNTS)
        return true, predicted, count
    true, predicted = np.nonzero(matrix)
    return true, predicted, matrix[true, predicted]


def _rows(names: Sequence[str], matrix: Int[np.ndarray, "C C"]) -> list[Any]:
    """Each row with its counts and shares."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return [
        (name, list(zip(row.tolist(), share.tolist(), strict=True)))
        for name, row, share in zip(names, matrix, shares, strict=True)
    ]


def pairs_of_classes(scored: Scored, thumbnail_of: Thumbnail) -> list[Json]:
    """The pairs of classes that are confused most often, both directions together, with images.

    Each side has the number of its images predicted as the other class, some of these, and
    examples that were predicted correctly, or, without any, other images of the class.
    """
    rows = list(zip(scored.files, scored.true, scored.predicted, scored.score, strict=True))
    wrong = Counter((true, predicted) for _, true, predicted, _ in rows if true != predicted)
    both: Counter[tuple[str, str]] = Counter()
    for (true, predicted), count in wrong.items():
        both[min(true, predicted), max(true, predicted)] += count
    files: dict[tuple[str, str], list[str]] = {}
    of_class: dict[str, list[str]] = defaultdict(list)
    for file, true, predicted, _ in sorted(rows, key=lambda row: (-row[3], row[0])):
        files.setdefault((true, predicted), []).append(file)
        of_class[true].append(file)

    def side(one: str, other: str) -> Json:
        mixed_up = files.get((one, other), [])
        correct = files.get((one, one), [])
        others = [file for file in of_class[one] if file not in mixed_up]
        return {
            "name": plain(one, 80),
            "other": plain(other, 80),
            "count": wrong[one, other],
            "wrong": tiles(mixed_up, MIXED_UP, thumbnail_of),
            "right": tiles(correct, EXAMPLES, thumbnail_of),
            "others": [] if correct else tiles(others, EXAMPLES, thumbnail_of),
        }

    order = sorted(both.items(), key=lambda row: (-row[1], row[0]))[:PAIRS]
    return [
        {"count": count, "sides": sorted([side(a, b), side(b, a)], key=lambda s: -s["count"])}
        for (a, b), count in order
    ]


def moves(moved: pa.Table) -> Json:
    """The labels that differ from zero-shot: all, checkable, fixed, broken, frequent changes."""
    truth = moved["true_label"]
    fixed = pc.sum(pc.equal(moved["label"], truth))
    broken = pc.sum(pc.equal(moved["zero_shot_label"], truth))
    changes = Counter(
        zip(moved["zero_shot_label"].to_pylist(), moved["label"].to_pylist(), strict=True)
    )
    return {
        "count": len(moved),
        "known": len(moved) - truth.null_count,
        "fixed": fixed.as_py() or 0,
        "broken": broken.as_py() or 0,
        "changes": [
            (plain(old, 80), plain(new, 80), count)
            for (old, new), count in changes.most_common(MISTAKES)
        ],
    }
