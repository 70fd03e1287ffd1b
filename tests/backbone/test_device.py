"""Precision of training, by what a GPU can do; there is none here, so its answers are faked."""

import pytest
import torch

from anyclass.backbone.device import training_dtype


@pytest.mark.parametrize(
    ("capability", "native"),
    [((7, 0), False), ((7, 5), False), ((8, 0), True), ((8, 9), True), ((9, 0), True)],
)
def test_training_dtype__on_gpus(
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
    assert training_dtype(gpu, "auto") == (torch.bfloat16 if native else torch.float32)
    assert asked_of == [gpu], "several GPUs may differ"
    assert training_dtype(gpu, "bf16") == torch.bfloat16
    assert training_dtype(gpu, "fp16") == torch.float16
    assert training_dtype(gpu, "float32") == torch.float32


def test_training_dtype__on_amd_and_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("cpu", "mps"):
        asked = ("auto", "float32", "bf16", "fp16")
        found = [training_dtype(torch.device(kind), precision) for precision in asked]
        assert found == [torch.float32, torch.float32, torch.bfloat16, torch.float16]
    monkeypatch.setattr(torch.version, "hip", "6.0")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert training_dtype(torch.device("cuda"), "auto") == torch.bfloat16
    assert training_dtype(torch.device("cuda"), "float32") == torch.float32
