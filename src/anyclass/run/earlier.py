"""An earlier run as the start of a second round: its labels, its predictions, what it held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from anyclass.data import Classes, ImageDataset
from anyclass.data.label_tables import GIVEN, PREDICTED, KnownLabels
from anyclass.estimators.metrics import accuracy
from anyclass.files import Json, read_json
from anyclass.run.content import read_classes, read_parquet
from anyclass.run.folder import check_finished
from anyclass.run.opinions import Opinions
from anyclass.run.predictions import Probabilities


@dataclass(frozen=True)
class EarlierRun:
    """What is read of a finished run."""

    config: Json
    """The content of its `config.json`."""
    known: KnownLabels
    """The labels that it was given, and those that it predicted."""
    trained_on: frozenset[str]
    """Files whose labels it was trained on."""
    classes: Classes
    """Its classes, the discovered ones included."""

    @classmethod
    def read(cls, run: Path) -> "EarlierRun":
        """Read a run folder; in runs of 0.1, all labels count as trained on.

        Raises:
            RequestError: the folder contains no finished run.
        """
        check_finished(run)
        table = read_parquet(run / "predictions.parquet")
        files = table["file_name"].to_pylist()
        labels = _filled(files, table["true_label"])
        trained_on = frozenset(labels)
        written = "label"
        if PREDICTED in table.column_names:
            trained_on = _given(files, table["status"])
            written = PREDICTED
        known = KnownLabels(labels, _filled(files, table[written]))
        return cls(read_json(run / "config.json"), known, trained_on, read_classes(run))

    @property
    def held_out(self) -> frozenset[str]:
        """Files whose labels it held out of training (`--holdout`)."""
        if not self.config.get("holdout"):
            return frozenset()
        return frozenset(self.known.labels) - self.trained_on

    def named_since(self, classes: Classes) -> list[str]:
        """Names of classes that this run did not know, such as those of discovered classes."""
        kinds = zip(self.classes.names, self.classes.kinds, strict=True)
        known = {name for name, kind in kinds if kind != "unknown"}
        return [name for name in classes.names if name not in known]

    def unchanged(self, dataset: ImageDataset) -> Bool[np.ndarray, " N"]:
        """Whether each image has the label that this run was given."""
        names = dataset.classes.names
        labels = zip(dataset.files, dataset.labels.tolist(), strict=True)
        same = [c >= 0 and self.known.labels.get(file) == names[c] for file, c in labels]
        return np.array(same, bool)


def given_files(run: Path) -> frozenset[str]:
    """Files whose labels a run was trained on, as its predictions tell; none in runs of 0.1."""
    table = read_parquet(run / "predictions.parquet", ["file_name", "status"])
    return _given(table["file_name"].to_pylist(), table["status"])


def _given(files: Sequence[str], status: pa.ChunkedArray) -> frozenset[str]:
    """Files whose labels were trained on."""
    pairs = zip(files, status.to_pylist(), strict=True)
    return frozenset(file for file, found in pairs if found == GIVEN)


def _filled(files: Sequence[str], cells: pa.ChunkedArray) -> dict[str, str]:
    """Cells of a column by file, without empty ones."""
    return {file: cell for file, cell in zip(files, cells.to_pylist(), strict=True) if cell}


def compare_rounds(
    before: EarlierRun,
    dataset: ImageDataset,
    trained_on: Bool[np.ndarray, " N"],
    adapted: Probabilities,
    opinions: Opinions | None,
) -> Json:
    """Compare a run with the earlier run that it started from, on labels that are fair to both.

    Args:
        before: the earlier run.
        dataset: the readable images, with all labels.
        trained_on: whether each label was trained on now.
        adapted: probabilities by the new run.
        opinions: what the new run says of labels without using them, if its method tells.

    Returns:
        `kept` and `new`: numbers of labels; `unseen`: accuracies `before` and `after` on the `n`
        labels that neither run was trained on; `corrected`: the same on the new labels, each
        predicted without itself. Both are None where there is no such label.
    """
    names = dataset.classes.names
    labelled = dataset.labels >= 0
    kept = before.unchanged(dataset)
    known = np.isin(dataset.files, list(before.trained_on))
    index = {name: c for c, name in enumerate(names)}
    first = np.array([index.get(before.known.predicted.get(f, ""), -1) for f in dataset.files])
    has_first = np.array([file in before.known.predicted for file in dataset.files], bool)
    unseen = labelled & ~known & ~trained_on & has_first
    new = labelled & ~kept & ~known & has_first

    def scores(rows: Bool[np.ndarray, " N"], second: Any) -> Json | None:
        if not rows.any():
            return None
        labels = dataset.labels[rows]
        before_after = {
            "before": accuracy(labels, first[rows]),
            "after": accuracy(labels, second[rows]),
        }
        return {"n": int(rows.sum()), **before_after}

    return {
        "kept": int(kept.sum()),
        "new": int((labelled & ~kept).sum()),
        "unseen": scores(unseen, adapted.argmax(1)),
        "corrected": None if opinions is None else scores(new & trained_on, opinions.classes),
    }
