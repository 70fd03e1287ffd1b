"""How results show themselves in a notebook: tables with thumbnails, as HTML without scripts."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, StrictUndefined, Template

from anyclass.api.predictions import ROWS, Predictions
from anyclass.data.classes import plural
from anyclass.report.gallery import evenly_spaced
from anyclass.report.words import KINDS, plain

if TYPE_CHECKING:
    from anyclass.api.run import Run

CLASSES = 12
"""Maximum number of classes of a run that are shown."""
EACH = 6
"""Maximum number of images of one of them."""


def predictions_html(predictions: Predictions) -> str:
    """The first rows, each with its thumbnail, and how often each label occurs."""
    rows = predictions.shown()
    images = [predictions.thumbnail_of(name) for name in predictions.names[:ROWS]]
    counts = [f"{plain(name, 60)}: {n}" for name, n in list(predictions.counts().items())[:CLASSES]]
    columns = [name.replace("_", " ") for name in rows[0]] if rows else []
    lines = [" · ".join(counts)] if counts else []
    return _template().render(
        title=predictions.summary(),
        lines=lines,
        columns=columns,
        rows=[_row(row, src) for row, src in zip(rows, images, strict=True)],
        more=predictions.more(),
    )


def _row(cells: Mapping[str, str], src: str | None) -> dict[str, Any]:
    """A row of the table of predictions, with the thumbnail of its image."""
    return {
        "images": [src] if src else [],
        "cells": [plain(cell, 80) for cell in cells.values()],
    }


def run_html(run: "Run") -> str:
    """What it is and how good it is, and images of each class."""
    title, *lines = run.lines()
    content: dict[str, Any] = {"title": plain(title, 300), "lines": lines}
    if run.folder is None:
        return _template().render(content, columns=[], rows=[], more=[])
    predictions = run.predictions
    counts = predictions.counts()
    kinds = dict(zip(run.classes_, run.classifier.classes.kinds, strict=True))
    names = sorted(run.classes_, key=lambda name: -counts.get(name, 0))
    by_label = _by_label(predictions)
    rows = []
    for name in names[:CLASSES]:
        images = map(predictions.thumbnail_of, by_label.get(name, []))
        cells = [plain(name, 80), KINDS[kinds[name]], str(counts.get(name, 0))]
        rows.append({"images": [src for src in images if src], "cells": cells})
    left = len(names) - CLASSES
    more = [f"... and {plural(left, 'more class')}"] if left > 0 else []
    columns = ["class", "kind", "count"]
    lines = [plain(line, 300) for line in [*lines, *run.metrics["warnings"]]]
    return _template().render(content | {"lines": lines}, columns=columns, rows=rows, more=more)


def _by_label(predictions: Predictions) -> dict[str, list[str]]:
    """Some images of each label, evenly from the highest to the lowest score."""
    names = predictions.names
    labels = predictions.labels
    found: dict[str, list[str]] = {}
    for i in np.argsort(-predictions.scores, kind="stable"):
        label = labels[i]
        if label is not None:
            found.setdefault(label, []).append(names[i])
    return {label: _spread(files) for label, files in found.items()}


def _spread(files: list[str]) -> list[str]:
    """At most `EACH` of the files, evenly, the first and the last among them."""
    return [files[i] for i in evenly_spaced(len(files), EACH)]


@cache
def _template() -> Template:
    """The template, compiled once."""
    page = (resources.files("anyclass.api") / "notebook.html").read_text("utf-8")
    jinja = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return jinja.from_string(page)
