"""The clock: what anyclass costs beside straightforward implementations, in one process.

    python benchmarks/speed.py [--only TEXT] [--repeat 3]

Sections: embedding (`embed_speed.py`), training steps of LatteCLIP, SHIP and GET (`text_step.py`,
`ship_step.py`, `get_steps.py`), `fit auto` (`fit_speed.py`), questions to a language model. Each
pair runs in turns in this process; ratios are medians with the least and the most. How the cost
grows is in `growth.py`. Results go to `results/speed.json`.
"""

import argparse
import json
import logging
import platform
from collections.abc import Callable
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
from anyclass.methods import LatteClip

RESULTS = Path(__file__).parent / "results" / "speed.json"

Row = dict[str, Any]


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
    """Name of a section -> what measures its rows."""
    return {
        "embed starter": lambda: embed_speed.measure("starter", repeat=repeat),
        "embed ViT-B-32": lambda: embed_speed.measure("ViT-B-32", repeat=repeat),
        "LatteCLIP": lambda: text_step.measure(batch=32, repeat=repeat),
        "SHIP": lambda: ship_step.measure(batch=32, repeat=repeat),
        "GET": lambda: get_steps.measure(batch=16, repeat=repeat),
        "fit auto": fit_speed.measure,
        "questions": questions,
    }


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
    machine = {
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "amx": has_amx(),
    }
    RESULTS.write_text(json.dumps({**machine, "sections": found}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
