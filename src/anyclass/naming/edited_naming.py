"""`naming.json` after classes were merged, split, rejected or renamed."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from anyclass.data import Classes
from anyclass.files import Json
from anyclass.naming.naming_files import BORDERLINE, TOP, TYPICAL
from anyclass.naming.verdicts import SAME, UNSURE, with_hint
from anyclass.run.edited_tables import EditedRun


def edited_naming(run: EditedRun, naming: Json) -> Json:
    """The content of `naming.json` with the classes as they are now.

    Args:
        run: the edit.
        naming: the content before.
    """
    origins = _origins(run)
    predicted = None if run.probabilities is None else run.probabilities.argmax(1)
    rows = []
    for c, before in enumerate(origins):
        parts = [naming["classes"][b] for b in before]
        same = len(before) == 1 and len(run.successors[parts[0]["name"]]) == 1
        row = dict(parts[0]) if same else _combined(parts)
        row |= _identity(run.after.classes, c) | _quality(run, origins, row.get("quality"))
        if run.probabilities is not None:
            members = np.flatnonzero(predicted == c)
            row["images"] = len(members)
            if not same:
                row |= _examples(run.files, run.probabilities, members, c)
        rows.append(row)
    return naming | {"classes": rows}


def _origins(run: EditedRun) -> list[list[int]]:
    """The classes before that each class now has parts of, the largest share first."""
    origins: list[list[int]] = [[] for _ in run.after.classes.names]
    for b, name in enumerate(run.before.classes.names):
        for c in run.successors[name]:
            origins[c].append(b)
    return origins


def _combined(parts: Sequence[Json]) -> Json:
    """Row of a class that was merged or split: the words of its origins, no quality."""
    by_size = sorted(parts, key=lambda row: -row["images"])
    words = [w for row in by_size for w in (row["suggested"], *row["runners_up"]) if w]
    words = list(dict.fromkeys(words))
    merged = len(parts) > 1
    suggested = words[0] if words and merged else None
    runners_up = [word for word in words if word != suggested]
    typical = [name for row in by_size for name in row["typical"]]
    borderline = [name for row in by_size for name in row["borderline"]]
    return {
        "suggested": suggested,
        "runners_up": runners_up[: TOP - 1],
        "confidence": "maybe" if suggested else None,
        "margin": None,
        "quality": None,
        "typical": typical,
        "borderline": borderline,
        "images": sum(row["images"] for row in parts),
    }


def _identity(classes: Classes, c: int) -> Json:
    """What a row says of its class; a class with a name of its own gets no suggestion."""
    cells: Json = {"index": c, "name": classes.names[c], "kind": classes.kind(c)}
    if classes.kind(c) != "unknown":
        cells |= {"suggested": None, "runners_up": [], "confidence": None}
    return cells


def _quality(run: EditedRun, origins: Sequence[Sequence[int]], quality: Json | None) -> Json:
    """Quality of a class that is as before; the nearest class may be another one now."""
    if quality is None or quality["nearest"] is None:
        return {"quality": quality}
    now = run.renamed.get(quality["nearest"])
    if now is None or len(origins[run.after.classes.index(now)]) > 1:
        verdict = UNSURE if quality["verdict"] == SAME else quality["verdict"]
        nothing: Json = {"nearest": None, "separation": None, "verdict": verdict}
        return {"quality": with_hint(quality | nothing)}
    return {"quality": with_hint(quality | {"nearest": now})}


def _examples(
    files: Sequence[str],
    probabilities: Float[np.ndarray, "M C"],
    rows: Int[np.ndarray, " m"],
    c: int,
) -> Json:
    """Typical and borderline images of class c, whose images are in `rows`."""
    typical = rows[np.argsort(-probabilities[rows, c], kind="stable")][:TYPICAL]
    rest = rows[~np.isin(rows, typical)]
    borderline = rest[np.argsort(_margin(probabilities[rest]), kind="stable")][:BORDERLINE]
    typical_files = [files[i] for i in typical]
    borderline_files = [files[i] for i in borderline]
    return {"typical": typical_files, "borderline": borderline_files}


def _margin(probabilities: Float[np.ndarray, "n C"]) -> Float[np.ndarray, " n"]:
    """Difference of the two highest probabilities."""
    ordered = np.sort(probabilities, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2 if ordered.shape[1] > 1 else -1])
