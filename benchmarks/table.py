"""Tables of the papers, from the runs of `paper_runs.py`, beside the published numbers.

    python benchmarks/table.py base_to_new --model ViT-B-16-quickgelu/openai

Each cell is the mean over seeds ± the standard deviation, then the published number in brackets. A
mean that is further from it than `--band` points is marked with `!`, if the model is the paper's.
`--without eurosat` leaves sets out of table and mean: LatteCLIP's gain is that of EuroSAT for the
most part.
"""

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paper_runs import RESULTS

PUBLISHED = Path(__file__).with_name("published.json")
Rows = Mapping[str, Mapping[str, float]]


def values(runs: Iterable[Mapping[str, Any]], metric: str) -> dict[tuple[str, str], list[float]]:
    """One figure of all finished runs, by method and set.

    The metric is a path such as `mixed.base`.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        value: Any = run
        for key in metric.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            found.setdefault((run["method"], run["dataset"]), []).append(float(value))
    return found


def h_of_means(runs: Sequence[Mapping[str, Any]], space: str, sets: int) -> dict[str, float]:
    """Harmonic mean of mean base and mean new accuracy over the sets, by method.

    The papers' average; it is not the mean of the H of the sets.
    """
    halves = [values(runs, f"{space}.{half}") for half in ("base", "new")]
    found = {}
    for method in {method for method, _ in halves[0]}:
        each = []
        for half in halves:
            of_method = [seeds for (row, _), seeds in half.items() if row == method]
            each.append(list(map(statistics.mean, of_method)))
        if len(each[0]) == len(each[1]) == sets:
            base, new = map(statistics.mean, each)
            found[method] = 2 * base * new / max(base + new, 1e-9)
    return found


def cell(seeds: Sequence[float], published: float | None, bounds: tuple[float, float]) -> str:
    """Mean, deviation over seeds, the published number, and a mark if the mean is out of bounds."""
    text = f"{statistics.mean(seeds):.1f}" if seeds else "–"
    if len(seeds) > 1:
        text += f" ± {statistics.stdev(seeds):.1f}"
    if published is None:
        return text
    outside = bool(seeds) and not bounds[0] <= statistics.mean(seeds) <= bounds[1]
    return f"{text} ({published:.1f}){' !' if outside else ''}"


def table(
    found: Mapping[tuple[str, str], Sequence[float]],
    published: Rows,
    band: float | None,
    bands: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    means: Mapping[str, float] | None = None,
) -> str:
    """Markdown table of methods by sets; the last column is the mean over sets.

    Args:
        found: figures of the seeds, by method and set.
        published: published numbers, by method and set; `mean` is that over all sets.
        band: largest difference in points that is not marked; None: mark nothing.
        bands: lowest and highest value where others have repeated the experiment.
        means: last column by method, if it is not the mean over the sets.
    """
    methods = list(dict.fromkeys(method for method, _ in found))
    sets = list(dict.fromkeys(name for _, name in found))
    every = {name for numbers in published.values() for name in numbers} - {"mean"}
    lines = [f"| | {' | '.join([*sets, 'mean'])} |", "|---" * (len(sets) + 2) + "|"]
    for method in methods:
        numbers = published.get(method, {})
        cells = []
        for name in [*sets, "mean"]:
            seeds = found.get((method, name), [])
            if name == "mean" and means is not None:
                seeds = [means[method]] if method in means else []
            elif name == "mean":
                seeds = _means(found, method, sets)
            number = numbers.get(name)
            if name == "mean" and (set(numbers) - {"mean"} or every) != set(sets):
                number = _published_mean(numbers, sets) if means is None else None
            bounds = _bounds(number, band, (bands or {}).get(method, {}).get(name))
            cells.append(cell(seeds, number, bounds))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _bounds(
    published: float | None, band: float | None, repeated: Sequence[float] | None
) -> tuple[float, float]:
    """Lowest and highest mean that is not marked."""
    if band is None or published is None:
        return float("-inf"), float("inf")
    if repeated is not None:
        return repeated[0], repeated[1]
    return published - band, published + band


def _published_mean(numbers: Mapping[str, float], sets: Sequence[str]) -> float | None:
    """Mean of the published numbers of some sets, if all have one."""
    return statistics.mean(numbers[s] for s in sets) if set(sets) <= set(numbers) else None


def _means(
    found: Mapping[tuple[str, str], Sequence[float]], method: str, sets: Sequence[str]
) -> list[float]:
    """Mean over the sets, if the method has them all."""
    each = [found.get((method, name), []) for name in sets]
    return [statistics.mean(map(statistics.mean, each))] if all(each) else []


def main() -> None:
    """Print one table."""
    known: dict[str, Any] = json.loads(PUBLISHED.read_text())
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=list(known), help="the table")
    parser.add_argument("--model", default="starter", help="base model of the runs")
    parser.add_argument("--metric", help="another figure of the runs, such as mixed.base")
    parser.add_argument("--band", type=float, default=2.0, help="difference that is not marked")
    parser.add_argument("--without", nargs="+", default=[], help="image sets to leave out")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    asked = parser.parse_args()
    paper = known[asked.name]
    files = sorted((asked.results / asked.name.split(",")[0]).glob("*.json"))
    runs = [json.loads(path.read_text()) for path in files]
    left_out = set(asked.without)
    runs = [run for run in runs if run["model"] == asked.model and run["dataset"] not in left_out]
    metric = asked.metric or paper["metric"]
    same = asked.model == paper["model"]
    rows: Rows = paper["rows"] if same and metric == paper["metric"] else {}
    found = values(runs, metric)
    print(f"{asked.name}, {metric}, {asked.model}, per cent; in brackets: {paper['source']}\n")
    means = None
    if metric.endswith(".harmonic_mean"):
        sets = len({name for _, name in found})
        means = h_of_means(runs, metric.split(".")[0], sets)
    print(table(found, rows, asked.band, paper.get("bands"), means))
    stopped = [run for run in runs if "stopped" in run]
    for run in stopped:
        print(f"\n{run['method']}, {run['dataset']}, seed {run['seed']}: {run['stopped']}")


if __name__ == "__main__":
    main()
