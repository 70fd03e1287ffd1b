"""Catalogue: the images of a run, their labels, and the orders to look at them in."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from anyclass.data import Classes, ImageDataset
from anyclass.data.label_tables import GIVEN
from anyclass.errors import RequestError
from anyclass.files import Json, csv_text, read_json
from anyclass.run.columns import COMPARED, REJECTED
from anyclass.run.content import read_classes, read_parquet, read_rows
from anyclass.run.folder import check_finished
from anyclass.run.predictions import confidence
from anyclass.run.sentences import order_only

Sort = Literal["least_confident", "most_confident", "changed", "suspicious", "file_name"]
"""Orders of the images."""

Show = Literal["all", "unchecked", "checked"]
"""All images | those without a correction | those with one."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The images of a run; row i of its predictions is image i of the page."""

    run: Path
    """The run folder."""
    root: Path
    """Folder of the images."""
    classes: Classes
    """The classes of the run."""
    columns: Mapping[str, list[Any]]
    """Columns of the predictions, None where an older run has none."""
    suspicious: frozenset[str]
    """Files whose label other images contradict."""
    _orders: dict[str, list[int]] = field(default_factory=dict)
    """Rows in each order, once it was asked for."""

    @classmethod
    def read(cls, run: Path) -> "Catalogue":
        """Read a run folder.

        Raises:
            RequestError: it is no finished run, was fitted on features, or its images are gone.
        """
        check_finished(run)
        images = read_json(run / "config.json").get("images")
        if images is None:
            raise RequestError(
                f"{run} was fitted on features, so there is no image to show: correct the labels "
                f"in {run / 'predictions.csv'} instead"
            )
        if not Path(images).is_dir():
            raise RequestError(
                f"{run} was fitted on the images in {images}, which is no folder now: move the "
                "images back"
            )
        table = read_parquet(run / "predictions.parquet")
        present = set(table.column_names)
        nothing = [None] * len(table)
        columns = {
            name: table[name].to_pylist() if name in present else nothing for name in COMPARED.names
        }
        classes = read_classes(run)
        return cls(run, Path(images), classes, columns, _suspicious(run))

    def __len__(self) -> int:
        """N, the number of images, including those that could not be read."""
        return len(self.files)

    @property
    def files(self) -> list[str]:
        """Name of each image, relative to `root`."""
        return self.columns["file_name"]

    def usable(self, i: int) -> bool:
        """Whether image i could be read by the run."""
        return bool(self.columns["status"][i] != REJECTED)

    def given(self, i: int) -> bool:
        """Whether the run was given the label of image i, and trained on it."""
        return bool(self.columns["status"][i] == GIVEN)

    @cached_property
    def _given(self) -> Bool[np.ndarray, " N"]:
        """Whether the run was given the label of each image, and trained on it."""
        return np.array([status == GIVEN for status in self.columns["status"]], bool)

    def dataset(self) -> tuple[ImageDataset, list[int]]:
        """The usable images, and the row of each."""
        rows = [i for i in range(len(self)) if self.usable(i)]
        files = tuple(self.files[i] for i in rows)
        return ImageDataset(self.root, files, np.full(len(rows), -1), self.classes), rows

    def path(self, i: int) -> Path:
        """Path of image i."""
        return self.root / self.files[i]

    def label(self, i: int, corrections: Mapping[str, str]) -> str:
        """Label of image i, corrected, given or predicted; empty where there is none."""
        return corrections.get(self.files[i], self.columns["label"][i] or "")

    @cached_property
    def confidence(self) -> Float[np.ndarray, " N"]:
        """Confidence in each predicted label, 1 where it was given."""
        score = _numbers(self.columns["score"], 0.0)
        if all(value is None for value in self.columns["familiarity"]):
            return score
        found = confidence(score, _numbers(self.columns["familiarity"], 1.0))
        return np.where(self._given, 1.0, found)

    def view(
        self, sort: Sort, label: str | None, show: Show, corrections: Mapping[str, str]
    ) -> list[int]:
        """Rows of the images to show, in order.

        Args:
            sort: the order; with `suspicious` only images with a given label that was checked
                against the other images, with `changed` only predictions other than zero-shot.
            label: only images with this label now; None: all.
            show: whether to show images with a correction.
            corrections: label by file name.
        """
        order = self._orders.get(sort)
        if order is None:
            order = self._orders[sort] = [i for i in self._order(sort) if self.usable(i)]
        files = self.files
        if show != "all":
            order = [i for i in order if (files[i] in corrections) == (show == "checked")]
        if label is not None:
            order = [i for i in order if self.label(i, corrections) == label]
        return order

    def _order(self, sort: Sort) -> list[int]:
        """All rows in an order, without those that it says nothing of."""
        if sort == "file_name":
            return list(range(len(self)))
        if sort == "suspicious":
            quality = _numbers(self.columns["label_quality"], np.nan)
            return _sorted(quality, np.isfinite(quality))
        if sort == "changed":
            return _sorted(-self._change(), self._change() > 0)
        found = self.confidence
        return _sorted(found if sort == "least_confident" else -found, np.ones(len(self), bool))

    def _change(self) -> Float[np.ndarray, " N"]:
        """Change from zero-shot: the smaller of both scores where the label is another, or 0."""
        after = _numbers(self.columns["score"], 0.0)
        before = _numbers(self.columns["zero_shot_score"], 0.0)
        names = zip(self.columns["label"], self.columns["zero_shot_label"], strict=True)
        other = np.array([bool(b) and a != b for a, b in names], bool)
        return np.where(other & ~self._given, np.minimum(after, before), 0)

    def counts(self, corrections: Mapping[str, str]) -> Counter[str]:
        """Number of images of each label."""
        counts = Counter(self._uncorrected)
        for file, label in corrections.items():
            i = self.row_of.get(file)
            if i is not None and self.usable(i):
                counts[self.label(i, {})] -= 1
                counts[label] += 1
        return +counts

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row of each file."""
        return {file: i for i, file in enumerate(self.files)}

    @cached_property
    def ranked(self) -> int:
        """Number of ranked images, where scores are an order and no probabilities; else 0."""
        if not order_only(read_json(self.run / "metrics.json")):
            return 0
        return max((rank for rank in self.columns["rank"] if rank), default=0)

    @cached_property
    def num_usable(self) -> int:
        """Number of images that could be read."""
        return sum(self._uncorrected.values())

    @cached_property
    def _uncorrected(self) -> Counter[str]:
        """Number of images of each label, without corrections."""
        return Counter(self.label(i, {}) for i in range(len(self)) if self.usable(i))

    def row(self, i: int) -> Json:
        """What the page shows of image i, but its correction."""
        cells = {name: self.columns[name][i] for name in SHOWN}
        file = self.files[i]
        return cells | {
            "id": i,
            "confidence": None if cells["score"] is None else float(self.confidence[i]),
            "suspicious": file in self.suspicious,
        }


SHOWN = (
    "file_name",
    "label",
    "score",
    "rank",
    "runner_up",
    "margin",
    "status",
    "familiarity",
    "zero_shot_label",
    "zero_shot_score",
    "opinion",
    "opinion_score",
    "label_quality",
)
"""Columns of the predictions that the page shows."""


def _suspicious(run: Path) -> frozenset[str]:
    """Files in `suspicious.csv`."""
    path = run / "suspicious.csv"
    if not path.is_file():
        return frozenset()
    return frozenset(csv_text(row["file_name"]) for row in read_rows(path, ("file_name",)))


def _numbers(cells: list[Any], missing: float) -> Float[np.ndarray, " N"]:
    """A column as numbers."""
    numbers = pa.array(cells, pa.float64()).to_numpy(zero_copy_only=False)
    return np.where(np.isnan(numbers), missing, numbers)


def _sorted(keys: Float[np.ndarray, " N"], kept: Any) -> list[int]:
    """Kept rows in the order of their keys."""
    order = np.argsort(keys, kind="stable")
    rows: list[int] = order[kept[order]].tolist()
    return rows
