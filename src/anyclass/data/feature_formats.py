"""Files of image features: npy, npz, Parquet and safetensors.

    npy           the features alone, memory-mapped; names and labels in FILE.names.csv beside it
    npz           arrays x, extra, names, labels, class_text, class_names, negative_text,
                logit_scale
    parquet       columns file_name, label, features, extra; a row per image; or a folder of such
                  files that `anyclass embed --on ray` wrote
    safetensors   the numeric arrays of npz; names, labels and class_names as JSON in its metadata

Arrays by name in, arrays by name out; `feature_tables.py` gives them a meaning.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from anyclass.errors import RequestError
from anyclass.files import atomic_write, csv_cell, csv_text, write_tensors

Arrays = dict[str, Any]
"""Name -> numpy array; texts are arrays of `str`."""

ENDINGS = (".npy", ".npz", ".parquet", ".safetensors")
"""Endings of files of features."""

NAME_COLUMNS = ("file_name", "image", "image_path", "path", "id", "name", "names")
"""Columns of a Parquet table that may hold the names of its rows; the first that exists does."""

LABEL_COLUMNS = ("label", "labels", "y")
"""Columns of a Parquet table that may hold labels."""

TEXTS = ("names", "labels", "class_names")
"""Arrays of texts."""


def read_arrays(path: Path) -> Arrays:
    """Read a file of features. Nothing in it can run code: pickled objects are refused.

    Raises:
        RequestError: it is missing, damaged or of another format.
    """
    readers = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".parquet": _read_parquet,
        ".safetensors": _read_safetensors,
    }
    reader = _read_parts if path.is_dir() else readers.get(path.suffix.lower())
    if reader is None:
        raise RequestError(f"{path} is no file of features: its name must end in {_endings()}")
    if not path.exists():
        raise RequestError(f"{path} cannot be read: there is no such file")
    from pyarrow.lib import ArrowException
    from safetensors import SafetensorError

    damaged = (ValueError, TypeError, KeyError, EOFError, BadZipFile, ArrowException)
    try:
        return reader(path)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from error
    except (*damaged, SafetensorError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"{path} is damaged or of another format: {reason:.160}") from error


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> list[Path]:
    """Write a file of features, atomically; returns the files that were written.

    npy and Parquet hold only what belongs to rows: texts of classes and nouns are left out.

    Raises:
        RequestError: the ending is none of `ENDINGS`, or npy is given further features.
    """
    match path.suffix:
        case ".npy":
            return _write_npy(path, arrays)
        case ".npz":
            with atomic_write(path) as draft, draft.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
        case ".parquet":
            _write_parquet(path, arrays)
        case ".safetensors":
            _write_safetensors(path, arrays)
        case _:
            raise RequestError(f"--out {path}: the file name must end in {_endings()}")
    return [path]


def names_table(path: Path) -> Path:
    """The table of names and labels beside an npy file."""
    return path.with_suffix(".names.csv")


def _endings() -> str:
    return f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"


def _read_npy(path: Path) -> Arrays:
    """A memory-mapped array: copy-on-write, so that torch takes it without a copy."""
    array = np.load(path, mmap_mode="c", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("it is an npz archive by another name")
    table = names_table(path)
    return {"x": array, **(_read_names(table) if table.is_file() else {})}


def _read_names(table: Path) -> Arrays:
    """Names and labels beside an npy file."""
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "file_name" not in rows[0]:
        raise ValueError(f"{table.name} beside it has no column file_name")
    found = {"names": np.array([csv_text(row["file_name"] or "") for row in rows])}
    if "label" in rows[0]:
        found["labels"] = np.array([csv_text(row["label"] or "") for row in rows])
    return found


def _write_npy(path: Path, arrays: Mapping[str, Any]) -> list[Path]:
    if "extra" in arrays:
        raise RequestError(f"--out {path}: npy holds one array; for --extra use {ENDINGS[1]}")
    with atomic_write(path) as draft, draft.open("wb") as file:
        np.save(file, arrays["x"], allow_pickle=False)
    table = names_table(path)
    labels = arrays.get("labels")
    with atomic_write(table) as draft:
        with draft.open("w", encoding="utf-8", errors="backslashreplace", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(["file_name", "label"])
            for i, name in enumerate(arrays["names"].tolist()):
                writer.writerow([csv_cell(name), csv_cell(labels[i]) if labels is not None else ""])
    return [path, table]


def _read_npz(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as archive:
        if isinstance(archive, np.ndarray):
            raise ValueError("it is an npy file by another name")
        return {name: archive[name] for name in archive.files}


def _read_safetensors(path: Path) -> Arrays:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    tensors = load_file(path)
    arrays: Arrays = {name: _numpy(tensor) for name, tensor in tensors.items()}
    for name in TEXTS:
        if name in metadata:
            arrays[name] = np.array([str(text) for text in json.loads(metadata[name])])
    return arrays


def _numpy(tensor: Any) -> Any:
    """A tensor as an array; bfloat16, which numpy lacks, as float32."""
    import torch

    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _write_safetensors(path: Path, arrays: Mapping[str, Any]) -> None:
    texts = {name: arrays[name].tolist() for name in TEXTS if name in arrays}
    metadata = {name: json.dumps(some, ensure_ascii=False) for name, some in texts.items()}
    numbers = {name: np.asarray(array) for name, array in arrays.items() if name not in TEXTS}
    write_tensors(path, numbers, metadata)


def _read_parts(folder: Path) -> Arrays:
    """The parts that `anyclass embed --on ray` wrote, without the images that were unreadable."""
    import pyarrow as pa
    from pyarrow import compute, parquet

    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        raise ValueError("a folder without part-*.parquet, which `anyclass embed --on ray` writes")
    manifest = json.loads((folder / "_manifest.json").read_text("utf-8"))
    if manifest.get("result") is None:
        raise ValueError("parts are missing: run the same `anyclass embed` again")
    table = pa.concat_tables([parquet.read_table(part) for part in parts])
    kept = table.filter(compute.field("status") == "ok")
    return _of_table(kept.drop_columns(["status", "reason"]).combine_chunks())


def _read_parquet(path: Path) -> Arrays:
    """Names, labels, and vectors: one column of lists, or all other numeric columns."""
    from pyarrow import parquet

    return _of_table(parquet.read_table(path))


def _of_table(table: Any) -> Arrays:
    """Arrays of the columns of a table."""
    import pyarrow as pa

    arrays: Arrays = {}
    for name, known in (("names", NAME_COLUMNS), ("labels", LABEL_COLUMNS)):
        found = [column for column in known if column in table.column_names]
        if found and not _is_list(table.schema.field(found[0]).type):
            arrays[name] = _column_of_texts(table[found[0]])
            table = table.drop_columns(found[:1])
    numeric = []
    for field in table.schema:
        if _is_list(field.type):
            arrays[field.name] = _vectors(table[field.name], field.name)
        elif pa.types.is_floating(field.type) or pa.types.is_integer(field.type):
            numeric.append(table[field.name].to_numpy())
    if numeric and not any(_is_list(field.type) for field in table.schema):
        arrays["x"] = np.stack(numeric, axis=1)
    return arrays


def _column_of_texts(column: Any) -> Any:
    """A column as texts, nulls as empty ones; integers, which may be class indices, as they are."""
    import pyarrow as pa

    if pa.types.is_integer(column.type) and column.null_count == 0:
        return column.to_numpy()
    return np.array(["" if cell is None else str(cell) for cell in column.to_pylist()])


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    )


def _vectors(column: Any, name: str) -> Any:
    """A column of lists of equal length as a matrix."""
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    if column.null_count or any(chunk.flatten().null_count for chunk in chunks):
        raise ValueError(f"column {name!r} has missing values")
    parts = []
    for chunk in chunks:
        values = chunk.flatten().to_numpy(zero_copy_only=False)
        lengths = {values.size // len(chunk)} if values.size % len(chunk) == 0 else {-1}
        if hasattr(chunk, "offsets"):
            lengths |= set(np.unique(np.diff(chunk.offsets.to_numpy())).tolist())
        if len(lengths) > 1 or -1 in lengths:
            raise ValueError(f"the vectors of column {name!r} differ in length")
        parts.append(values.reshape(len(chunk), -1))
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def _write_parquet(path: Path, arrays: Mapping[str, Any]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {"file_name": pa.array(arrays["names"].tolist(), pa.string())}
    if "labels" in arrays:
        labels = [label or None for label in arrays["labels"].tolist()]
        columns["label"] = pa.array(labels, pa.string())
    for name, source in (("features", "x"), ("extra", "extra")):
        if source in arrays:
            matrix = np.ascontiguousarray(arrays[source])
            flat = pa.array(matrix.reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])
    with atomic_write(path) as draft, draft.open("wb") as file:
        parquet.write_table(pa.table(columns), file)
