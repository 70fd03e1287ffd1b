"""Training in fp16 with scaled losses, for every method that trains an encoder."""

from typing import Any

import numpy as np
import pytest

from anyclass.backbone import Backbone
from anyclass.data import ImageDataset
from anyclass.features.store import FeatureStore
from anyclass.methods.reclip import Reclip
from anyclass.training.tuning import Tuning
from tests.methods.test_processes import METHODS, descend, weights

NAMES = ("latteclip all, in parts", "flyp tail", "simgcd", "get", "gcd")
TRAINED: dict[str, Any] = {name: METHODS[name] for name in NAMES} | {
    "reclip": Reclip(tune="tail", neighbours=3, batch_size=6, epochs=3)
}


@pytest.mark.parametrize("name", TRAINED)
def test_fit__in_fp16_moves_as_in_float32(
    name: str,
    clip: Backbone,
    dataset: ImageDataset,
    half_known: ImageDataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ReCLIP's gradients are so large that it leaves out three of six steps."""
    monkeypatch.setattr(Tuning, "schedule", descend)
    how = TRAINED[name]
    images = half_known if how.info.discovers else dataset
    start = clip.model.state_dict()

    def fit(precision: Any) -> tuple[np.ndarray, list[float]]:
        lines: list[dict[str, Any]] = []
        given = clip.copy()
        given.precision = precision
        fitted = weights(how.fit(FeatureStore(given, images), lambda **n: lines.append(n)), clip)
        moves = [(fitted[key] - start[key].numpy()).ravel() for key in fitted if key in start]
        scales = [line["loss_scale"] for line in lines if "loss_scale" in line]
        return np.concatenate(moves), scales

    (exact, none), (found, scales) = fit("float32"), fit("fp16")
    assert none == []
    assert scales[-1] == (2**13 if name == "reclip" else 2**16)
    if name == "reclip":
        found *= np.linalg.norm(exact) / np.linalg.norm(found)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < (0.1 if name == "reclip" else 0.01)
