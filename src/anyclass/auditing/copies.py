"""Copies: files with the same content, and images of one photograph; within a folder and across."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.auditing.findings import Finding, Row, groups_of
from anyclass.data import ImageDataset
from anyclass.data.classes import plural
from anyclass.data.copies import Copies, linked_files, places, same_content
from anyclass.data.inspection import HASH, Inspection
from anyclass.data.near_copies import COPY, similarity
from anyclass.estimators.nearest import nearest_pairs
from anyclass.log import Log

BITS = 16
"""Maximum number of different bits of 64 of the perceptual hashes of images that are compared in
detail."""
COSINE = 0.9
"""Minimum cosine of the features of images that are compared in detail."""
NEIGHBOURS = 5
"""Images that each image is compared with."""
CRITERION = f"similarity of at least {COPY} once resized and, up to 90 % of the side, cropped alike"


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a fit, and those of an evaluation behind them."""

    fit: ImageDataset
    """The images to fit on."""
    evaluation: ImageDataset | None
    """The images to evaluate on."""
    copies: Copies
    """Files of both with the same content; indices of the second begin behind the first."""

    @classmethod
    def of(cls, fit: ImageDataset, evaluation: ImageDataset | None) -> "Images":
        """Find the files with the same content."""
        files = places(fit) + (places(evaluation) if evaluation else [])
        return cls(fit, evaluation, same_content(files))

    @property
    def files(self) -> list[str]:
        """Names of all images."""
        return [*self.fit.files, *(self.evaluation.files if self.evaluation else ())]

    @property
    def first(self) -> Int[np.ndarray, " N"]:
        """For each image the first one with the same content."""
        index = np.arange(len(self.files))
        for group in self.copies.groups:
            index[group] = group[0]
        return index

    def label(self, index: int) -> str | None:
        """Label of an image of the fit; None without one."""
        if index >= len(self.fit) or self.fit.labels[index] < 0:
            return None
        return self.fit.classes.names[int(self.fit.labels[index])]


def copies_in_words(dataset: ImageDataset, hashes: Sequence[str | None]) -> str:
    """A line on images with the same content; empty if there are none.

    Args:
        dataset: the images.
        hashes: checksum of the content of each image; None if it is unreadable.
    """
    groups: dict[str, list[int]] = {}
    for index, key in enumerate(hashes):
        if key is not None:
            groups.setdefault(key, []).append(index)
    repeated = sorted(group for group in groups.values() if len(group) > 1)
    paths = {index: dataset.path(index) for group in repeated for index in group}
    copies = Copies(repeated, linked_files(paths))
    found = exact_findings(Images(dataset, None, copies))
    sentences = [finding.summary for finding in reversed(found)]
    return f"{'; '.join(sentences)}: {found[-1].first}" if found else ""


def exact_findings(images: Images) -> list[Finding]:
    """Files with the same content: in both folders, with different labels, in one folder."""
    size = len(images.fit)
    groups = images.copies.groups
    both = [g for g in groups if g[0] < size <= g[-1]]
    fit_only = [g[: bisect_left(g, size)] for g in groups]
    inner = [g for g in fit_only if len(g) > 1]
    conflicts = [g for g in inner if len({*map(images.label, g)} - {None}) > 1]
    found = [_in_evaluation(images, both), _conflicts(images, conflicts), _same(images, inner)]
    return [finding for finding in found if finding]


def _in_evaluation(images: Images, groups: Sequence[list[int]]) -> Finding | None:
    files = images.files
    size = len(images.fit)
    rows = []
    for group in groups:
        known = [i for i in group if i < size]
        rows += [_row(images, known[0]) | {"other": files[i]} for i in group if i >= size]
    if not rows:
        return None
    return Finding(
        "in-evaluation",
        f"{plural(len(rows), 'image')} of the evaluation folder {_also(rows)} an image to fit on",
        "remove them from one of the folders: scores on them say nothing of new images",
        rows,
        "the same bytes; `other` is the file in the evaluation folder",
    )


def _also(rows: Sequence[Row]) -> str:
    return "is a copy of" if len(rows) == 1 else "are copies of"


def _conflicts(images: Images, groups: Sequence[list[int]]) -> Finding | None:
    rows = [
        _row(images, i) | {"group": number}
        for number, group in enumerate(groups, 1)
        for i in group
        if images.label(i) is not None
    ]
    if not rows:
        return None
    return Finding(
        "conflicting-labels",
        f"{plural(len(groups), 'image')} with copies that have different labels, "
        f"{plural(len(rows), 'file')} in all",
        "correct these labels, or remove them: at most one of each group is right",
        rows,
        "the same bytes, different labels",
    )


