"""Files of tensors in the safetensors format, written atomically; the library reads them.

The library's own writer (0.8) makes a file beside the path and renames it. Where the process is
killed meanwhile, that file stays for ever, as nothing says whose it is. It also orders the metadata
at random. Format: https://github.com/huggingface/safetensors#format
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from anyclass.files.atomic import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Data types and their names in the format, in the order in which their tensors are stored."""


def write_tensors(
    path: Path,
    tensors: Mapping[str, "Tensor | np.ndarray"],
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write tensors or arrays of any device and layout; the same content gives the same bytes.

    Args:
        path: the file.
        tensors: tensors by name.
        metadata: texts by name.

    Raises:
        StorageError: the disk is full or the folder cannot be written to.
    """
    places = list(DTYPES)
    order = sorted(tensors, key=lambda name: (places.index(_dtype(tensors[name])), name))
    size = sum(_size(tensor) for tensor in tensors.values())
    header = json.dumps(
        _header(tensors, order, metadata), ensure_ascii=False, separators=(",", ":")
    )
    text = header.encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with atomic_write(path, 8 + len(text) + size) as draft, draft.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            file.write(_raw(tensors[name]))


def _header(
    tensors: Mapping[str, "Tensor | np.ndarray"], order: Sequence[str], metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Data type, shape and place of each tensor, in the order of their places."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    begin = 0
    for name in order:
        tensor = tensors[name]
        end = begin + _size(tensor)
        header[name] = {
            "dtype": DTYPES[_dtype(tensor)],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    return header


def _dtype(tensor: "Tensor | np.ndarray") -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _size(tensor: "Tensor | np.ndarray") -> int:
    """Number of bytes."""
    return tensor.dtype.itemsize * math.prod(tensor.shape)


def _raw(tensor: "Tensor | np.ndarray") -> memoryview:
    """The bytes of a tensor, row by row; a copy only where they are not stored so."""
    if isinstance(tensor, np.ndarray):
        return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
    import torch

    rows = tensor.detach().cpu().contiguous()
    flat = rows.as_strided((rows.numel(),), (1,))  # axes of one element have any stride
    return flat.view(torch.uint8).numpy().data
