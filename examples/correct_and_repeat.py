"""Look at the least certain labels, correct them in a DataFrame, fit again."""

from pathlib import Path

import anyclass
from anyclass.commands.emoji import IMAGES, draw

photos = draw(Path("emoji"))
first = anyclass.fit(photos, classes=list(IMAGES))

table = first.predictions.to_pandas()
doubtful = table.sort_values("score").index[:40]
truth = table["file_name"].str.split("/").str[0]  # what you would see in the images
table.loc[doubtful, "label"] = truth[doubtful]
table.loc[doubtful, "confirmed"] = "yes"  # rows that you leave alone stay predictions

second = anyclass.fit(from_run=first, labels=table)
print(second)
print(second.metrics["second_round"])
for run in (first, second):
    print((run.predictions.to_pandas()["label"] == truth).mean())
