"""Results of benchmarks: a file that keeps them, and Markdown tables."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Metrics = dict[str, float]
"""Figures of one fit by name."""


@dataclass
class Results:
    """Figures of every row, method and seed."""

    rows: dict[str, dict[str, dict[str, Metrics]]] = field(default_factory=dict)
    """Row -> method -> seed -> figures."""

    @classmethod
    def read(cls, path: Path | None) -> "Results":
        """What a file holds; empty if there is none."""
        return cls(json.loads(path.read_text()) if path and path.is_file() else {})

    def write(self, path: Path | None) -> None:
        """Write the file, if there is a path."""
        if path:
            path.write_text(json.dumps(self.rows, indent=1, sort_keys=True) + "\n")

    def get(self, row: str, method: str, seed: int) -> Metrics | None:
        """The figures of one fit, if known."""
        return self.rows.get(row, {}).get(method, {}).get(str(seed))

    def put(self, row: str, method: str, seed: int, metrics: Metrics) -> None:
        """Keep the figures of one fit."""
        self.rows.setdefault(row, {}).setdefault(method, {})[str(seed)] = metrics

    def values(self, row: str, method: str, metric: str) -> list[float]:
        """One figure over the seeds."""
        seeds = self.rows.get(row, {}).get(method, {})
        return [seeds[seed][metric] for seed in sorted(seeds) if metric in seeds[seed]]

    def mean(self, row: str, method: str, metric: str) -> float | None:
        """Mean of one figure over the seeds."""
        values = self.values(row, method, metric)
        return statistics.mean(values) if values else None


def table(
    results: Results,
    rows: Mapping[str, str],
    methods: Sequence[str],
    metric: str,
    ours: str = "",
    means: Mapping[str, Sequence[str]] | None = None,
    least: bool = False,
) -> str:
    """Markdown table: mean and standard deviation over seeds, the best of a row in bold.

    Args:
        results: the figures.
        rows: row of the table -> row of the results.
        methods: columns.
        metric: the figure to show, in points.
        ours: column that is compared with the best of the others.
        means: further rows: name -> rows to average, for the methods that have them all.
        least: whether the smallest figure is the best.
    """
    means = means or {}
    every = [*rows.values(), *(row for several in means.values() for row in several)]
    used = []
    for name in methods:
        if any(results.values(row, name, metric) for row in every):
            used.append(name)
    last = [f"{ours} - best other"] if ours in used else []
    lines = ["| " + " | ".join(["set", *used, *last]) + " |"]
    lines.append("|---" * (1 + len(used) + len(last)) + "|")
    for name, row in rows.items():
        figures = {method: results.mean(row, method, metric) for method in used}
        spreads = {method: _spread(results.values(row, method, metric)) for method in used}
        lines.append(_line(name, figures, spreads, ours if last else "", least))
    for name, several in means.items():
        figures = {method: _mean_of(results, several, method, metric) for method in used}
        if all(value is None for value in figures.values()):
            continue
        lines.append(_line(name, figures, {}, ours if last else "", least))
    return "\n".join(lines)


def _line(
    name: str,
    figures: Mapping[str, float | None],
    spreads: Mapping[str, str],
    ours: str,
    least: bool,
) -> str:
    """One row; the best figure in bold."""
    known = {method: value for method, value in figures.items() if value is not None}
    choose = min if least else max
    best = choose(known.values(), default=None)
    cells = []
    for method, value in figures.items():
        if value is None:
            cells.append("")
            continue
        text = f"{100 * value:.1f}"
        text = f"**{text}**" if best is not None and abs(value - best) < 5e-4 else text
        cells.append(text + spreads.get(method, ""))
    others = [value for method, value in known.items() if not method.startswith(ours)]
    if ours:
        gap = 100 * (known[ours] - choose(others)) if ours in known and others else None
        cells.append("" if gap is None else f"{gap:+.1f}")
    return "| " + " | ".join([name, *cells]) + " |"


def _spread(values: Sequence[float]) -> str:
    """Standard deviation over seeds in points, if there are several."""
    return f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""


def _mean_of(results: Results, rows: Iterable[str], method: str, metric: str) -> float | None:
    """Mean over rows; None if one of them lacks the method."""
    values = [results.mean(row, method, metric) for row in rows]
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known and len(known) == len(values) else None
