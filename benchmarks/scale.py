"""What a million, a hundred million and a billion images take: bytes, hours, calls, dollars.

    python benchmarks/scale.py [--images 1000000 100000000 1000000000] [--image-kb 100] [--days 1]
        [--rate NAME=IMAGES_PER_SECOND] [--hour NAME=DOLLARS] [--price-in 0.15 --price-out 0.6]

Bytes per row are measured on 20,000 rows, images per second are those of `results/speed.json`, and
of --rate for a machine or GPU that you have measured (`anyclass models`). Everything else is
multiplication: `embed` and `predict` take each image once, and their cost grows with the images
alone. Prints Markdown.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anyclass.captioning.cost import estimated
from anyclass.data import Classes
from anyclass.run.columns import PREDICTION
from anyclass.run.tables import Row, prediction_row, write_table

RESULTS = Path(__file__).parent / "results"
ROWS, CLASSES, WIDTH = 20_000, 100, 512
INDEX = 49
"""Bytes of a row in the index of the cache: `cache_index.py`, 10 million rows."""
HOUR, DAY = 3600, 86400


class Rate(NamedTuple):
    """A machine, or a GPU, with a model."""

    name: str
    per_second: float
    """Images per second, reading and decoding included."""
    dollars: float | None
    """Price of an hour; None if not known."""


class Bytes(NamedTuple):
    """Bytes of an image in the files that anyclass writes."""

    features: float
    """512 numbers in half precision."""
    csv: float
    """A row of predictions, as CSV."""
    parquet: float
    """The same as Parquet."""
    rows_per_second: float
    """Rows of predictions written to Parquet."""


def measured() -> Bytes:
    """Write 20,000 rows of each kind of file, and look at their sizes."""
    draw = np.random.default_rng(0)
    classes = Classes.of(tuple(f"kind of thing {i}" for i in range(CLASSES)))
    p = draw.dirichlet(np.full(CLASSES, 0.05), ROWS).astype(np.float32)

    def rows() -> Iterator[Row]:
        for i, some in enumerate(p):
            yield prediction_row(
                f"camera_{i % 40:02}/2026-06-{i % 30:02}/{i:08}.jpg", some, classes
            )

    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        for ending in ("csv", "parquet"):
            started = time.perf_counter()
            write_table(Path(folder) / f"p.{ending}", rows(), PREDICTION)
            seconds = time.perf_counter() - started
            sizes[ending] = (Path(folder) / f"p.{ending}").stat().st_size / ROWS
    return Bytes(2 * WIDTH, sizes["csv"], sizes["parquet"], ROWS / seconds)


def _numbers(texts: Sequence[str]) -> dict[str, float]:
    """Numbers by name, from texts such as `name=3`."""
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        found[name] = float(number)
    return found


def rates(given: Sequence[str], prices: Sequence[str]) -> list[Rate]:
    """Rates of `results/speed.json` and of the command line."""
    dollars = _numbers(prices)
    speeds = json.loads((RESULTS / "speed.json").read_text("utf-8"))
    place = f"{speeds['threads']} cores"
    embedding = [
        row
        for name, rows in speeds["sections"].items()
        for row in rows
        if name.startswith("embed") and row["what"] == f"embed, {row['model']}"
    ]
    found = {f"{row['model']}, {place}": row["images_per_second"] for row in embedding}
    found |= _numbers(given)
    return [Rate(name, rate, dollars.get(name)) for name, rate in found.items()]


def digits(value: float) -> str:
    """A number with two digits, or all before the point."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:.1f}"


def many(count: float) -> str:
    """A large number for people."""
    for unit in ("", " thousand", " million"):
        if count < 1000:
            return f"{digits(count)}{unit}"
        count /= 1000
    return f"{digits(count)} billion"


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{digits(count)} {unit}"
        count /= 1000
    return f"{digits(count)} PB"


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print Markdown."""
    print("|" + "".join(f" {cell} |" if cell else " |" for cell in rows[0]))
    print("|" + "---|" * len(rows[0]))
    for row in rows[1:]:
        print("| " + " | ".join(row) + " |")
    print()


def main() -> None:
    """Measure what is measured here, multiply, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=float, nargs="+", default=[1e6, 1e8, 1e9])
    parser.add_argument("--rate", nargs="*", default=[], help="NAME=IMAGES_PER_SECOND")
    parser.add_argument("--hour", nargs="*", default=[], help="NAME=DOLLARS of an hour")
    parser.add_argument("--days", type=float, default=1, help="days that it may take")
    parser.add_argument("--image-kb", type=float, default=100, help="kilobytes of an image")
    parser.add_argument("--price-in", type=float, default=0.0, help="dollars per million tokens")
    parser.add_argument("--price-out", type=float, default=0.0, help="dollars per million tokens")
    asked = parser.parse_args()
    row = measured()
    counts = asked.images
    head = ["", *(f"{count:,.0f} images" for count in counts)]
    sizes = {
        f"the images, at {asked.image_kb:g} kB": 1000 * asked.image_kb,
        f"features, {WIDTH} half-precision numbers (`embed --half`)": row.features,
        "index of the cache": INDEX,
        "predictions, Parquet": row.parquet,
        "predictions, CSV": row.csv,
    }
    lines = [head]
    for what, each in sizes.items():
        lines.append([what, *(size(n * each) for n in counts)])
    table(lines)
    lines = [head]
    for rate in rates(asked.rate, asked.hour):
        hours = [n / rate.per_second / HOUR for n in counts]
        lines.append([f"hours, {rate.name} ({rate.per_second:g}/s)", *map(digits, hours)])
        machines = [n / rate.per_second / DAY / asked.days for n in counts]
        within = "a day" if asked.days == 1 else f"{asked.days:g} days"
        lines.append([f"such machines for {within}", *(f"{np.ceil(m):,.0f}" for m in machines)])
        if rate.dollars is not None:
            lines.append(["dollars", *(digits(h * rate.dollars) for h in hours)])
    table(lines)
    asks = [estimated(int(n), 336, 77, None, (asked.price_in, asked.price_out)) for n in counts]
    lines = [
        head,
        ["input tokens", *(many(a.tokens_in) for a in asks)],
        ["output tokens, at most", *(many(a.tokens_out) for a in asks)],
    ]
    if any(a.dollars for a in asks):
        lines.append(["dollars", *(digits(a.dollars or 0) for a in asks)])
    table(lines)
    print(f"Rows of predictions written to Parquet: {row.rows_per_second:,.0f} a second")


if __name__ == "__main__":
    main()
