"""How results show themselves in a notebook: tables with thumbnails, as HTML without scripts."""

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined, Template

from anyclass.api.predictions import ROWS, Predictions
from anyclass.report.gallery import plain

if TYPE_CHECKING:
    from anyclass.api.run import Run

CLASSES = 12
"""Most classes of a run that are shown."""
EACH = 6
"""Most images of one of them."""


def predictions_html(predictions: Predictions) -> str:
    """The first rows, each with its thumbnail, and how often each label occurs."""
    rows = predictions.shown()
    images = [predictions.thumbnail_of(name) for name in predictions.names[:ROWS]]
    counts = [f"{plain(name, 60)}: {n}" for name, n in list(predictions.counts().items())[:CLASSES]]
    return _template().render(
        title=predictions.summary(),
        lines=[" · ".join(counts)] if counts else [],
        columns=[name.replace("_", " ") for name in rows[0]] if rows else [],
        rows=[
            {"images": [src] if src else [], "cells": [plain(cell, 80) for cell in row.values()]}
            for row, src in zip(rows, images, strict=True)
        ],
        more=predictions.more(),
    )


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
        cells = [plain(name, 80), kinds[name], str(counts.get(name, 0))]
        rows.append({"images": [src for src in images if src], "cells": cells})
    left = len(names) - CLASSES
    more = [f"... and {left} more classes"] if left > 0 else []
    columns = ["class", "known by", "images"]
    lines = [plain(line, 300) for line in [*lines, *run.metrics["warnings"]]]
    return _template().render(content | {"lines": lines}, columns=columns, rows=rows, more=more)


def _by_label(predictions: Predictions) -> dict[str, list[str]]:
    """The first images of each label."""
    found: dict[str, list[str]] = {}
    for name, label in zip(predictions.names, predictions.labels, strict=True):
        if label is not None and len(found.setdefault(label, [])) < EACH:
            found[label].append(name)
    return found


@cache
def _template() -> Template:
    """The template, compiled once."""
    page = (resources.files("anyclass.api") / "notebook.html").read_text("utf-8")
    jinja = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return jinja.from_string(page)