def _same(images: Images, groups: Sequence[list[int]]) -> Finding | None:
    rows = [
        _row(images, i)
        | {"group": number, "other": images.files[group[0]]}
        | ({"detail": "link"} if i in images.copies.linked else {})
        for number, group in enumerate(groups, 1)
        for i in group[1:]
    ]
    if not rows:
        return None
    links = sum("detail" in row for row in rows)
    through = f", {links:,} of them through links" if links else ""
    one = len(rows) == 1
    return Finding(
        "exact-copies",
        f"{plural(len(rows), 'file')} {'is a copy' if one else 'are copies'} of "
        f"{plural(len(groups), 'other image')}{through}",
        "keep one of each: copies count twice, and make held-out scores too good",
        rows,
        "the same bytes",
    )


def near_findings(
    images: Images,
    found: Inspection,
    of: Int[np.ndarray, " N"],
    features: Float[Tensor, "R D"] | None,
    log: Log,
) -> list[Finding]:
    """Images of one photograph with different bytes: across the folders, within the first.

    Args:
        images: the images.
        found: measurements of R images with different contents.
        of: row of `found` of each file.
        features: unit features of these images, NaN where there are none; None: not known.
        log: gets the progress.
    """
    size = len(images.fit)
    rows, first = np.unique(of, return_index=True)  # file of each row
    is_fit = first < size
    signs = torch.from_numpy(np.where(found.hashes, 1.0, -1.0).astype(np.float32)) / HASH
    spaces = [(signs, 1 - 2 * BITS / HASH**2)]
    if features is not None:
        spaces.append((features.nan_to_num(), COSINE))
    a = np.flatnonzero(is_fit & found.ok[rows])
    b = np.flatnonzero(~is_fit & found.ok[rows])
    pairs = [a[nearest_pairs(x[a], None, NEIGHBOURS, least)[0]] for x, least in spaces]
    for x, least in spaces:
        across = nearest_pairs(x[b], x[a], NEIGHBOURS, least)[0]
        pairs.append(np.stack([a[across[:, 1]], b[across[:, 0]]], axis=1))
    joined = np.unique(np.concatenate(pairs).reshape(-1, 2), axis=0)
    everything = places(images.fit) + (places(images.evaluation) if images.evaluation else [])
    scores = similarity([everything[i] for i in first], found.thumbs, joined, log)
    kept = scores >= COPY
    scored = [
        (int(first[i]), int(first[j]), float(value))
        for (i, j), value in zip(joined[kept], scores[kept], strict=True)
    ]
    inside = [row for row in scored if row[1] < size]
    between = [row for row in scored if row[1] >= size]
    reports = [_near_evaluation(images, between), _near(images, inside)]
    return [finding for finding in reports if finding]


def _near_evaluation(images: Images, pairs: Sequence[tuple[int, int, float]]) -> Finding | None:
    best: dict[int, tuple[int, float]] = {}
    for i, j, value in pairs:
        if value > best.get(j, (0, 0.0))[1]:
            best[j] = (i, value)
    if not best:
        return None
    files = images.files
    rows = [
        _row(images, i) | {"other": files[j], "value": round(value, 4)}
        for j, (i, value) in sorted(best.items(), key=lambda item: -item[1][1])
    ]
    return Finding(
        "near-evaluation",
        f"{plural(len(rows), 'image')} of the evaluation folder {_also(rows)} a photograph to fit "
        "on, resized, compressed or cropped",
        "look at them, and remove them from one of the folders",
        rows,
        f"{CRITERION}; `other` is the file in the evaluation folder",
    )


def _near(images: Images, pairs: Sequence[tuple[int, int, float]]) -> Finding | None:
    best: dict[int, tuple[int, float]] = {}
    for i, j, value in pairs:
        for one, other in ((i, j), (j, i)):
            if value > best.get(one, (0, 0.0))[1]:
                best[one] = (other, value)
    groups = groups_of([(i, j) for i, j, _ in pairs], len(images.fit))
    if not groups:
        return None
    rows = []
    different = 0
    for number, group in enumerate(groups, 1):
        names = {images.label(i) for i in group} - {None}
        different += len(names) > 1
        for i in group:
            other, value = best[i]
            row = {"group": number, "other": images.files[other], "value": round(value, 4)}
            detail = {"detail": "different labels"} if len(names) > 1 else {}
            rows.append(_row(images, i) | row | detail)
    labels = f", {different} with different labels" if different else ""
    return Finding(
        "near-copies",
        f"{plural(len(rows), 'image')} in {plural(len(groups), 'group')} show the same photograph, "
        f"resized, compressed or cropped{labels}",
        "look at them and keep one of each group",
        rows,
        CRITERION,
    )


def _row(images: Images, index: int) -> Row:
    """File and label of an image."""
    return {"file_name": images.files[index], "label": images.label(index)}
