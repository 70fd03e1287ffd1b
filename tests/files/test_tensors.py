"""Files of tensors: what the library writes, byte for byte, and nothing beside them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from anyclass.files import write_tensors
from anyclass.files.tensors import DTYPES

ABOUT = {key: f'{key} ä\n\u2028\x00"' for key in "fedcba"}


def every_kind() -> dict[str, torch.Tensor]:
    """A tensor of each data type, in no order, with shapes of 0 to 3 axes."""
    shapes = [(), (5,), (0, 3), (2, 3, 4)]
    types = [getattr(torch, name) for name in sorted(DTYPES)]
    found = {}
    for i, dtype in enumerate(types):
        shape = shapes[i % len(shapes)]
        numbers = torch.arange(int(np.prod(shape))).reshape(shape) % 2
        found[f"{'ba'[i % 2]} {i} é"] = numbers.to(dtype)
    return found


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}])
def test_write_tensors__is_what_the_library_writes(
    metadata: dict[str, str], tmp_path: Path
) -> None:
    tensors = every_kind()
    write_tensors(tmp_path / "x.safetensors", tensors, metadata)
    assert (tmp_path / "x.safetensors").read_bytes() == save(tensors, metadata or None)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_write_tensors__sorts_the_metadata(tmp_path: Path) -> None:
    """The library orders it anew in each process."""
    for keys in ("fedcba", "abcdef"):
        about = {key: ABOUT[key] for key in keys}
        write_tensors(tmp_path / keys, {"x": np.arange(5.0)}, about)
    assert (tmp_path / "fedcba").read_bytes() == (tmp_path / "abcdef").read_bytes()
    with safe_open(tmp_path / "abcdef", "np") as file:
        assert file.metadata() == ABOUT
        assert file.get_tensor("x").tolist() == [0, 1, 2, 3, 4]


def test_write_tensors__takes_any_layout_arrays_and_parameters(tmp_path: Path) -> None:
    x = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "turned": x.T,
        "part": x[1:, ::2],
        "parameter": torch.nn.Parameter(x),
        "one": x[:1, 2:3].as_strided((1,), (24,)),
        "array": np.asarray(x)[::2].T,
    }
    write_tensors(tmp_path / "x", tensors)
    found = load_file(tmp_path / "x")
    assert torch.equal(found["turned"], x.T)
    assert torch.equal(found["part"], x[1:, ::2])
    assert torch.equal(found["parameter"], x)
    assert found["one"].tolist() == [2]
    assert torch.equal(found["array"], x[::2].T)


def test_write_tensors__leaves_the_old_file_and_nothing_else_at_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_tensors(path, {"x": torch.ones(3)})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="complex64"):
        write_tensors(path, {"x": torch.ones(3, dtype=torch.complex64)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
