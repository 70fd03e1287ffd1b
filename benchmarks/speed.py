"""The clock: what anyclass costs beside straightforward implementations, in one process.

    python benchmarks/speed.py [--only TEXT] [--repeat 3]

Sections: embedding (`embed_speed.py`), training steps of LatteCLIP, SHIP and GET (`text_step.py`,
`ship_step.py`, `get_steps.py`), `fit auto` (`fit_speed.py`), questions to a language model. Each
pair runs in turns in this process; ratios are medians with the least and the most. How the cost
grows is in `growth.py`. Results go to `results/speed.json`, and as tables into `docs/speed.md`.
"""

import argparse
import json
import logging
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import embed_speed
import fit_speed
import get_steps
import ship_step
import text_step
import torch
from paper_sets import COOP_SETS

from anyclass.backbone.engine import has_amx
from anyclass.captioning import Endpoint
from anyclass.methods.latteclip import LatteClip

RESULTS = Path(__file__).parent / "results" / "speed.json"
GROWTH = RESULTS.with_name("growth.json")
PAGE = Path(__file__).parents[1] / "docs" / "speed.md"

Row = dict[str, Any]

OF_STEPS = {
    "what": "",
    "model": "model",
    "batch": "batch",
    "seconds_plain": "seconds, plain",
    "seconds_here": "seconds here",
    "seconds_bound": "bound: arithmetic, seconds",
    "times_faster": "times faster",
    "spread": "least to most",
}
TABLES = {
    "embed": {
        "what": "",
        "images_per_second": "images per second",
        "times_faster": "anyclass is so many times faster",
        "spread": "least to most",
        "peak_mib": "peak memory, MiB",
        "bound_arithmetic_per_second": "bound: arithmetic",
        "bound_decoding_per_second": "bound: decoding",
    },
    "LatteCLIP": OF_STEPS,
    "SHIP": OF_STEPS,
    "GET": OF_STEPS,
    "fit auto": {
        "what": "",
        "seconds": "seconds",
        "times_faster": "fit auto is so many times faster",
        "accuracy": "accuracy on unlabelled rows",
    },
    "questions": {
        "what": "",
        "images": "images",
        "questions_plain": "questions, plain",
        "questions_here": "questions here",
        "times_fewer": "times fewer",
        "times_fewer_of_groups": "of groups alone",
    },
    "growth": {
        "what": "",
        "grows": "grows with",
        "sizes": "sizes",
        "seconds": "seconds",
        "exponent": "exponent",
    },
}
"""Start of a section's name -> key of a cell -> title of its column in the page."""


def questions() -> list[Row]:
    """Questions to a language model for LatteCLIP, by data set of the paper.

    The released code asks for a group text for each image, as for an image text; here the groups of
    a class are drawn from at most 32 that all its images share.
    """
    how = LatteClip(captioner=Endpoint())
    found = []
    for name, some in COOP_SETS.items():
        if name == "imagenet":  # not in the paper
            continue
        images = some.sizes[0]
        of_groups = how.questions(images, some.classes) - images
        found.append(
            {
                "what": f"questions for LatteCLIP, {name}",
                "images": images,
                "questions_plain": 2 * images,
                "questions_here": images + of_groups,
                "of_groups_plain": images,
                "of_groups_here": of_groups,
                "times_fewer": round(2 * images / (images + of_groups), 2),
                "times_fewer_of_groups": round(images / of_groups, 2),
            }
        )
    return found


def sections(repeat: int) -> dict[str, Callable[[], list[Row]]]:
    """Name of a section -> what measures its rows.

    Embedding comes first: after large allocations PyTorch's own loop is twice as fast, which the
    first thing that a program does is not.
    """
    return {
        "embed starter": lambda: embed_speed.measure("starter", repeat=repeat),
        "embed ViT-B-32": lambda: embed_speed.measure("ViT-B-32", repeat=repeat),
        "LatteCLIP": lambda: text_step.measure(batch=32, repeat=repeat),
        "SHIP": lambda: ship_step.measure(batch=32, repeat=repeat),
        "GET": lambda: get_steps.measure(batch=16, repeat=repeat),
        "fit auto": fit_speed.measure,
        "questions": questions,
    }


def cells(row: Row, names: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cell(row.get(name, '')) for name in names)} |"


def cell(value: Any) -> str:
    """A cell of a table."""
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Markdown of rows.

    Args:
        rows: what a section has measured.
        columns: key of a cell -> title of its column.
    """
    lines = [f"| {' | '.join(columns.values())} |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *(cells(with_spread(row), list(columns)) for row in rows)])


def with_spread(row: Row) -> Row:
    """A row with the range of its ratios as one cell."""
    return row | {"spread": f"{row['least']} to {row['most']}"} if "least" in row else row


def written(page: str, sections: Mapping[str, list[Row]]) -> str:
    """The page with its tables, between `<!-- NAME -->` and `<!-- end -->`, written anew."""
    for name, columns in TABLES.items():
        rows = [row for key, some in sections.items() if key.startswith(name) for row in some]
        new = f"<!-- {name} -->\n{table(rows, columns)}\n<!-- end -->"
        pattern = rf"<!-- {re.escape(name)} -->.*?<!-- end -->"
        page = re.sub(pattern, new.replace("\\", r"\\"), page, flags=re.DOTALL)
    return page


def write(found: Mapping[str, list[Row]]) -> None:
    """Write the results, and the page."""
    growth = json.loads(GROWTH.read_text("utf-8"))
    PAGE.write_text(written(PAGE.read_text("utf-8"), {**found, "growth": growth}), "utf-8")
    machine = {
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "amx": has_amx(),
    }
    RESULTS.write_text(json.dumps({**machine, "sections": found}, indent=1) + "\n", "utf-8")


def main() -> None:
    """Measure, print, write `results/speed.json`; sections that were left out stay in it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="sections with this text in their name")
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)  # of exporters
    known = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    found = known.get("sections", {})
    for name, measure in sections(asked.repeat).items():
        if asked.only in name:
            found[name] = measure()
            print(*map(json.dumps, found[name]), sep="\n", flush=True)
            write(found)


if __name__ == "__main__":
    main()
