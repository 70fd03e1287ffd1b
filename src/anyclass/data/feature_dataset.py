"""The table of the images behind precomputed features: names of rows, labels and classes."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Shaped

from anyclass.data.class_files import ClassSource, class_names
from anyclass.data.classes import Classes, normal
from anyclass.data.dataset import ImageDataset
from anyclass.data.feature_tables import ClassTextTable, FeatureTable, Source, arrays_of
from anyclass.data.inputs import is_series, missing
from anyclass.data.label_inputs import label_rows
from anyclass.data.label_tables import KnownLabels, read_labels
from anyclass.data.table_files import Table
from anyclass.errors import RequestError


def feature_dataset(
    table: FeatureTable,
    texts: ClassTextTable | None = None,
    classes: ClassSource | None = None,
    labels: Source = None,
    unknown: int = 0,
    columns: tuple[str, str] = ("file_name", "label"),
    known: KnownLabels | None = None,
) -> ImageDataset:
    """Table of the images behind features: names of rows, labels and classes.

    Args:
        table: the features.
        texts: class texts, whose names are the classes by default.
        classes: names, or a file of names.
        labels: "folders" (the parent folder in the name of a row), a label table, or an array of
            names or class indices; in Python also a mapping, Series or table by the names of the
            rows; by default the labels of the features' file.
        unknown: number of further classes to discover.
        columns: columns of a label table.
        known: what an earlier run knew; its labels stay, if a label table does not change them.

    Raises:
        RequestError: labels, names and features do not match.
    """
    messages: tuple[str, ...] = ()
    array = table.labels
    by_name = _by_name(labels, classes, columns)
    if by_name is not None:
        label_of, messages = _labels_by_name(table.names, by_name, columns, known)
        array = np.array([label_of.get(name, "") for name in table.names])
    elif labels is None and known is not None:
        array = np.array([known.labels.get(name, "") for name in table.names])
    elif labels is not None:
        array = _label_array(labels)
        if array.shape != (len(table),):
            raise RequestError(f"{table.source} has {len(table)} rows, labels have {array.shape}")
    names = _class_names(classes, texts, array)
    given = [None] * len(table) if array is None else _named_labels(array, names)
    if names is None:
        names = sorted({name for name in given if name is not None})
    root = Path(table.source).parent.resolve()
    return ImageDataset.with_labels(root, table.names, given, names, unknown, messages)


def _by_name(
    labels: Any, classes: ClassSource | None, columns: tuple[str, str]
) -> str | Path | Table | None:
    """Labels that go by the names of the rows; None: they are in the order of the rows."""
    if isinstance(labels, str | Path):
        return None if str(labels).endswith(".npy") else labels
    if is_series(labels) and not all(isinstance(key, str) for key in labels.index):
        return None
    names = None if labels is None or classes is None else class_names(classes).names
    return label_rows(labels, names, columns)


def _labels_by_name(
    names: Sequence[str],
    labels: str | Path | Table,
    columns: tuple[str, str],
    known: KnownLabels | None,
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Labels by the parent folder in the name, or from a table."""
    if labels == "folders":
        parents = {name: PurePosixPath(name).parent.name for name in names}
        return {name: normal(parent) for name, parent in parents.items() if parent}, ()
    source = labels if isinstance(labels, Table) else Path(labels)
    found = read_labels(source, None, names, columns, known)
    return found.added_to(known.labels if known else {}), found.messages


def _label_array(labels: Source) -> Shaped[np.ndarray, " N"]:
    """Labels as texts or as numbers."""
    if isinstance(labels, str | Path):
        return np.asarray(arrays_of(labels, "labels")[0]["x"])
    if hasattr(labels, "detach"):
        return np.asarray(labels.detach().cpu())
    if isinstance(labels, np.ndarray) and labels.dtype != object:
        return labels
    values = list(labels)
    given = [label for label in values if not missing(label)]
    if given and not any(isinstance(label, str | bool) for label in given):
        return np.array([-1 if missing(label) else label for label in values])
    return np.array(["" if missing(label) else str(label) for label in values])


def _class_names(
    classes: ClassSource | None, texts: ClassTextTable | None, labels: Any
) -> ClassSource | None:
    """Names of the classes; None: those of the labels."""
    if classes is not None:
        return classes
    if texts is not None and texts.names is not None:
        return texts.names
    numbered = labels is not None and labels.dtype.kind in "fiu"
    most = int(np.nan_to_num(labels, nan=-1).max()) + 1 if numbered else 0
    count = max(most, 0 if texts is None else len(texts.features))
    names = [f"class {c}" for c in range(count)]
    given = set() if labels is None or numbered else {*map(str, labels)} - {""}
    if texts is not None and not given <= {*names}:
        raise RequestError(f"{texts.source} does not say which class a row is of: give --classes")
    return names or None


def _named_labels(labels: Any, names: ClassSource | None) -> list[str | None]:
    """The class name of each row; None: no label."""
    if labels.dtype.kind in "US":
        return [normal(str(label)) or None for label in labels.tolist()]
    if labels.dtype.kind not in "fiu":
        raise RequestError(f"labels are of type {labels.dtype}: give class names or class indices")
    if isinstance(names, str | Path):
        names = Classes.read(Path(names)).names
    indices = np.nan_to_num(labels, nan=-1)
    known = [normal(name) for name in names or ()]
    wrong = (indices != np.floor(indices)) | (indices < -1) | (indices >= len(known))
    if wrong.any():
        bad = indices[wrong][0]
        raise RequestError(
            f"label {bad:g} is no index of the {len(known)} classes; -1 stands for no label"
        )
    return [known[int(c)] if c >= 0 else None for c in indices.tolist()]
