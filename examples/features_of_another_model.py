"""Features that any image-text model has computed: no image is read, and no model is loaded."""

from pathlib import Path

import numpy as np

import anyclass
from anyclass.commands.emoji import IMAGES, draw

# Your own model computes these; here it is the starter model.
anyclass.embed(draw(Path("emoji")), tuple(IMAGES), out="emoji.npz", extra=True, overwrite=True)
data = np.load("emoji.npz")

run = anyclass.fit(
    features=data["x"],  # (N, D), compared with texts
    extra=data["extra"],  # (N, H), before the projection; can be left out
    class_text=data["class_text"],  # (C, D), a row per class
    classes=data["class_names"].tolist(),
)
print(run)
print(run.predict(data["x"][:3], extra=data["extra"][:3]))
