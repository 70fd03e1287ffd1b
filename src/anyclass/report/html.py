"""The report of a run: one static HTML page, or the same in short as Markdown.

    run folder --summarise--> dict --to_html--> RUN/report.html      (the page is `report.html`)
                                   --to_markdown--> text

The page holds no script and loads nothing; every text in it is escaped by Jinja.
"""

import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from anyclass.files import write_text
from anyclass.report.gallery import Json
from anyclass.report.summary import summarise

__all__ = ["summarise", "to_html", "to_markdown", "write"]


def write(run: Path) -> Path:
    """Writes `run/report.html`, whole, and returns its path; raises what `summarise` raises."""
    path = run / "report.html"
    write_text(path, to_html(summarise(run)))
    return path


def to_html(summary: Json) -> str:
    """One static page: light and dark, wide and narrow, nothing to load, nothing that runs."""
    page = (resources.files("anyclass.report") / "report.html").read_text("utf-8")
    jinja = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    jinja.filters |= {"percent": percent, "points": points, "duration": duration, "number": number}
    return jinja.from_string(page).render(summary)


def to_markdown(summary: Json) -> str:
    """Title, reasons, warnings, scores, classes, settings: for a model card or a terminal."""
    said = [f"# {literal(summary['method'])} on {literal(summary['name'])}", ""]
    said += [f"* {literal(text)}" for text in summary["why"]]
    said += [f"* **Warning:** {literal(text)}" for text in summary["warnings"]]
    said += [""] if summary["scores"] else ["", literal(summary["why_null"]), ""]
    if summary["scores"]:
        said += _table(
            ("", "accuracy", "mean per class", "images"),
            (
                (row["name"], percent(row["accuracy"]), percent(row["mean_per_class"]), row["n"])
                for row in summary["scores"]
            ),
        )
    said += _table(
        ("class", "known by", "images", "zero-shot", "adapted"),
        (
            (
                row["name"],
                row["kind"],
                row["count"],
                *map(percent, (row["zero_shot"], row["adapted"])),
            )
            for row in summary["classes"]
        ),
    )
    return "\n".join(said + _table(("setting", "value"), summary["settings"]))


def percent(share: float | int | None) -> str:
    """0.5745 -> `57.5 %`; a dash where nothing is known."""
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
    """0.123456 -> `0.1235`; whole numbers and words as they are."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def literal(text: object) -> str:
    """`text` as Markdown that shows it and does nothing: no link, tag, mention or table cell."""
    return re.sub(r"([\\`*_\[\]<>|~&$:@#!])", r"\\\1", str(text))


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table, followed by an empty line."""
    cells = [head, ["---"] * len(head), *([literal(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells] + [""]
