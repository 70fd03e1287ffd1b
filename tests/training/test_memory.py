"""A step that does not fit into memory ends before the system ends the process."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from anyclass.errors import TrainingError
from anyclass.training import memory
from anyclass.training.loop import optimise
from anyclass.training.memory import SHARE, available_memory, within_memory
from tests.training.test_loop import SCHEDULE, Noise, loss_of, parameters, quiet

ROWS, DEPTH, WIDTH = 30, 20, 50
INPUT, HIDDEN = 4 * ROWS * DEPTH, 4 * ROWS * WIDTH


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(DEPTH, WIDTH, bias=False), nn.Sigmoid())


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    model.zero_grad()
    model(x).sum().backward()
    found = next(model.parameters()).grad
    assert found is not None
    return found.clone()


def test_within_memory__counts_each_tensor_that_is_kept_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The input of the linear layer and the output of the sigmoid, the latter used twice."""
    model, x = layers(), torch.rand(ROWS, DEPTH)
    kept = INPUT + HIDDEN
    monkeypatch.setattr(memory, "available_memory", lambda: kept / SHARE)
    with within_memory():
        y = model(x)
        y.square().sum()
    monkeypatch.setattr(memory, "available_memory", lambda: (kept - 4) / SHARE)
    with pytest.raises(MemoryError), within_memory():
        model(x)


def test_within_memory__changes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = layers(), torch.rand(ROWS, DEPTH)
    expected = gradient(model, x)
    monkeypatch.setattr(memory, "available_memory", lambda: 2**40)
    with within_memory():
        assert torch.equal(gradient(model, x), expected)


def test_optimise__says_before_the_first_step_that_it_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = parameters()
    monkeypatch.setattr(memory, "available_memory", lambda: 8)
    with pytest.raises(TrainingError, match=r"step 1 .* --batch-size \(6 rows"):
        optimise(loss_of(given), given, Noise(5), SCHEDULE, quiet)
    assert torch.equal(given["matrix"], parameters()["matrix"])


@pytest.mark.parametrize(
    ("meminfo", "limit", "used", "expected"),
    [
        ("MemTotal: 9 kB\nMemAvailable: 5 kB\n", "max", "1", 5 * 1024),
        ("MemTotal: 9 kB\nMemAvailable: 5 kB\n", "4096", "1024", 3072),
        ("MemTotal: 9 kB\nMemAvailable: 5 kB\n", "409600", "1024", 5 * 1024),
        ("MemTotal: 9 kB\n", "4096", "1024", 3072),
        ("", "", "", None),
    ],
)
def test_available_memory__is_that_of_the_machine_or_container(
    meminfo: str,
    limit: str,
    used: str,
    expected: int | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "meminfo").write_text(meminfo)
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(used)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert available_memory() == expected
