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
    """V100, T4, A100, L4 and H100, whatever was asked for the CPU."""
    asked_of = []

    def answer(device: torch.device) -> tuple[int, int]:
        asked_of.append(device)
        return capability

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", answer)
    for asked in (False, True):
        assert trains_in_bf16(torch.device("cuda:1"), asked) is native
    assert asked_of == [torch.device("cuda:1")] * 2, "several GPUs may differ"


def test_trains_in_bf16__on_amd_and_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [trains_in_bf16(torch.device("cpu"), asked) for asked in (False, True)] == [False, True]
    assert not trains_in_bf16(torch.device("mps"), False)
    monkeypatch.setattr(torch.version, "hip", "6.0")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert trains_in_bf16(torch.device("cuda"), False)
