"""Labels for some classes; the others have not even a name, and are discovered."""

from pathlib import Path

import pandas as pd

import anyclass
from anyclass.commands.emoji import IMAGES, draw

photos = draw(Path("emoji"))
known = list(IMAGES)[: len(IMAGES) // 2]
labels = {path: path.parent.name for path in sorted(photos.glob("*/*.png"))[::2]}
labels = {path: name for path, name in labels.items() if name in known}

run = anyclass.fit(photos, labels=labels, unknown=len(IMAGES) - len(known), out="found")
for name, count in run.predictions.counts().items():
    print(f"{count:4}  {name}")
suggested = pd.read_csv("found/classes.csv")
print(suggested.loc[suggested["kind"] == "unknown", ["name", "suggested", "confidence"]])
print("report:", run.report)
