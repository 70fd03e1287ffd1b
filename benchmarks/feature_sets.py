"""Image features of data sets, and draws of what is known about their classes.

A set is one `.npz` file: `train_x`, `train_y`, `test_x`, `test_y`; optional: `text` (class text
features), `logit_scale` or `scale`, `train_h` and `test_h` (backbone features before the
projection), `negatives` (text features of other nouns), `names`, `model`. `imagenet1000.npz` holds
1, 2 and 4 rows per class (`shot1_x` and so on) and text features of 80 templates and of one; shots
1 and 4 are the training split, shot 2 is the test split.
`embed_set.py` makes such a file from an image folder.

Letters: N images, C classes, D dimensions, H backbone features, M negative texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

IMAGENET = "imagenet1000.npz"
"""File of all sets of ImageNet classes."""

TEMPLATES = "text_80_templates"
"""Text features by the mean of 80 templates."""

SINGLE = "text_single_template"
"""Text features by one template."""

DOGS = range(151, 269)
"""ImageNet's 118 breeds of dogs."""

SCALE = 100.0
"""Logit scale of files that do not give one."""


@dataclass(frozen=True)
class FeatureSet:
    """Image features of a training and a test split, with true classes."""

    name: str
    """Name of the set."""
    train_x: Float[np.ndarray, "N D"]
    """Unit features of the training images."""
    train_y: Int[np.ndarray, " N"]
    """Their true classes."""
    test_x: Float[np.ndarray, "n D"]
    """Unit features of the test images."""
    test_y: Int[np.ndarray, " n"]
    """Their true classes."""
    text: Float[np.ndarray, "C D"] | None = None
    """Unit text features of the classes; None: the set has no text."""
    scale: float = SCALE
    """Logit scale of the model."""
    train_h: Float[np.ndarray, "N H"] | None = None
    """Backbone features of the training images, if any."""
    test_h: Float[np.ndarray, "n H"] | None = None
    """Backbone features of the test images, if any."""
    negatives: Float[np.ndarray, "M D"] | None = None
    """Unit text features of nouns that are not among the classes, if any."""
    names: tuple[str, ...] = ()
    """Class names, if known."""
    model: str = ""
    """The model of the features, if the package has it."""

    @property
    def classes(self) -> int:
        """C, number of classes."""
        return int(max(self.train_y.max(), self.test_y.max())) + 1

    def reordered(self, order: Int[np.ndarray, " C"]) -> "FeatureSet":
        """The same set with class `order[i]` numbered i."""
        number = np.empty(len(order), dtype=np.int64)
        number[order] = np.arange(len(order))
        text = None if self.text is None else self.text[order]
        names = tuple(self.names[c] for c in order) if self.names else ()
        return replace(
            self,
            train_y=number[self.train_y],
            test_y=number[self.test_y],
            text=text,
            names=names,
        )


@dataclass(frozen=True)
class Task:
    """A set, and what a method is told about it.

    Classes known in advance come first: `labelled`, then `named`; the rest is unknown.
    """

    data: FeatureSet
    """The set, with classes renumbered."""
    y: Int[np.ndarray, " N"]
    """Labels given for training; -1: unlabelled."""
    labelled: int
    """Number of classes with labels."""
    named: int
    """Number of classes with a name alone."""
    seed: int
    """Random seed of the draw."""

    @property
    def known(self) -> int:
        """Number of classes known in advance."""
        return self.labelled + self.named

    @property
    def unknown(self) -> int:
        """Number of unknown classes."""
        return self.data.classes - self.known

    @property
    def text(self) -> Float[np.ndarray, "C D"] | None:
        """Text features of the known classes."""
        return None if self.data.text is None else self.data.text[: self.known]

    @property
    def parts(self) -> dict[str, Bool[np.ndarray, " n"]]:
        """Masks of the test images of labelled, named and unknown classes; empty ones left out."""
        true = self.data.test_y
        masks = {
            "labelled": true < self.labelled,
            "named": (true >= self.labelled) & (true < self.known),
            "unknown": true >= self.known,
        }
        return {part: mask for part, mask in masks.items() if mask.any()}

    def on_training_rows(self) -> "Task":
        """The same task with the training images as test images."""
        data = self.data
        rows = replace(data, test_x=data.train_x, test_y=data.train_y, test_h=data.train_h)
        return replace(self, data=rows)


def load(name: str, *folders: Path | str, seed: int = 0) -> FeatureSet:
    """Load a set by name from the first folder that has its file.

    `random100` is 100 random ImageNet classes drawn by the seed, `dogs` are the breeds of dogs,
    `dogs-single` has the texts of one template. `NAME.npz` may be called `starter_NAME.npz`.

    Raises:
        FileNotFoundError: no folder has the file.
    """
    if name in IMAGENET_SETS:
        with np.load(_find([IMAGENET], folders), allow_pickle=False) as file:
            return _imagenet(name, file, seed)
    found = _find([f"{name}.npz", f"starter_{name}.npz"], folders)
    with np.load(found, allow_pickle=False) as file:
        data = _read(name, file)
    if data.negatives is None and name == "caltech72":
        with np.load(_find([IMAGENET], folders), allow_pickle=False) as file:
            data = replace(data, negatives=unit(file[TEMPLATES]))
    return data


def unit(x: np.ndarray) -> Float[np.ndarray, "N D"]:
    """Rows as float32 with unit length."""
    rows = np.asarray(x, dtype=np.float32)
    scaled: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def names_only(data: FeatureSet, seed: int) -> Task:
    """A name for every class, no label."""
    return Task(data, np.full(len(data.train_y), -1), 0, data.classes, seed)


