"""`Predictions`: a label for each image, and the table behind it."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from anyclass.errors import RequestError
from anyclass.report.thumbnails import Thumbnail, no_image

Output = Literal["default", "pandas", "arrow"]
"""Kind of a table: `Predictions`, a pandas DataFrame or a pyarrow Table."""

ROWS = 10
"""Rows of a table that are printed."""
SHOWN = ("file_name", "label", "score", "rank", "runner_up", "familiarity", "reason")
"""Columns that are printed, where there is anything in them."""


@dataclass(frozen=True, eq=False, repr=False)
class Predictions(Sequence[str | None]):
    """Labels of N images, in their order: a sequence of texts, None where there is no label.

    An image without a label could not be read, or its score is below `min_score`; `reasons` says
    which. In a notebook the table shows itself, with thumbnails.
    """

    table: pa.Table
    """A row per image; the columns are those of `predictions.csv`."""
    classes_: list[str]
    """Class names in the order of the columns of `probabilities`."""
    probabilities: Float[np.ndarray, "N C"] | None = None
    """Probability of each class, NaN for an image that could not be read; None for the images that
    a run was fitted on, of which a run keeps the table alone."""
    thumbnail_of: Thumbnail = no_image
    """Name of an image -> its thumbnail."""
    index: Any = None
    """Index of the DataFrame or Series that the images came in."""

    @property
    def names(self) -> list[str]:
        """Names of the images: paths below their folder, or numbers."""
        return list(self.table["file_name"].to_pylist())

    @property
    def labels(self) -> list[str | None]:
        """Label of each image, None: no label."""
        return list(self.table["label"].to_pylist())

    @property
    def scores(self) -> Float[np.ndarray, " N"]:
        """Score of the most probable class, NaN for an image that could not be read."""
        return np.array(self.table["score"].to_numpy(), np.float32)

    @property
    def reasons(self) -> dict[str, str]:
        """Name of each image without a label -> why it has none."""
        pairs = zip(self.names, self.table["reason"].to_pylist(), strict=True)
        return {name: reason for name, reason in pairs if reason}

    def counts(self) -> dict[str, int]:
        """Number of images of each label, the most frequent first."""
        return dict(Counter(label for label in self.labels if label is not None).most_common())

    def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """The `k` most probable classes of each image, with their probabilities.

        Raises:
            RequestError: there are no probabilities.
        """
        if self.probabilities is None:
            raise RequestError("a run keeps no probabilities of its images: predict them again")
        orders = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        found = []
        for row, order in zip(self.probabilities, orders, strict=True):
            best = [(self.classes_[c], float(row[c])) for c in order]
            found.append([] if np.isnan(row).any() else best)
        return found

    def to_arrow(self) -> pa.Table:
        """The table."""
        return self.table

    def to_pandas(self) -> Any:
        """The table as a DataFrame, with the index of the images if they had one."""
        frame = self.table.to_pandas()
        return frame if self.index is None else frame.set_index(self.index)

    def as_output(self, output: str) -> Any:
        """These predictions, or their table.

        Args:
            output: a value of `Output`.

        Raises:
            RequestError: there is no such kind of table.
        """
        kinds: dict[str, Callable[[], Any]] = {
            "default": lambda: self,
            "pandas": self.to_pandas,
            "arrow": self.to_arrow,
        }
        if output not in kinds:
            raise RequestError(f"output={output!r}: use {', '.join(map(repr, kinds))}")
        return kinds[output]()

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: without thumbnails, which are made of the images."""
        return vars(self) | {"thumbnail_of": no_image}

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[str | None]:
        return iter(self.labels)

    @overload
    def __getitem__(self, index: int) -> str | None: ...

    @overload
    def __getitem__(self, index: slice) -> "Predictions": ...

    def __getitem__(self, index: int | slice) -> "str | None | Predictions":
        if not isinstance(index, slice):
            return self.labels[index]
        rows = np.arange(len(self))[index]
        return replace(
            self,
            table=self.table.take(rows),
            probabilities=None if self.probabilities is None else self.probabilities[rows],
            index=None if self.index is None else self.index[rows],
        )

    def shown(self) -> list[dict[str, Any]]:
        """The first rows for the screen: columns with values, numbers rounded."""
        rows = self.table.slice(0, ROWS).to_pylist()
        filled = {name for row in rows for name, cell in row.items() if cell is not None}
        used = [name for name in SHOWN if name in filled]
        shown = []
        for row in rows:
            shown.append({name: _cell(row[name]) for name in used})
        return shown

    def __repr__(self) -> str:
        rows = self.shown()
        if not rows:
            return self.summary()
        lines = [[*rows[0]], *([*row.values()] for row in rows)]
        widths = [min(40, max(map(len, column))) for column in zip(*lines, strict=True)]
        text = [self.summary()]
        for line in lines:
            cells = [_cut(cell).ljust(width) for cell, width in zip(line, widths, strict=True)]
            text.append("  ".join(cells).rstrip())
        return "\n".join([*text, *self.more()])

    def _repr_html_(self) -> str:
        from anyclass.api.display import predictions_html

        return predictions_html(self)

    def summary(self) -> str:
        """Number of images, and of those without a label."""
        missing = len(self) - sum(self.counts().values())
        without = f", {missing} without a label" if missing else ""
        return f"{len(self)} image{'' if len(self) == 1 else 's'}{without}"

    def more(self) -> list[str]:
        """What is not shown."""
        left = len(self) - ROWS
        return [f"... and {left} more; to_pandas() has all"] if left > 0 else []


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return "".join(c if c.isprintable() else " " for c in text)


def _cut(text: str) -> str:
    """The end of a long text, which tells file names apart."""
    return text if len(text) <= 40 else f"…{text[-39:]}"
