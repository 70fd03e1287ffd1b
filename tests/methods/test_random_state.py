"""A fit depends on its seed alone and leaves the global random state as it is."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.features.store import FeatureStore
from anyclass.methods import METHODS
from anyclass.methods.few_shot import FewShot
from anyclass.methods.gcd_common import MlpShape
from anyclass.methods.ship_vae import Vae
from anyclass.report.words import METRICS, SHARES
from anyclass.training.tuning import Tuning
from anyclass.training.two_views import TwoViewTuning

SHOTS = FewShot(views=1)
HEAD = MlpShape(mlp_width=16, h_width=8)
TUNING = Tuning("head", steps=1, batch_size=4, views=1)
TWO_VIEWS = TwoViewTuning("head", epochs=1, batch_size=8, views=2)

SHORT: dict[str, dict[str, Any]] = {
    "clip-adapter": {"data": SHOTS, "epochs": 1},
    "cocoop": {"data": SHOTS, "epochs": 1},
    "coop": {"data": SHOTS, "epochs": 1},
    "flyp": {"tuning": TUNING},
    "gcd": {"tuning": TWO_VIEWS, "head": HEAD, "restarts": 2},
    "get": {"tuning": TWO_VIEWS, "head": HEAD, "tes_epochs": 1},
    "latteclip": {"tuning": TUNING},
    "reclip": {"tune": "tail", "epochs": 1, "ensemble": False},
    "simgcd": {"tuning": TWO_VIEWS, "head": HEAD},
    "ship": {"generator": Vae(epochs=1), "then": METHODS["tip-adapter"](data=SHOTS, epochs=1)},
    "tip-adapter": {"data": SHOTS, "epochs": 1},
}
"""Hyper-parameters of a short fit; other methods are fast by default."""


COUNTS = ("done", "total", "step", "epoch")
"""Numbers in the log that are no metrics."""


def global_states() -> list[bytes]:
    """States of NumPy and torch; that of `random` changes with each check of types by beartype."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 (the state under test)
    return [repr(numpy_state[2:]).encode() + numpy_state[1].tobytes(), torch_state()]


def torch_state() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


def set_global_seeds(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the state under test)
    torch.manual_seed(seed)


@pytest.mark.parametrize("name", METHODS)
def test_fit__is_independent_of_the_global_random_state(
    name: str, clip: Backbone, dataset: ImageDataset, half_known: ImageDataset
) -> None:
    method = METHODS[name](**SHORT.get(name, {}))
    labels = half_known.labels
    images = half_known if method.info.discovers else replace(dataset, labels=labels)
    predictions = []
    metrics: set[str] = set()

    def log(**row: object) -> None:
        metrics.update(key for key, value in row.items() if isinstance(value, int | float))

    for seed in (1, 2):
        set_global_seeds(seed)
        before = global_states()
        classifier: Classifier = method.fit(FeatureStore(clip, images), log, seed=3)
        assert global_states() == before, "a fit changed the global random state"
        predictions.append(classifier.predict_proba(images).tobytes())
    assert predictions[0] == predictions[1]
    metrics.update(classifier.record.metrics)
    in_words = {*METRICS, *SHARES}
    assert metrics <= in_words | set(COUNTS), "the report would show the key of a metric"
