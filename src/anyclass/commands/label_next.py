"""`rows_to_label`: the images of a run whose label would teach most, as a table to fill in."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anyclass.classifier.representation import unit_features
from anyclass.commands.run_images import image_rows
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.estimators.active_learning import most_useful
from anyclass.run.columns import REJECTED
from anyclass.run.content import read_parquet
from anyclass.run.progress import Progress
from anyclass.run.tables import Row

COUNT = 30
"""Images in a table."""

LABEL_NEXT = pa.schema(
    [("file_name", pa.string()), ("label", pa.string())]
    + [("predicted", pa.string()), ("score", pa.float32())]
)
"""Columns of the table; `label` is empty, to be filled in."""


def rows_to_label(run: Path, count: int = COUNT, given: ImageDataset | None = None) -> list[Row]:
    """Rows of `LABEL_NEXT`, the most useful image first.

    Args:
        run: a finished run; its images, or features, must be where they were.
        count: how many images, if there are as many without a label.
        given: the images of the run, if they are in memory; None: where the run found them.

    Raises:
        RequestError: `count` is below 1, every image has a label, or images are no longer there.
    """
    if count < 1:
        raise RequestError(f"label_next takes a number of images, not {count}: give at least 1")
    table = read_parquet(run / "predictions.parquet")
    table = table.filter(pc.field("status") != REJECTED)
    free = np.array([status == "ok" for status in table["status"].to_pylist()], bool)
    if not free.any():
        raise RequestError(f"every image of {run} has a label: there is none to label next")
    files = table["file_name"].to_pylist()
    with Progress() as log:
        images = image_rows(run, files, log, given)
    x = unit_features(images.rows, images.classifier.representation.comparable_width)
    margin = pc.fill_null(table["margin"], 0).to_numpy().astype(np.float64)
    chosen = table.take(most_useful(x, margin, free, count))
    columns = chosen.select(["file_name", "label", "score"]).to_pylist()
    return [
        {
            "file_name": row["file_name"],
            "label": None,
            "predicted": row["label"],
            "score": row["score"],
        }
        for row in columns
    ]
