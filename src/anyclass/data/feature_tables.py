"""Image features that were computed before: with names of rows, labels and class texts.

A table comes from a file (`feature_formats.py`) or from arrays. Letters: N images, D dimensions of
the space shared with texts, H of the image tower before its projection, C classes.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from anyclass.data.classes import Classes, listed, normal
from anyclass.data.feature_formats import Arrays, read_arrays
from anyclass.errors import RequestError

BLOCK = 4096
"""Rows in memory at once."""

LOGIT_SCALE = 100.0
"""Logit scale of CLIP, where a file tells no other."""

IMAGE_KEYS = ("x", "features", "embeddings", "image_features")
LABEL_KEYS = ("labels", "y", "label")
NAME_KEYS = ("names", "file_names", "file_name")
TEXT_KEYS = ("class_text", "text_features", "texts", "text")
CLASS_KEYS = ("class_names", "classes")
OTHER_KEYS = {
    "extra",
    "logit_scale",
    "negative_text",
    *LABEL_KEYS,
    *NAME_KEYS,
    *TEXT_KEYS,
    *CLASS_KEYS,
}

Source = Any
"""A path, a numpy array, a tensor or nested lists."""


class ClassTextTable(NamedTuple):
    """Text features of classes."""

    source: str
    """Where they come from, for messages."""
    features: Shaped[np.ndarray, "C D"]
    """A row per class; NaN: the class has no text."""
    names: tuple[str, ...] | None
    """Names of the classes, if they are known."""
    logit_scale: float | None
    """Factor of the model on cosine similarities, if it is known."""
    negatives: Shaped[np.ndarray, "M D"] | None = None
    """Text features of other nouns, if there are any."""


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of N images, not yet checked value by value: that is done where they are read."""

    source: str
    """Where they come from, for messages."""
    x: Shaped[np.ndarray, "N D"]
    """Image features in the space shared with texts; of any length, of any numeric type."""
    extra: Shaped[np.ndarray, "N H"] | None = None
    """Further features: those before the projection."""
    names: tuple[str, ...] = ()
    """Names of the rows, unique."""
    labels: Shaped[np.ndarray, " N"] | None = None
    """Class names, empty where unknown; or class indices, -1 where unknown."""
    texts: ClassTextTable | None = None
    """Class texts of the same file."""

    def __len__(self) -> int:
        """N."""
        return len(self.x)

    def blocks(self) -> Iterator[tuple[Float[np.ndarray, "n D"], Float[np.ndarray, "n H"]]]:
        """Unit features and further features (H = 0 without any) in float32, in blocks of rows.

        Raises:
            RequestError: a value is not finite, or a row is zero.
        """
        for start in range(0, len(self), BLOCK):
            rows = slice(start, start + BLOCK)
            x = self._finite(self.x, rows)
            length = np.linalg.norm(x, axis=1, keepdims=True)
            if not length.all():
                row = self.names[start + int(np.argmin(length))]
                raise RequestError(f"{self.source}: the features of {row!r} are all zero")
            h = np.zeros((len(x), 0), np.float32)
            yield x / length, h if self.extra is None else self._finite(self.extra, rows)

    def _finite(self, array: Shaped[np.ndarray, "N D"], rows: slice) -> Float[np.ndarray, "n D"]:
        block = np.array(array[rows], np.float32)
        finite = np.isfinite(block).all(1)
        if not finite.all():
            row = self.names[rows.start + int(np.argmin(finite))]
            raise RequestError(
                f"{self.source}: the features of {row!r} have a value that is not finite"
            )
        return block


def read_features(source: Source, extra: Source = None) -> FeatureTable:
    """Read image features.

    Args:
        source: a file, see `feature_formats.py`, or an array (N, D).
        extra: file or array (N, H) of further features; by default those in the file.

    Raises:
        RequestError: a file is damaged, or arrays do not fit together.
    """
    arrays, where = arrays_of(source, "features")
    x = _matrix(_pick(arrays, IMAGE_KEYS, where, "image features (N, D)"), where)
    if len(x) == 0:
        raise RequestError(f"{where} has no row")
    more = arrays.get("extra")
    if extra is not None:
        given, place = arrays_of(extra, "extra")
        more = _pick(given, ("extra", *IMAGE_KEYS), place, "features (N, H)")
    found = {"extra": None if more is None else _matrix(more, where)}
    names = _first(arrays, NAME_KEYS)
    found["labels"] = labels = _first(arrays, LABEL_KEYS)
    for key, array in (*found.items(), ("names", names)):
        if array is not None and (np.ndim(array) == 0 or len(array) != len(x)):
            raise RequestError(
                f"{where} has {len(x)} rows of features, but {key} of {_shape(array)}"
            )
    texts = _texts_in(arrays, where) if _first(arrays, TEXT_KEYS) is not None else None
    return FeatureTable(where, x, found["extra"], _names(names, len(x), where), labels, texts)


def read_class_texts(source: Source) -> ClassTextTable:
    """Read text features of classes: a file or an array (C, D).

    Raises:
        RequestError: the file is damaged, or holds no such array.
    """
    return _texts_in(*arrays_of(source, "class texts"))


