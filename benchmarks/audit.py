"""What an audit finds of problems that were put into a folder of photographs, and what else.

    python benchmarks/audit.py --data DIR [--sets clothing grocery cifar10] [--images 1500]

Of each set, DIR/SET/train/CLASS/*, as many images are drawn. 5 % of the labels are wrong; of 40 %
of the images there is a second file: resized, compressed, cropped, brighter, darker or grey. 5 % of
the images are blurred by 1 % of their short side, 2 % darkened to a fifth, in place. The table goes
to `results/audit.json`. Precision of copies counts pairs that are in the set itself as wrong.
"""

import argparse
import csv
import io
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image, ImageEnhance, ImageFilter

from anyclass.commands.audit import audit

RESULTS = Path(__file__).parent / "results" / "audit.json"
WRONG = 0.05
"""Share of labels that are wrong."""
COPIED = 0.4
"""Share of images with a second file."""
BLURRED = 0.05
"""Share of images that are blurred."""
DARK = 0.02
"""Share of images that are darkened."""


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """An image as JPEG of that quality."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def cropped(image: Image.Image, share: float, draw: random.Random) -> Image.Image:
    """A window of an image, at a random place."""
    width = int(image.width * share)
    height = int(image.height * share)
    left = draw.randint(0, image.width - width)
    top = draw.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


COPIES: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "half size": lambda image, _: image.resize((image.width // 2, image.height // 2)),
    "JPEG 50": lambda image, _: compressed(image, 50),
    "JPEG 20": lambda image, _: compressed(image, 20),
    "crop 95 %": lambda image, draw: cropped(image, 0.95, draw),
    "crop 90 %": lambda image, draw: cropped(image, 0.90, draw),
    "brightness 1.3": lambda image, _: ImageEnhance.Brightness(image).enhance(1.3),
    "brightness 0.7": lambda image, _: ImageEnhance.Brightness(image).enhance(0.7),
    "grey": lambda image, _: image.convert("L").convert("RGB"),
}


def make(source: Path, target: Path, count: int, seed: int) -> dict[str, dict[str, str]]:
    """Write images and `labels.csv`; return what was done to which file, by kind of problem."""
    draw = random.Random(seed)
    found = sorted(path for path in source.rglob("*") if path.is_file())
    chosen = sorted(draw.sample(found, min(count, len(found))))
    names = sorted({path.parent.name for path in chosen})
    done: dict[str, dict[str, str]] = {"copy": {}, "label": {}, "blurred": {}, "dark": {}}
    rows = []
    for i, path in enumerate(chosen):
        file = f"{i:05}.png"
        label = path.parent.name
        image = Image.open(path).convert("RGB")
        fate = draw.random()
        if fate < BLURRED:
            image = image.filter(ImageFilter.GaussianBlur(0.01 * min(image.size)))
            done["blurred"][file] = label
        elif fate < BLURRED + DARK:
            image = ImageEnhance.Brightness(image).enhance(0.2)
            done["dark"][file] = label
        elif fate < BLURRED + DARK + COPIED:
            kind = draw.choice(sorted(COPIES))
            second = f"{i:05}_copy.png"
            COPIES[kind](image, draw).save(target / second)
            done["copy"][second] = kind
        if draw.random() < WRONG:
            done["label"][file] = label
            label = draw.choice([name for name in names if name != label])
        image.save(target / file)
        rows.append((file, label))
    with (target / "labels.csv").open("w", newline="") as table:
        csv.writer(table).writerows([("file_name", "label"), *rows])
    return done


def scored(found: set[str], true: set[str]) -> dict[str, Any]:
    """Numbers, precision and recall."""
    right = len(found & true)
    return {
        "true": len(true),
        "found": len(found),
        "precision": round(right / max(1, len(found)), 3),
        "recall": round(right / max(1, len(true)), 3),
    }


def measure(source: Path, count: int, seed: int) -> dict[str, Any]:
    """Audit a folder of images with problems."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        done = make(source, folder, count, seed)
        started = time.monotonic()
        report = audit(folder, labels=folder / "labels.csv")
        seconds = time.monotonic() - started
    pairs = {(row["file_name"], row["other"]) for row in report["near-copies"]}
    exact = {row["file_name"] for row in report["exact-copies"]}
    copies = {file for file, other in pairs if file[:5] == other[:5]} | exact
    others = {file for file, other in pairs if file[:5] != other[:5]}
    kinds = Counter(done["copy"].values())
    recalled = Counter(kind for file, kind in done["copy"].items() if file in copies)
    recall = {kind: round(recalled[kind] / kinds[kind], 3) for kind in sorted(kinds)}
    labels = [row["file_name"] for row in report["suspicious-label"]]
    wrong = set(done["label"])
    first = labels[: len(wrong)]
    right = len([file for file in first if file in wrong])
    blurred = {row["file_name"] for row in report["blurred"]}
    dark = {row["file_name"] for row in report["dark"]}
    return {
        "images": count + sum(kinds.values()),
        "seconds": round(seconds, 1),
        "copies": {
            "precision": round(len(copies) / max(1, len(copies) + len(others)), 3),
            "recall": recall,
            "others": sorted(others),
        },
        "labels": scored(set(labels), wrong)
        | {"precision of the first": round(right / max(1, len(first)), 3)},
        "blurred": scored(blurred, set(done["blurred"])),
        "dark": scored(dark, set(done["dark"])),
    }


def main() -> None:
    """Measure all sets and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["clothing", "grocery", "cifar10"])
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    results = {}
    for name in asked.sets:
        results[name] = measure(asked.data / name / "train", asked.images, asked.seed)
        print(name, json.dumps(results[name], indent=1))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
