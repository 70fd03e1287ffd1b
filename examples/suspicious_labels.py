"""Labels that the other images contradict: mistakes are found before they are learned."""

from pathlib import Path

import anyclass
from anyclass.commands.emoji import IMAGES, draw

files = sorted(draw(Path("emoji")).glob("*/*.png"))
names = list(IMAGES)
labels = [path.parent.name for path in files]
wrong = range(0, len(files), 20)
for i in wrong:
    labels[i] = names[(names.index(labels[i]) + 1) % len(names)]

run = anyclass.fit(files, classes=names, labels=labels)
table = run.predictions.to_pandas()
suspicious = table.sort_values("label_quality").head(len(wrong))
print(suspicious[["file_name", "label", "opinion", "opinion_score"]])
planted = {run.predictions.names[i] for i in wrong}
print(len(planted & set(suspicious["file_name"])), "of", len(wrong), "wrong labels are among them")
