"""Precision of training, by what a GPU can do; there is none here, so its answers are faked."""

import pytest
import torch

from anyclass.backbone.device import trains_in_bf16


@pytest.mark.parametrize(
    ("capability", "native"),
    [((7, 0), False), ((7, 5), False), ((8, 0), True), ((8, 9), True), ((9, 0), True)],
)
def test_trains_in_bf16__on_a_gpu_that_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], native: bool
) -> None:
    """V100, T4, A100, L4 and H100; a precision that was asked for holds on any."""
    asked_of = []

    def answer(device: torch.device) -> tuple[int, int]:
        asked_of.append(device)
        return capability

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", answer)
    gpu = torch.device("cuda:1")
    assert trains_in_bf16(gpu, "auto") is native
    assert asked_of == [gpu], "several GPUs may differ"
    assert trains_in_bf16(gpu, "bf16")
    assert not trains_in_bf16(gpu, "float32")


def test_trains_in_bf16__on_amd_and_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("cpu", "mps"):
        asked = ("auto", "float32", "bf16")
        found = [trains_in_bf16(torch.device(kind), precision) for precision in asked]
        assert found == [False, False, True]
    monkeypatch.setattr(torch.version, "hip", "6.0")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert trains_in_bf16(torch.device("cuda"), "auto")
    assert not trains_in_bf16(torch.device("cuda"), "float32")
