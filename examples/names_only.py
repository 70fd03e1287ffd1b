"""The names of all classes, and not one label."""

from pathlib import Path

import anyclass
from anyclass.commands.emoji import IMAGES, draw

photos = draw(Path("emoji"))  # drawings to try it with; yours: photos = "photos"

run = anyclass.fit(photos, classes=list(IMAGES))
print(run)

predictions = run.predictions  # labels of the photos themselves
print(predictions)
print(predictions.counts())

new = sorted(photos.glob("bird/*.png"))[:3]
print(run.predict(new).top(2))  # other images: a folder, files, Pillow images, arrays ...
print(run.predict(new, output="pandas")[["file_name", "label", "score", "familiarity"]])

truth = [path.parent.name for path in new]
print(run.evaluate(new, truth)["accuracy"])
run.save("run", overwrite=True)  # model, labels and report; anyclass.load("run") reads it
