"""What is wrong with class names, the number of labels of each, and the folders they come from."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import numpy as np

from anyclass.auditing.findings import Finding, Row, rows_of_class
from anyclass.data import ImageDataset, similar_names
from anyclass.data.classes import plural

IMBALANCE = 10
"""A class is small if the largest one has more than this many times its labels."""

_EVALUATION = re.compile(
    r"(test(ing)?|eval(uation)?|hold[ _-]?out)([ _-]?(data|set|images|split))?", re.IGNORECASE
)
"""Names of folders that hold images for evaluation, as a rule."""


def class_findings(dataset: ImageDataset) -> list[Finding]:
    """Findings about names and labels that need no image."""
    found = [
        _similar(dataset),
        _single(dataset),
        _small(dataset),
        _evaluation_folders(dataset),
    ]
    return [finding for finding in found if finding]


def remarks(dataset: ImageDataset) -> list[str]:
    """Findings of `class_findings`, a line each."""
    return [f"{finding.summary}: {finding.first}" for finding in class_findings(dataset)]


def unlisted_labels(files: Mapping[str, str], names: Sequence[str]) -> Finding:
    """Labels that are not in the list of classes.

    Args:
        files: file -> its label, where that is not in the list.
        names: the listed classes.
    """
    counts = Counter(files.values())
    folded = {name.casefold(): name for name in names}
    near = {label: get_close_matches(label.casefold(), list(folded), n=1) for label in counts}
    rows = [
        {
            "file_name": file,
            "label": label,
            "other": folded[near[label][0]] if near[label] else None,
        }
        for file, label in files.items()
    ]
    labels = ", ".join(f"{label!r} ({count})" for label, count in counts.most_common(3))
    more = f" and {len(counts) - 3} more" if len(counts) > 3 else ""
    return Finding(
        "label-not-in-list",
        f"{plural(len(counts), 'label')} of {plural(len(files), 'image')} "
        f"{'is' if len(counts) == 1 else 'are'} not in the list of classes: {labels}{more}",
        "add them to the list, or correct the labels (`other` is the nearest name): fit refuses "
        "them",
        rows,
    )


def _similar(dataset: ImageDataset) -> Finding | None:
    pairs = similar_names(dataset.classes.names)
    if not pairs:
        return None
    rows: list[Row] = []
    for pair in pairs:
        about = {"label": pair.second, "other": pair.first}
        about |= {"detail": f"differ in {pair.difference}"}
        rows += rows_of_class(dataset, dataset.classes.index(pair.second), about)
    return Finding(
        "similar-names",
        f"{plural(len(pairs), 'pair')} of class names that look alike",
        "if two names mean one class, keep one of them",
        rows,
        "equal but for case, spaces, invisible characters, HTML entities, accents, plural, or one "
        "letter of 7 or more",
        of_classes=True,
    )


def _single(dataset: ImageDataset) -> Finding | None:
    counts = np.bincount(dataset.labels[dataset.labels >= 0], minlength=len(dataset.classes))
    rows = [
        {"file_name": dataset.files[int(np.flatnonzero(dataset.labels == c)[0])], "label": name}
        for c, name in enumerate(dataset.classes.names)
        if counts[c] == 1
    ]
    if not rows:
        return None
    classes = "1 class has" if len(rows) == 1 else f"{len(rows)} classes have"
    return Finding(
        "one-image-class",
        f"{classes} one labelled image",
        "label more images of them: nothing can be held out, and one image says little",
        rows,
    )


def _small(dataset: ImageDataset) -> Finding | None:
    counts = np.bincount(dataset.labels[dataset.labels >= 0], minlength=len(dataset.classes))
    largest = int(counts.max(initial=0))
    small = [c for c, n in enumerate(counts) if 0 < n * IMBALANCE < largest]
    if not small:
        return None
    rows: list[Row] = []
    for c in sorted(small, key=lambda c: counts[c]):
        about = {"label": dataset.classes.names[c], "value": float(counts[c])}
        rows += rows_of_class(dataset, c, about)
    most = dataset.classes.names[int(counts.argmax())]
    return Finding(
        "imbalance",
        f"{plural(len(small), 'class')} with less than a tenth of the labels of the largest one "
        f"({most!r}, {largest:,})",
        "label more of them, and read the mean per class, not the accuracy alone",
        rows,
        f"labels x {IMBALANCE} < labels of the largest class; value is the number of labels",
        of_classes=True,
    )


def _evaluation_folders(dataset: ImageDataset) -> Finding | None:
    found = {
        file: folder
        for file in dataset.files
        for folder in file.split("/")[:-1]
        if _EVALUATION.fullmatch(folder)
    }
    if not found:
        return None
    folders = ", ".join(sorted(set(found.values())))
    return Finding(
        "evaluation-folder",
        f"{plural(len(found), 'image')} of folders called {folders} would be part of the fit",
        "if they are for evaluation, give the other folder as --images and this one as --eval",
        [{"file_name": file, "detail": folder} for file, folder in found.items()],
        "a folder is called test, testing, evaluation or holdout",
    )