def few_shot_labels(data: FeatureSet, k: int, seed: int) -> Task:
    """k labels for every class, or all rows of a class that has fewer."""
    y = draw(data.train_y, range(data.classes), k, seed)
    return Task(data, y, data.classes, 0, seed)


def half_labels(data: FeatureSet, k: int, seed: int) -> Task:
    """k labels for a random half of the classes, names for all."""
    data = data.reordered(_order(data, seed))
    labelled = data.classes // 2
    y = draw(data.train_y, range(labelled), k, seed)
    return Task(data, y, labelled, data.classes - labelled, seed)


def gcd_labels(data: FeatureSet, seed: int) -> Task:
    """Labels for half of the rows of a random half of the classes, the rest unknown."""
    data = data.reordered(_order(data, seed))
    labelled = data.classes // 2
    y = draw(data.train_y, range(labelled), None, seed)
    return Task(data, y, labelled, 0, seed)


def half_names(data: FeatureSet, seed: int) -> Task:
    """Names for a random half of the classes, no label, the rest unknown."""
    data = data.reordered(_order(data, seed))
    return Task(data, np.full(len(data.train_y), -1), 0, data.classes // 2, seed)


def thirds(data: FeatureSet, seed: int, most: int = 16) -> Task:
    """A third labelled (half of the rows, at most 16), a third named, a third unknown."""
    data = data.reordered(_order(data, seed))
    third = data.classes // 3
    y = draw(data.train_y, range(third), None, seed, most)
    return Task(data, y, third, third, seed)


def left_out(data: FeatureSet, seed: int) -> Task:
    """Half of the classes without a training row; names for the others, or labels without text."""
    data = data.reordered(_order(data, seed))
    known = data.classes // 2
    kept = data.train_y < known
    h = None if data.train_h is None else data.train_h[kept]
    data = replace(data, train_x=data.train_x[kept], train_y=data.train_y[kept], train_h=h)
    if data.text is None:
        return Task(data, data.train_y, known, 0, seed)
    return Task(data, np.full(len(data.train_y), -1), 0, known, seed)


def draw(
    true: Int[np.ndarray, " N"],
    classes: Sequence[int],
    k: int | None,
    seed: int,
    most: int | None = None,
) -> Int[np.ndarray, " N"]:
    """Labels of k random rows of each class (None: half of them, at most `most`), -1 elsewhere."""
    rng = np.random.default_rng(seed)
    y = np.full(len(true), -1)
    for c in classes:
        rows = rng.permutation(np.flatnonzero(true == c))
        half = max(1, round(len(rows) / 2))
        count = k or min(half, most or half)
        y[rows[:count]] = c
    return y


IMAGENET_SETS = ("random100", "dogs", "dogs-single", "imagenet1000")
"""Sets of ImageNet classes."""


def _imagenet(name: str, file: Any, seed: int) -> FeatureSet:
    """Some of ImageNet's classes; the texts of the others are negatives."""
    chosen = np.arange(1000)
    if name == "random100":
        chosen = np.sort(np.random.default_rng(seed).permutation(1000)[:100])
    elif name != "imagenet1000":
        chosen = np.array(DOGS)
    text = unit(file[SINGLE if name == "dogs-single" else TEMPLATES])
    others = np.setdiff1d(np.arange(1000), chosen)
    train_x, train_y = _rows(file, ("shot1", "shot4"), chosen)
    test_x, test_y = _rows(file, ("shot2",), chosen)
    scale = float(file["logit_scale"])
    negatives = text[others] if len(others) else None
    return FeatureSet(
        name, train_x, train_y, test_x, test_y, text[chosen], scale, negatives=negatives
    )


def _rows(
    file: Any, shots: Sequence[str], chosen: Int[np.ndarray, " C"]
) -> tuple[Float[np.ndarray, "n D"], Int[np.ndarray, " n"]]:
    """Rows of the chosen classes, which are numbered in order."""
    x = np.concatenate([file[f"{shot}_x"] for shot in shots])
    y = np.concatenate([file[f"{shot}_y"] for shot in shots]).astype(np.int64)
    kept = np.isin(y, chosen)
    return unit(x[kept]), np.searchsorted(chosen, y[kept])


def _read(name: str, file: Any) -> FeatureSet:
    """A set from a file with one training and one test split."""
    arrays = {key: file[key] for key in file.files}
    scale = arrays.get("logit_scale", arrays.get("scale", SCALE))
    h = {key: np.asarray(arrays[key], np.float32) for key in ("train_h", "test_h") if key in arrays}
    texts = {key: unit(arrays[key]) for key in ("text", "negatives") if key in arrays}
    return FeatureSet(
        name,
        unit(arrays["train_x"]),
        arrays["train_y"].astype(np.int64),
        unit(arrays["test_x"]),
        arrays["test_y"].astype(np.int64),
        scale=float(scale),
        names=tuple(str(name) for name in arrays.get("names", ())),
        model=str(arrays.get("model", "")),
        **h,
        **texts,
    )


def _find(names: Sequence[str], folders: Sequence[Path | str]) -> Path:
    """The first file of these names in any of the folders."""
    for folder in folders:
        for name in names:
            if (Path(folder) / name).is_file():
                return Path(folder) / name
    raise FileNotFoundError(f"no {' or '.join(names)} in {', '.join(map(str, folders))}")


def _order(data: FeatureSet, seed: int) -> Int[np.ndarray, " C"]:
    """Random order of the classes; the first ones are labelled."""
    return np.random.default_rng((seed, data.classes)).permutation(data.classes)
