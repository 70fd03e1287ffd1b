"""Suggested names of discovered classes, compared with the true names.

    python benchmarks/names.py --data DATA        DATA: the folder with cifar10/ and grocery/
    python benchmarks/names.py --data DATA --sets emoji

open-world, one seed, with the true number of classes; the candidates are the nouns that anyclass
ships. Each discovered class is compared with the most frequent true class of its images. The
results go to `results/names.json`, where rows of other sets stay, and the table is printed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from get import Task, tasks
from latteclip import silent

from anyclass.backbone import Backbone
from anyclass.features.store import FeatureStore
from anyclass.methods.open_world import OpenWorld
from anyclass.naming.class_names import name_classes
from anyclass.run.predict import predict_adapted

RESULTS = Path(__file__).parent / "results" / "names.json"
SETS = ("cifar10, 4,000 images", "grocery, coarse", "emoji")


def rows(clip: Backbone, name: str, some: Task) -> list[dict[str, Any]]:
    """One row per discovered class."""
    data = FeatureStore(clip, some.dataset)
    fitted = OpenWorld().fit(data, silent)
    probabilities = np.exp(predict_adapted(data, fitted, silent))
    unjudged = [None] * len(fitted.classes)  # how far a class can be trusted names none
    found = name_classes(data, fitted, probabilities, unjudged, None, silent)
    guess = probabilities.argmax(1)
    result = []
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
    """Fit, suggest names and print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the datasets")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="only these sets")
    asked = parser.parse_args()
    clip = Backbone.load("starter")
    makers = tasks(asked.data)
    earlier: list[dict[str, Any]] = json.loads(RESULTS.read_text())
    table: list[dict[str, Any]] = []
    for name in SETS:
        if name in asked.sets:
            table += rows(clip, name, makers[name]())
        else:
            table += [row for row in earlier if row["set"] == name]
    RESULTS.write_text(json.dumps(table, indent=1) + "\n")
    print("| dataset | most frequent true class | share | suggested | runners-up |")
    print("|---|---|---|---|---|")
    for row in table:
        doubt = "" if row["confidence"] == "likely" else "?"
        words = ", ".join(row["runners_up"])
        print(
            f"| {row['set']} | {row['true']} | {row['share']} % of {row['images']} "
            f"| {row['suggested']}{doubt} | {words} |"
        )


if __name__ == "__main__":
    main()