def align_texts(texts: ClassTextTable, classes: Classes, width: int) -> Float[np.ndarray, "C D"]:
    """Unit text features in the order of the classes; NaN: the class has none.

    Raises:
        RequestError: their width is not that of image features, or rows and classes differ.
    """
    if texts.features.shape[1] != width:
        raise RequestError(
            f"{texts.source} has class texts of width {texts.features.shape[1]}, image features "
            f"have width {width}: both must come from the same model"
        )
    if texts.names is None and len(texts.features) != len(classes):
        raise RequestError(
            f"{texts.source} has {len(texts.features)} class texts and there are {len(classes)} "
            "classes: give a row for each name in --classes, of NaN where there is no text"
        )
    names = classes.names if texts.names is None else texts.names
    row_of = {name: row for name, row in zip(names, texts.features, strict=True)}
    none = np.full(width, np.nan, np.float32)
    rows = [np.asarray(row_of.get(name, none), np.float32) for name in classes.names]
    aligned = np.stack(rows) if rows else np.zeros((0, width), np.float32)
    bad = np.isinf(aligned).any(1) | (np.isnan(aligned).any(1) & ~np.isnan(aligned).all(1))
    length = np.linalg.norm(aligned, axis=1, keepdims=True)
    bad |= (length == 0)[:, 0]
    if bad.any():
        name = classes.names[int(np.argmax(bad))]
        raise RequestError(f"{texts.source}: the text of {name!r} is zero or not finite")
    unit: Float[np.ndarray, "C D"] = aligned / length
    return unit


def arrays_of(source: Source, what: str) -> tuple[Arrays, str]:
    """Arrays by name, and what to call their source."""
    if isinstance(source, str | Path):
        return read_arrays(Path(source)), str(source)
    tensor = source.detach().cpu() if hasattr(source, "detach") else source
    array = np.asarray(
        tensor.float() if str(getattr(tensor, "dtype", "")) == "torch.bfloat16" else tensor
    )
    return {"x": array}, f"the array of {what}"


def _pick(arrays: Arrays, keys: Sequence[str], where: str, what: str) -> Any:
    """The array at the first of the keys, or the only other matrix."""
    found = _first(arrays, keys)
    if found is not None:
        return found
    others = [a for key, a in arrays.items() if np.ndim(a) == 2 and key not in OTHER_KEYS]
    if len(others) == 1:
        return others[0]
    has = (
        ", ".join(f"{key} {_shape(array)}" for key, array in list(arrays.items())[:6]) or "nothing"
    )
    raise RequestError(f"{where} has {has}: call the array of {what} {' or '.join(keys[:2])}")


def _first(arrays: Arrays, keys: Sequence[str]) -> Any:
    """The array at the first key that exists, or None."""
    return next((arrays[key] for key in keys if key in arrays), None)


def _shape(array: Any) -> str:
    return " x ".join(map(str, np.shape(array))) or "a single number"


def _matrix(array: Any, where: str) -> Any:
    """A numeric matrix, in the byte order of this machine."""
    if np.ndim(array) != 2 or array.shape[1] == 0:
        raise RequestError(f"{where} has an array of {_shape(array)}, not rows of features (N x D)")
    if array.dtype.kind not in "fiu":
        raise RequestError(f"{where} has features of type {array.dtype}: numbers are needed")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _names(names: Any, rows: int, where: str) -> tuple[str, ...]:
    """Names of the rows as unique texts."""
    if names is None:
        return tuple(f"row {i}" for i in range(rows))
    texts = tuple(str(name) for name in np.asarray(names).tolist())
    twice = [name for name, count in Counter(texts).items() if count > 1]
    if twice:
        raise RequestError(f"{where} has rows of the same name: {listed(twice, 3)}")
    return texts


def _texts_in(arrays: Arrays, where: str) -> ClassTextTable:
    """The class texts in a file."""
    features = _matrix(_pick(arrays, (*TEXT_KEYS, "x"), where, "class texts (C, D)"), where)
    names = _first(
        arrays, (*CLASS_KEYS, *(() if _first(arrays, TEXT_KEYS) is not None else NAME_KEYS))
    )
    if names is not None and len(names) != len(features):
        raise RequestError(f"{where} has {len(features)} class texts and {len(names)} names")
    known = None if names is None else tuple(normal(str(name)) for name in names.tolist())
    nouns = arrays.get("negative_text")
    negatives = None if nouns is None else _matrix(nouns, where)
    return ClassTextTable(
        where, features, known, _scale(arrays.get("logit_scale"), where), negatives
    )


def _scale(scale: Any, where: str) -> float | None:
    """The factor on cosine similarities; None: it is not known."""
    if scale is None:
        return None
    if np.size(scale) != 1 or not 0 < float(np.ravel(scale)[0]) < np.inf:
        raise RequestError(f"{where} has a logit_scale that is not one positive number")
    return float(np.ravel(scale)[0])
