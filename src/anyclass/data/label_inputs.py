"""What Python takes for labels: a list, a mapping, a Series, a table, a column, a file, folders."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anyclass.data.class_files import ClassSource, class_names
from anyclass.data.classes import Classes, listed, normal
from anyclass.data.dataset import ImageDataset
from anyclass.data.inputs import (
    ImageSource,
    column_names,
    image_source,
    is_series,
    missing,
    table_column,
)
from anyclass.data.label_tables import KnownLabels, read_labels
from anyclass.data.table_files import Table
from anyclass.errors import RequestError

Labels = list[str | None]
"""Label of each image, None: no label."""


def read_images(
    images: Any,
    classes: Any = None,
    labels: Any = None,
    unknown: int = 0,
    split: Literal["fit", "all"] = "all",
    columns: tuple[str, str] = ("file_name", "label"),
    known: KnownLabels | None = None,
) -> ImageDataset:
    """Read images of any kind with their labels.

    Args:
        images: see `inputs.py`.
        classes: names, a mapping from names to prompts, or a file of names.
        labels: one per image in their order; a mapping or a Series by path or name; a table with
            columns of paths and labels, in memory or in a file; a column of the images' own table;
            or "folders". Numbers are indices of the classes, -1 for none.
        unknown: number of further classes to discover.
        split: "fit" leaves out the test split of a folder.
        columns: names of the columns of paths and labels.
        known: what an earlier run knew; its labels stay, if `labels` does not change them.

    Raises:
        RequestError: images, names and labels do not match.
    """
    source = image_source(images)
    classes = class_source(classes)
    names = None
    if classes is not None and labels is not None and not isinstance(labels, str | Path):
        names = class_names(classes).names
    if isinstance(source, Path):
        if labels is not None and not isinstance(labels, str | Path):
            labels = label_rows(labels, names, columns)
            if labels is None:
                raise RequestError(
                    "labels is a list and images is a folder, which has no order: give a mapping "
                    "{path: label}, a Series, a table, or a list of images"
                )
        return ImageDataset.read(source, classes, labels, unknown, split, *columns, known)
    return _with_labels(source, classes, labels, names, unknown, columns, known)


def class_source(classes: Any) -> ClassSource | None:
    """Names of classes, a mapping from names to prompts, or a file of names.

    Raises:
        RequestError: a name is no text.
    """
    if isinstance(classes, Classes):
        return dict(zip(classes.names, classes.all_prompts, strict=True))
    if classes is None or isinstance(classes, str | Path):
        return classes
    if not hasattr(classes, "__iter__"):
        raise RequestError(f"classes is of type {type(classes).__name__}: give a list of names")
    names = dict(classes) if isinstance(classes, Mapping) else tuple(classes)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        kind = type(wrong[0]).__name__
        raise RequestError(f"class names must be text, not {kind} ({wrong[0]!r:.80})")
    return tuple(sorted(names)) if isinstance(classes, Set) else names  # a set has no order


def _with_labels(
    source: ImageSource,
    classes: ClassSource | None,
    labels: Any,
    names: Sequence[str] | None,
    unknown: int,
    columns: tuple[str, str],
    known: KnownLabels | None,
) -> ImageDataset:
    """Images one by one, with their labels; arguments as of `read_images`."""
    dataset = source.dataset
    earlier = dict(known.labels) if known else {}
    named = [*dataset.classes.names, None]  # -1 is the last one
    pairs = zip(dataset.files, dataset.labels, strict=True)
    given: Labels = [named[c] or earlier.get(file) for file, c in pairs]
    messages: tuple[str, ...] = ()
    column = table_column(source.table, labels) if isinstance(labels, str) else None
    rows: Path | Table | None = None
    if column is not None:
        given = _texts(column[0], column[1] or names)
    elif isinstance(labels, str) and labels == "folders":
        given = _folders(dataset)
    elif isinstance(labels, str | Path):
        rows = Path(labels)
        _check_file(rows, source.table)
    elif labels is not None:
        if source.index is not None and is_series(labels):
            labels = _as_indexed(labels, source.index)
        rows = label_rows(labels, names, columns, source)
        if rows is None:
            given = _texts(_listed(labels, len(dataset)), names)
    if rows is not None:
        root = dataset.root if dataset.memory is None else None
        table = read_labels(rows, root, dataset.files, columns, known)
        label_of = table.added_to(earlier)
        given = [label_of.get(file) for file in dataset.files]
        messages = table.messages
    used = sorted({label for label in given if label is not None})
    if classes is None:
        classes = class_source(dataset.classes if len(dataset.classes) else used)
    return ImageDataset.with_labels(
        dataset.root, dataset.files, given, classes or (), unknown, messages, dataset.memory
    )


def _check_file(file: Path, table: Any) -> None:
    """Name the columns of a table of images, where a label column was misspelt.

    Raises:
        RequestError: there is no such file, although there are columns to choose from.
    """
    columns = column_names(table)
    if columns and not file.exists():
        raise RequestError(
            f"labels={str(file)!r} is no column of images, which have {listed(map(str, columns))}, "
            "and no file"
        )


def _folders(dataset: ImageDataset) -> Labels:
    """The parent folder of each file."""
    if dataset.memory is not None:
        raise RequestError('labels="folders" needs files: images in memory lie in no folder')
    return [normal(dataset.path(i).parent.name) for i in range(len(dataset))]


def label_rows(
    labels: Any,
    names: Sequence[str] | None,
    columns: tuple[str, str],
    source: ImageSource | None = None,
) -> Table | None:
    """Labels by path or name as rows of a table; None: they are in the order of the images.

    Args:
        labels: a mapping, Series or table; anything else is in the order of the images.
        names: names of the classes, if they are known.
        columns: names of the columns of paths and labels.
        source: the images, if they have an order.

    Raises:
        RequestError: there is no label, or one that is none of the classes.
    """
    if hasattr(labels, "column_names"):
        table = labels.to_pylist() if hasattr(labels, "to_pylist") else list(labels)
        return _checked(table, names, columns)
    if hasattr(labels, "columns"):
        return _checked(labels.to_dict("records"), names, columns)
    if is_series(labels):
        if source is not None and _in_order(labels, source):
            return None
        labels = dict(zip(labels.index, labels, strict=True))
    if not isinstance(labels, Mapping):
        return None
    pairs = [{columns[0]: str(file), columns[1]: label} for file, label in labels.items()]
    return _checked(pairs, names, columns)


def _as_indexed(labels: Any, index: Any) -> Any:
    """A Series of labels in the order of the images' index, where it has the same keys."""
    alike = index.is_unique and labels.index.is_unique and len(index) == len(labels)
    return labels.loc[index] if alike and index.isin(labels.index).all() else labels


