"""Names that are suggested for discovered classes, beside the true ones.

    python benchmarks/names.py --data DATA        DATA: the folder that holds cifar10/ and grocery/

get-plus, one seed, the number of classes given; the candidates are the nouns that anyclass ships.
Each discovered class stands beside the true class that most of its images are of. The figures go
to `results/names.json`, the table is printed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from get import Task, tasks
from latteclip import silent

from anyclass.backbone import Backbone
from anyclass.methods.get_plus import GetPlus
from anyclass.naming.class_names import name_classes

RESULTS = Path(__file__).parent / "results" / "names.json"
SETS = ("cifar10, 4,000 images", "grocery, coarse", "emoji")


def rows(clip: Backbone, name: str, some: Task) -> list[dict[str, Any]]:
    """One row for each discovered class."""
    torch.manual_seed(0)
    fitted = GetPlus().fit(clip, some.dataset, silent)
    probabilities = fitted.predict_proba(some.dataset)
    found = name_classes(clip, fitted, some.dataset, probabilities, None, silent)
    assert found is not None
    guess, result = probabilities.argmax(1), []
    for row in found["classes"]:
        if row["kind"] != "unknown" or not row["images"]:
            continue
        counts = np.bincount(some.truth[guess == row["index"]], minlength=len(some.names))
        result.append(
            {
                "set": name,
                "true": some.names[int(counts.argmax())],
                "share": round(100 * counts.max() / counts.sum()),
                "images": row["images"],
                "suggested": row["suggested"],
                "confidence": row["confidence"],
                "runners_up": row["runners_up"],
            }
        )
    return result


def main() -> None:
    """Fit, name, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    asked = parser.parse_args()
    clip, made, table = Backbone.load("starter"), tasks(asked.data), list[dict[str, Any]]()
    for name in SETS:
        table += rows(clip, name, made[name]())
    RESULTS.write_text(json.dumps(table, indent=1) + "\n")
    print("| set | mostly | of its images | suggested | runners-up |\n|---|---|---|---|---|")
    for row in table:
        sure = "" if row["confidence"] == "likely" else "?"
        words = ", ".join(row["runners_up"])
        print(
            f"| {row['set']} | {row['true']} | {row['share']} % of {row['images']} "
            f"| {row['suggested']}{sure} | {words} |"
        )


if __name__ == "__main__":
    main()
