"""The report of a run: a static HTML page, or a short version in Markdown.

    run folder --summarise--> dict --to_html--> RUN/report.html    (the template is `report.html`)
                                   --to_markdown--> text

The page has no scripts and loads nothing; Jinja escapes every text in it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from anyclass.files import write_text
from anyclass.report.gallery import Json
from anyclass.report.summary import summarise

__all__ = ["summarise", "to_html", "to_markdown", "write"]


def write(run: Path, memory: Mapping[str, Any] | None = None) -> Path:
    """Write `run/report.html` atomically and return its path.

    Args:
        run: a run folder.
        memory: its images by name, if they are in memory; `anyclass report` later shows none.

    Raises:
        RequestError: `run` is not the folder of a finished run.
        AnyclassError: a file in it is damaged.
    """
    path = run / "report.html"
    write_text(path, to_html(summarise(run, memory=memory)))
    return path


def to_html(summary: Json) -> str:
    """Render a static page for light and dark mode and all widths, without scripts and requests."""
    page = (resources.files("anyclass.report") / "report.html").read_text("utf-8")
    return _compiled(page).render(summary)


@cache
def _compiled(page: str) -> Template:
    """Compile a template once."""
    jinja = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    jinja.filters |= {"percent": percent, "points": points, "duration": duration, "number": number}
    return jinja.from_string(page)


def to_markdown(summary: Json) -> str:
    """Title, reasons, warnings, scores, classes, settings: for a model card or a terminal."""
    text = [f"# {literal(summary['method'])} on {literal(summary['name'])}", ""]
    text += [f"* {literal(reason)}" for reason in summary["why"]]
    text += [f"* **Warning:** {literal(warning)}" for warning in summary["warnings"]]
    text += [""] if summary["scores"] else ["", literal(summary["why_null"]), ""]
    if summary["scores"]:
        text += _table(
            ("", "accuracy", "mean per class", "images"),
            (
                (row["name"], percent(row["accuracy"]), percent(row["mean_per_class"]), row["n"])
                for row in summary["scores"]
            ),
        )
    text += _table(
        ("class", "kind", "images", "zero-shot", "adapted"),
        (
            (
                row["name"],
                row["kind"],
                row["count"],
                percent(row["zero_shot"]),
                percent(row["adapted"]),
            )
            for row in summary["classes"]
        ),
    )
    return "\n".join(text + _table(("setting", "value"), summary["settings"]))


def percent(share: float | int | None) -> str:
    """0.5745 -> `57.5 %`; a dash if not known."""
    return "–" if share is None else f"{100 * share:.1f}\u00a0%"


def points(difference: float | int) -> str:
    """-0.1 -> `−10.0`: a difference of two shares in percentage points."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def duration(seconds: float | int) -> str:
    """192.4 -> `3 min 12 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{value} {unit}" for value, unit in parts if value)


def number(value: object) -> str:
    """0.123456 -> `0.1235`; integers and strings are unchanged."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def literal(text: object) -> str:
    """Escape `text` for Markdown, so that it makes no link, tag, mention or table cell."""
    return re.sub(r"([\\`*_\[\]<>|~&$:@#!])", r"\\\1", str(text))


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table, followed by an empty line."""
    cells = [head, ["---"] * len(head), *([literal(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells] + [""]
