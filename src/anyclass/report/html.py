"""The report of a run: a static HTML page, or a short version in Markdown.

    run folder --summarise--> dict --to_html--> RUN/report.html    (the templates are in `page/`)
                                   --to_markdown--> text

The page has no scripts and loads nothing; Jinja escapes every text in it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from anyclass.files import Json, write_text
from anyclass.report.summary import summarise


def write_report(run: Path, memory: Mapping[str, Any] | None = None) -> Path:
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
    return _template().render(summary)


@cache
def _template() -> Template:
    """Compile the templates once."""
    jinja = Environment(
        loader=PackageLoader("anyclass.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters |= {
        "percent": percent,
        "points": points,
        "duration": minutes_and_seconds,
        "number": number,
    }
    return jinja.get_template("report.html")


def to_markdown(summary: Json) -> str:
    """Title, reasons, warnings, scores, classes, settings: for a model card or a terminal."""
    text = [f"# {literal(summary['method'])} on {literal(summary['name'])}", ""]
    text += [f"* {literal(reason)}" for reason in summary["why"]]
    text += [f"* **Warning:** {literal(warning)}" for warning in summary["warnings"]]
    text += [f"* {literal(sentence)}" for sentence in summary["unknown"]]
    if found := summary["headline"]:
        interval = f"{percent(found['low'])} to {percent(found['high'])}"
        text += [
            f"* Accuracy {percent(found['accuracy'])} of {found['how']}; 95 % interval {interval}."
        ]
    settings = markdown_table(("setting", "value"), summary["settings"])
    return "\n".join(
        [*text, "", *_scores(summary["scores"]), *_classes(summary["classes"]), *settings]
    )


def _scores(scores: Sequence[Json]) -> list[str]:
    """The table of scores; nothing if there are none."""
    rows = []
    for row in scores:
        shares = map(percent, (row["accuracy"], row["mean_per_class"]))
        rows.append((row["name"], *shares, row["n"]))
    head = ("", "accuracy", "mean per class", "images")
    return markdown_table(head, rows) if rows else []


def _classes(classes: Sequence[Json]) -> list[str]:
    """The table of classes."""
    rows = []
    for row in classes:
        shares = map(percent, (row["zero_shot"], row["adapted"]))
        rows.append((row["name"], row["known"], row["count"], *shares))
    return markdown_table(("class", "kind", "images", "zero-shot", "this run"), rows)


def percent(share: float | int | None) -> str:
    """0.5745 -> `57.5 %`; a dash if not known."""
    return "–" if share is None else f"{100 * share:.1f}\u00a0%"


def points(difference: float | int) -> str:
    """-0.1 -> `−10.0`: a difference of two shares in percentage points."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def minutes_and_seconds(seconds: float | int) -> str:
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


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table, followed by an empty line."""
    cells = [head, ["---"] * len(head), *(list(map(literal, row)) for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells] + [""]
