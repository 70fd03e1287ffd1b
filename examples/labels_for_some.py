"""Labels for some images, names for the other classes; images in memory and a table out."""

from pathlib import Path

import pandas as pd
from PIL import Image

import anyclass
from anyclass.commands.emoji import IMAGES, draw

files = sorted(draw(Path("emoji")).glob("*/*.png"))
names = list(IMAGES)
labelled = names[: len(names) // 2]

frame = pd.DataFrame({"image": [Image.open(file) for file in files]})
frame["label"] = [file.parent.name for file in files]
frame.loc[~frame["label"].isin(labelled) | (frame.index % 3 > 0), "label"] = None

run = anyclass.fit(frame, classes=names, labels="label")
print(run)

table = run.predictions.to_pandas()  # the index is that of `frame`
frame["predicted"] = table["label"]
print(frame[["label", "predicted"]].head())