def _in_order(labels: Any, source: ImageSource) -> bool:
    """Whether a Series of labels is in the order of the images; else its index has their names."""
    if source.index is not None and labels.index.equals(source.index):
        return True
    return not all(isinstance(key, str | Path) for key in labels.index)


def _checked(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None, columns: tuple[str, str]
) -> Table:
    """Rows whose labels are texts."""
    if not rows:
        raise RequestError("labels is empty: leave it out, or give the label of an image")
    if columns[1] not in rows[0]:
        return Table(tuple(map(str, rows[0])), [dict(row) for row in rows], ())
    texts = _texts([row[columns[1]] for row in rows], names)
    cells = []
    for row, text in zip(rows, texts, strict=True):
        present = {key: None if missing(cell) else cell for key, cell in row.items()}
        cells.append(present | {columns[1]: text})
    return Table(tuple(map(str, rows[0])), cells, ())


def _listed(labels: Any, count: int) -> list[Any]:
    """Labels in the order of the images."""
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().tolist()
    if not hasattr(labels, "__iter__"):
        raise RequestError(f"labels is of type {type(labels).__name__}: give one label per image")
    values = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    if len(values) != count:
        raise RequestError(f"labels has {len(values)} values for {count} images: give one for each")
    return values


def _texts(labels: Sequence[Any], names: Sequence[str] | None) -> Labels:
    """Class name of each label; None: no label.

    Args:
        labels: names, or indices of `names` with -1 for none; None, NaN and "" are no label.
        names: names of the classes, if they are known.
    """
    return [_text(label, names) for label in labels]


def _text(label: Any, names: Sequence[str] | None) -> str | None:
    if missing(label):
        return None
    if isinstance(label, bool | np.bool_ | str | bytes):
        return normal(label.decode() if isinstance(label, bytes) else str(label)) or None
    number = isinstance(label, int | float | np.integer | np.floating)
    if not number or not float(label).is_integer():
        raise RequestError(f"labels holds {label!r:.80}: a label is a class name or its index")
    if label == -1:
        return None
    if names is None:
        raise RequestError(
            f"labels holds numbers such as {int(label)}: give the names of the classes in the "
            "order of the numbers (classes=[...])"
        )
    if not 0 <= label < len(names):
        raise RequestError(
            f"labels holds {int(label)}, no index of the {len(names)} classes; -1 is no label"
        )
    return names[int(label)]
